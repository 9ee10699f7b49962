"""Checks of what becomes of a table when its source's schema changes, under each policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from contract_base import TP0, TP1, check, committed, expected, inserts, opened, write, write_until_acknowledged
from contract_events import (
    ORDERS,
    ORDERS_WITH_NOTE,
    ORDERS_WITH_TEXT_ID,
    ORDERS_WITHOUT_AMOUNT,
    TOPIC,
    Change,
    batch,
    changes,
    folded,
    order,
    unsent,
)
from contract_harness import SinkHarness

from config.errors import SchemaRefused, Unavailable, UnsupportedChange
from sinks.unchanged import without
from sources.changes import CDC_UNCHANGED, ChangeBatch, TableSchema

ONE_PARTITION = {TOPIC: 1}


def shape(schema_id: int | None, key: tuple[str, ...] = ("id",), **columns: pa.DataType) -> TableSchema:
    """A table with an `id` and these columns."""
    fields = [pa.field("id", columns.pop("id", pa.int64()), nullable=False)]
    fields += [pa.field(name, kind) for name, kind in columns.items()]
    return TableSchema(pa.schema(fields), key, schema_id)


def row(op: str, key: int, **values: Any) -> Change:
    return op, {"id": key, **values}


def kept_as(part: ChangeBatch, **names: str) -> ChangeBatch:
    """What a table has of a part whose columns it keeps under other names."""
    old = part.rows.column_names
    fields = [field.with_name(names.get(field.name, field.name)) for field in part.schema.columns]
    schema = replace(part.schema, columns=pa.schema(fields))
    return replace(part, schema=schema, rows=part.rows.rename_columns([names.get(name, name) for name in old]))


SMALL, LARGE, TEXT = (shape(n, size=kind) for n, kind in ((1, pa.int32()), (2, pa.int64()), (3, pa.string())))


@check()
def reordered_columns_are_no_change(harness: SinkHarness) -> None:
    turned = TableSchema(pa.schema(list(reversed(ORDERS.columns))), ORDERS.key, 2)
    parts = inserts(0, 2), changes([order("u", 0), order("c", 7)], 2, schema=turned)
    with closing(opened(harness, policies="stop")) as sink:
        sink.write(batch(parts[0]))
        sink.write(batch(parts[1]))
    assert harness.rows() == expected(harness, *parts)


@check()
def changed_type_stops_and_nothing_lands(harness: SinkHarness) -> None:
    part = inserts(0, 2)
    text = changes([("c", {"id": "three", "name": "x"})], 3, schema=ORDERS_WITH_TEXT_ID)
    with closing(opened(harness)) as sink:
        sink.write(batch(part))
        with pytest.raises(UnsupportedChange, match=rf"(?s)id.*{TOPIC}|{TOPIC}.*id"):
            sink.write(batch(inserts(2, 1), text))
    assert harness.rows() == expected(harness, part)
    assert committed(harness) == {TP0: 2}


@check()
def dropped_column_stops_even_after_a_restart(harness: SinkHarness) -> None:
    part = inserts(0, 2)
    shorter = changes([("c", {"id": 3, "name": "x"})], 2, schema=ORDERS_WITHOUT_AMOUNT)
    with closing(opened(harness)) as sink:
        sink.write(batch(part))
    with closing(opened(harness, policies={"drop": "stop"})) as sink, pytest.raises(UnsupportedChange, match="amount"):
        sink.write(batch(shorter))
    assert harness.rows() == expected(harness, part)
    assert committed(harness) == {TP0: 2}


@check()
def dropped_column_stays_and_late_records_still_fill_it(harness: SinkHarness) -> None:
    shorter = changes([("u", {"id": 0, "name": "x"}), ("c", {"id": 3, "name": "y"})], 2, schema=ORDERS_WITHOUT_AMOUNT)
    parts = inserts(0, 2), shorter, inserts(0, 3, partition=1)
    with closing(opened(harness)) as sink:
        sink.write(batch(*parts[:2]))
    with closing(opened(harness, policies={"drop": "stop"})) as sink:
        sink.write(batch(parts[2]))
    assert harness.rows() == expected(harness, *parts)


@check()
def renamed_column_keeps_both_names(harness: SinkHarness) -> None:
    named, titled = shape(1, name=pa.string()), shape(2, title=pa.string())
    parts = [
        changes([row("c", 1, name="a"), row("c", 2, name="b")], 0, schema=named),
        changes([row("u", 1, title="A"), row("c", 3, title="C")], 2, schema=titled),
        changes([row("c", 11, name="late")], 0, partition=1, schema=named),
    ]
    with closing(opened(harness, policies={"drop": "stop"})) as sink:
        sink.write(batch(*parts[:2]))
        sink.write(batch(parts[2]))
    assert harness.rows() == expected(harness, *parts)


@check()
def other_type_goes_beside_and_each_record_finds_its_column(harness: SinkHarness) -> None:
    """In the middle of a batch, from a partition that lags behind, after a restart, and back to the first type."""
    parts = [
        changes([row("c", 1, size=1), row("c", 2, size=2)], 0, schema=SMALL),
        changes([row("u", 1, size="one"), row("c", 3, size="three")], 2, schema=TEXT),
        changes([row("c", 11, size=11), row("u", 11, size=12)], 0, partition=1, schema=SMALL),
        changes([row("d", 2), row("u", 3, size="3")], 4, schema=TEXT),
        changes([row("u", 3, size=33)], 6, schema=replace(SMALL, id=4)),
    ]
    with closing(opened(harness, policies={"type": "lenient"})) as sink:
        sink.write(batch(*parts[:2]))
        sink.write(batch(parts[2]))
    with closing(opened(harness, policies="stop")) as sink:
        sink.write(batch(*parts[3:]))
    kept = [kept_as(part, size="size__string") if part.schema.id == TEXT.id else part for part in parts]
    assert harness.rows() == expected(harness, *kept)


@check()
def column_that_comes_back_with_another_type_loses_nothing(harness: SinkHarness) -> None:
    bare = shape(2, name=pa.string())
    full, again = shape(1, size=pa.int32(), name=pa.string()), shape(3, size=pa.string(), name=pa.string())
    parts = [
        changes([row("c", 1, size=1, name="a"), row("c", 2, size=2, name="b")], 0, schema=full),
        changes([row("u", 1, name="A")], 2, schema=bare),
        changes([row("c", 3, size="three", name="c")], 3, schema=again),
    ]
    with closing(opened(harness)) as sink:
        sink.write(batch(*parts[:2]))
        with pytest.raises(UnsupportedChange, match=r"size is int32 in the table and .*string in the records"):
            sink.write(batch(parts[2]))
    with closing(opened(harness, policies={"type": "lenient"})) as sink:
        sink.write(batch(parts[2]))
    assert harness.rows() == expected(harness, *parts[:2], kept_as(parts[2], size="size__string"))


@check()
def widened_column_widens_in_place_or_stops(harness: SinkHarness) -> None:
    parts = [
        changes([row("c", 1, size=1), row("c", 2, size=2)], 0, schema=SMALL),
        changes([row("u", 1, size=1 << 40), row("c", 3, size=3)], 2, schema=LARGE),
        changes([row("c", 11, size=11)], 0, partition=1, schema=SMALL),
        changes([row("u", 2, size=1 << 41), row("d", 3)], 4, schema=LARGE),
    ]
    with closing(opened(harness)) as sink:
        sink.write(batch(parts[0]))
        if not harness.widens:
            with pytest.raises(UnsupportedChange, match=r"size is int32 in the table and int64 .*size__int64"):
                sink.write(batch(parts[1]))
            assert sink.committed([TP0]) == {TP0: 2}
            return
        sink.write(batch(*parts[1:3]))
        sink.tidy()
    with closing(opened(harness, policies="stop")) as sink:
        sink.write(batch(parts[3]))
    assert harness.rows() == expected(harness, *parts)


@check()
def widened_column_may_be_kept_at_both_types(harness: SinkHarness) -> None:
    parts = [
        changes([row("c", 1, size=1), row("c", 2, size=2)], 0, schema=SMALL),
        changes([row("u", 1, size=1 << 40)], 2, schema=LARGE),
        changes([row("u", 2, size=22)], 3, schema=SMALL),
    ]
    with closing(opened(harness, policies="lenient")) as sink:
        sink.write(batch(*parts))
    assert harness.rows() == expected(harness, parts[0], kept_as(parts[1], size="size__int64"), parts[2])


@check()
def frozen_table_takes_what_fits_and_stops_at_what_does_not(harness: SinkHarness) -> None:
    wide = TableSchema(LARGE.columns.append(pa.field("note", pa.string())), LARGE.key, 2)
    fits = changes([row("u", 1, size=11, note="left out"), row("c", 2, size=2)], 1, schema=wide)
    start = changes([row("c", 1, size=1)], 0, schema=SMALL)
    with closing(opened(harness, policies="freeze")) as sink:
        sink.write(batch(start))
        sink.write(batch(fits))
        with pytest.raises(UnsupportedChange, match="size has a value that doesn't fit int32"):
            sink.write(batch(changes([row("c", 3, size=1 << 40)], 3, schema=wide)))
    as_before = changes([row("u", 1, size=11), row("c", 2, size=2)], 1, schema=SMALL)
    assert harness.rows() == expected(harness, start, as_before)
    assert committed(harness) == {TP0: 3}


@check()
def records_of_another_type_are_set_aside_and_the_rest_lands(harness: SinkHarness) -> None:
    parts = [
        changes([row("c", 1, size=1)], 0, schema=SMALL),
        changes([row("u", 1, size="one"), row("c", 2, size="two")], 1, schema=TEXT),
        changes([row("c", 11, size=11)], 0, partition=1, schema=SMALL),
    ]
    with closing(opened(harness, policies={"type": "quarantine"})) as sink:
        sink.write(batch(parts[0]))
        todo = batch(*parts[1:])
        with pytest.raises(
            SchemaRefused, match=rf"{TOPIC} partition 0 from offset 1, schema id 3: column size"
        ) as error:
            sink.write(todo)
        assert list(error.value.records) == [(TOPIC, 0, 1), (TOPIC, 0, 2)]
        assert harness.rows() == expected(harness, parts[0])
        sink.write(without(todo, error.value.records.keys()))
    assert harness.rows() == expected(harness, parts[0], parts[2])
    assert committed(harness) == {TP0: 3, TP1: 1}


@check()
def two_writers_meet_the_same_change(harness: SinkHarness) -> None:
    start = inserts(0, 1), inserts(0, 1, partition=1)
    noted = [
        changes([order("c", 500 + p, note="new"), order("u", p, note="x")], 1, partition=p, schema=ORDERS_WITH_NOTE)
        for p in (0, 1)
    ]
    with closing(opened(harness)) as sink, closing(opened(harness)) as other:
        sink.write(batch(*start))
        other.committed([TP0])
        with harness.around_next_commit(before=lambda: write(other, batch(noted[1]))):
            sink.write(batch(noted[0]))
        sink.tidy()
    assert harness.rows() == expected(harness, *start, *noted)
    assert committed(harness) == {TP0: 3, TP1: 3}


@check()
def writer_that_loses_to_another_change_of_the_schema_writes_by_the_winners(harness: SinkHarness) -> None:
    """The two add columns in another order, so files that were written for the loser's schema are wrong by now."""
    start = inserts(0, 1), inserts(0, 1, partition=1)
    text, number = pa.field("text", pa.string()), pa.field("number", pa.int64())
    one = TableSchema(pa.schema([*ORDERS.columns, text, number]), ORDERS.key, 2)
    two = TableSchema(pa.schema([*ORDERS.columns, number, text]), ORDERS.key, 3)
    mine = changes([order("u", 0, text="a", number=1)], 1, schema=one)
    theirs = changes([order("u", 1, text="b", number=2)], 1, partition=1, schema=two)
    with closing(opened(harness)) as sink, closing(opened(harness)) as other:
        sink.write(batch(*start))
        other.committed([TP0])
        with harness.around_next_commit(before=lambda: write(other, batch(theirs))):
            sink.write(batch(mine))
    assert harness.rows() == expected(harness, *start, mine, theirs)


