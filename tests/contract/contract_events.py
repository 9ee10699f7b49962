"""Change batches for the contract suite: a small orders table, written as Debezium's decoder would hand it over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa

from sinks.base import Batch, OffsetRange
from sources.changes import (
    CDC_FIELDS,
    CDC_OFFSET,
    CDC_OP,
    CDC_TS,
    CDC_UNCHANGED,
    TRUNCATE,
    UNCHANGED_FIELD,
    ChangeBatch,
    TableSchema,
    TopicPartition,
)

TOPIC = "cdc.public.orders"
OTHER_TOPIC = "cdc.public.invoices"
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)

ORDERS = TableSchema(
    pa.schema(
        [
            pa.field("id", pa.int64(), nullable=False),
            pa.field("name", pa.string()),
            pa.field("amount", pa.decimal128(12, 2)),
            pa.field("at", pa.timestamp("us", tz="UTC")),
        ]
    ),
    ("id",),
    1,
)
ORDERS_EMPTIED = TableSchema(ORDERS.columns, (), 1)
"""The schema of truncates, whose records have no key."""
ORDERS_WITH_NOTE = TableSchema(ORDERS.columns.append(pa.field("note", pa.string())), ORDERS.key, 2)
ORDERS_WITHOUT_AMOUNT = TableSchema(ORDERS.columns.remove(2), ORDERS.key, 3)
ORDERS_WITH_TEXT_ID = TableSchema(ORDERS.columns.set(0, pa.field("id", pa.string())), ORDERS.key, 4)
INVOICES = TableSchema(
    pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("payer", pa.string())]), ("id",), 7
)
LINES = TableSchema(
    pa.schema(
        [
            pa.field("region", pa.string(), nullable=False),
            pa.field("line", pa.int32(), nullable=False),
            pa.field("name", pa.string()),
        ]
    ),
    ("region", "line"),
    9,
)

Change = tuple[str, Mapping[str, Any]]
"""An operation (`c r u d t`) and the row's values; columns that are left out are null."""


def order(op: str, key: int, name: str | None = None, **more: Any) -> Change:
    """A change of an order whose other columns follow from its key; a delete has its key alone."""
    if op == "d":
        return "d", {"id": key}
    amount, at = Decimal(key * 100 + 1) / 100, EPOCH + timedelta(seconds=key)
    return op, {"id": key, "name": name or f"order {key}", "amount": amount, "at": at, **more}


def unsent(op: str, key: int, *columns: str, **more: Any) -> Change:
    """A change of an order of which PostgreSQL didn't send some columns, as they are as before (TOAST)."""
    _, row = order(op, key, **more)
    return op, {**{name: value for name, value in row.items() if name not in columns}, CDC_UNCHANGED: list(columns)}


def changes(
    rows: Sequence[Change],
    first: int = 0,
    *,
    partition: int = 0,
    topic: str = TOPIC,
    schema: TableSchema = ORDERS,
    offsets: Sequence[int] | None = None,
    end: int | None = None,
) -> ChangeBatch:
    """One partition's changes, at consecutive offsets from `first` on unless `offsets` says where they are."""
    at = list(offsets) if offsets is not None else list(range(first, first + len(rows)))
    fields = [f.with_nullable(True) for f in schema.columns] + [f for f in CDC_FIELDS if f.name in _OF_ROWS]
    fields += [UNCHANGED_FIELD] * any(CDC_UNCHANGED in row for _, row in rows)
    values = [
        {**row, CDC_OFFSET: offset, CDC_OP: op, CDC_TS: EPOCH + timedelta(milliseconds=offset)}
        for offset, (op, row) in zip(at, rows, strict=True)
    ]
    next_offset = end if end is not None else (at[-1] + 1 if at else first)
    return ChangeBatch(topic, partition, first, next_offset, schema, pa.Table.from_pylist(values, pa.schema(fields)))


_OF_ROWS = (CDC_OFFSET, CDC_OP, CDC_TS)


def truncate(offset: int, *, partition: int = 0) -> ChangeBatch:
    """The source table is emptied."""
    return changes([("t", {})], offset, partition=partition, schema=ORDERS_EMPTIED)


def batch(*parts: ChangeBatch, counts: Mapping[str, int] | None = None) -> Batch:
    """A batch over exactly the offsets of its parts, which are in offset order within each partition."""
    ranges: dict[TopicPartition, OffsetRange] = {}
    for part in parts:
        first = ranges[part.tp].first if part.tp in ranges else part.first
        ranges[part.tp] = OffsetRange(first, part.next)
    return Batch(ranges, [part for part in parts if part.rows.num_rows], counts or {})


def empty_batch(first: int, end: int, *, partition: int = 0, topic: str = TOPIC) -> Batch:
    """A batch over offsets that hold no change (tombstones, aborted transactions)."""
    return Batch({TopicPartition(topic, partition): OffsetRange(first, end)}, [])


def log_rows(*parts: ChangeBatch) -> list[dict[str, Any]]:
    """What an append table holds after `parts`, in canonical order."""
    return canonical([row for part in parts for row in part.changelog().to_pylist()])


def folded(*parts: ChangeBatch) -> list[dict[str, Any]]:
    """What an upsert table holds after `parts` in this order, folded one record at a time."""
    state: dict[tuple[Any, ...], dict[str, Any]] = {}
    for part in parts:
        for row in part.changelog().to_pylist():
            key = tuple(row[name] for name in part.schema.key)
            before = state.pop(key, None)
            for name in row.pop(CDC_UNCHANGED, None) or ():
                assert before is not None, "nobody knows the value"
                row[name] = before[name]
            if row[CDC_OP] == TRUNCATE:
                state.clear()
                continue
            if row[CDC_OP] != "d":
                state[key] = row
    return canonical(list(state.values()))


def canonical(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows comparable whatever order the reader gives: nulls left out, sorted by log position and key."""
    return sorted(
        ({name: row[name] for name in sorted(row) if row[name] is not None} for row in rows),
        key=lambda row: (row["_cdc_topic"], row["_cdc_partition"], row["_cdc_offset"], str(row.get("id"))),
    )