@check()
def change_whose_answer_was_lost_is_made_once(harness: SinkHarness) -> None:
    def silence() -> None:
        raise Unavailable("no answer")

    parts = inserts(0, 1), changes([order("u", 0, note="x"), order("c", 3, note="y")], 1, schema=ORDERS_WITH_NOTE)
    with closing(opened(harness)) as sink:
        sink.write(batch(parts[0]))
        with harness.around_next_commit(after=silence):
            write_until_acknowledged(sink, batch(parts[1]))
    assert harness.rows() == expected(harness, *parts)
    assert committed(harness) == {TP0: 3}


@check("upsert")
def changed_key_stops_an_upsert_or_is_set_aside(harness: SinkHarness) -> None:
    parts = inserts(0, 2), changes([order("c", 7)], 2, schema=TableSchema(ORDERS.columns, ("id", "name"), 2))
    with closing(opened(harness)) as sink:
        sink.write(batch(parts[0]))
        with pytest.raises(UnsupportedChange, match=r"primary key is \(id, name\), but the table is written by \(id\)"):
            sink.write(batch(parts[1]))
    with closing(opened(harness, policies={"key": "quarantine"})) as sink:
        with pytest.raises(SchemaRefused) as error:
            sink.write(batch(parts[1]))
        sink.write(without(batch(parts[1]), error.value.records.keys()))
    assert harness.rows() == folded(parts[0])
    assert committed(harness) == {TP0: 3}


@check("append")
def changed_key_does_not_concern_a_change_log(harness: SinkHarness) -> None:
    by_both = TableSchema(ORDERS.columns, ("id", "name"), 2)
    parts = inserts(0, 2), changes([order("c", 7), ("d", {"id": 7, "name": "order 7"})], 2, schema=by_both)
    with closing(opened(harness)) as sink:
        sink.write(batch(parts[0]))
        sink.write(batch(parts[1]))
    assert harness.rows() == expected(harness, *parts)


@check("upsert")
def widened_key_still_finds_its_rows_in_a_topic_of_one_partition(harness: SinkHarness) -> None:
    small, large = shape(1, id=pa.int32(), name=pa.string()), shape(2, id=pa.int64(), name=pa.string())
    parts = [
        changes([row("c", 1, name="a"), row("c", 2, name="b"), row("c", 3, name="c")], 0, schema=small),
        changes([row("u", 1, name="A"), row("d", 2), row("c", 1 << 40, name="far")], 3, schema=large),
        changes([row("u", 3, name="C"), row("d", 1 << 40)], 6, schema=large),
    ]
    with closing(opened(harness)) as sink:
        sink.write(batch(parts[0], counts=ONE_PARTITION))
        if not harness.widens:
            with pytest.raises(UnsupportedChange, match="id is int32 in the table and int64"):
                sink.write(batch(parts[1], counts=ONE_PARTITION))
            return
        sink.write(batch(parts[1], counts=ONE_PARTITION))
        sink.tidy()
    with closing(opened(harness)) as sink:
        sink.write(batch(parts[2], counts=ONE_PARTITION))
    assert harness.rows() == folded(*parts)


@check("upsert")
def widened_key_stops_where_partitions_could_mix(harness: SinkHarness) -> None:
    small, large = shape(1, id=pa.int32(), name=pa.string()), shape(2, id=pa.int64(), name=pa.string())
    with closing(opened(harness)) as sink:
        sink.write(batch(changes([row("c", 1, name="a")], 0, schema=small), counts={TOPIC: 2}))
        with pytest.raises(UnsupportedChange, match=r"id is int32 in the table and int64 .*new snapshot"):
            sink.write(batch(changes([row("c", 2, name="b")], 1, schema=large), counts={TOPIC: 2}))
    assert committed(harness) == {TP0: 1}


@check("upsert")
def value_that_was_not_sent_stays_at_whichever_type_it_has(harness: SinkHarness) -> None:
    """A TOASTed value from before its column changed its type, which PostgreSQL doesn't send again."""
    texts = shape(1, body=pa.string(), n=pa.int32())
    raw = shape(2, body=pa.binary(), n=pa.int32())
    left = ("u", {"id": 1, "n": 11, CDC_UNCHANGED: ["body"]}), ("u", {"id": 2, "n": 22, CDC_UNCHANGED: ["body"]})
    parts = [
        changes([row("c", 1, body="one", n=1), row("c", 2, body="two", n=2), row("c", 3, n=3)], 0, schema=texts),
        changes([row("u", 2, body=b"TWO", n=2)], 3, schema=raw),
        changes(left, 4, schema=raw),
    ]
    with closing(opened(harness, policies={"type": "lenient"})) as sink:
        for part in parts:
            sink.write(batch(part))
    found = {r["id"]: {k: v for k, v in r.items() if not k.startswith("_cdc")} for r in harness.rows()}
    assert found == {
        1: {"id": 1, "n": 11, "body": "one"},
        2: {"id": 2, "n": 22, "body__binary": b"TWO"},
        3: {"id": 3, "n": 3},
    }


@check("upsert")
def value_that_was_not_sent_is_found_where_it_was_before_a_widening(harness: SinkHarness) -> None:
    small, large = shape(1, body=pa.decimal128(6, 2), n=pa.int32()), shape(2, body=pa.decimal128(30, 2), n=pa.int64())
    parts = [
        changes([row("c", key, body=Decimal(key), n=key) for key in (1, 2)], 0, schema=small),
        changes(
            [("u", {"id": 1, "n": 5, CDC_UNCHANGED: ["body"]}), row("u", 2, body=Decimal(10) ** 20, n=6)],
            2,
            schema=large,
        ),
    ]
    with closing(opened(harness, policies={} if harness.widens else {"widen": "lenient"})) as sink:
        for part in parts:
            sink.write(batch(part))
    if harness.widens:
        assert harness.rows() == folded(*parts)
        return
    found = {r["id"]: {k: v for k, v in r.items() if not k.startswith("_cdc")} for r in harness.rows()}
    assert found == {
        1: {"id": 1, "body": Decimal(1), "n__int64": 5},
        2: {"id": 2, "body__decimal128_30_2": Decimal(10) ** 20, "n__int64": 6},
    }


@check()
def truncated_or_unsent_records_of_an_older_schema_fit_too(harness: SinkHarness) -> None:
    later = [order("u", 10, note="x")]
    parts = [inserts(0, 2), changes(later, 2, schema=ORDERS_WITH_NOTE)]
    lagging = [inserts(0, 2, partition=1), changes([unsent("u", 11, "name")], 2, partition=1)]
    with closing(opened(harness)) as sink:
        sink.write(batch(*parts))
        sink.write(batch(lagging[0]))
        sink.write(batch(lagging[1]))
    assert harness.rows() == expected(harness, *parts, *lagging)


def homes(parts: Sequence[ChangeBatch]) -> list[ChangeBatch]:
    """Where columns of small and large numbers and texts go if both types are always kept, in the order of writing."""
    home: dict[str, pa.DataType] = {}
    kept = []
    for part in parts:
        names: Mapping[str, str] = {}
        for column in part.schema.columns:
            first = home.setdefault(column.name, column.type)
            fits = first == column.type or (first == pa.int64() and column.type == pa.int32())
            names = names if fits else {**names, column.name: f"{column.name}__{column.type}"}
        kept.append(kept_as(part, **names))
    return kept
