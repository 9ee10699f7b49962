"""Folding a batch of changes into what an upsert table needs: the last change of each key.

Upsert rests on one assumption: all events of a key are in one Kafka partition (Debezium's default), so Kafka gives
them an order. What can be seen of its breach is checked here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from config.errors import KeyMoved, UnsupportedChange
from sinks.base import Batch
from sinks.unchanged import Current, from_batch, from_table
from sources.changes import CDC_OFFSET, CDC_OP, CDC_PARTITION, CDC_TOPIC, CDC_UNCHANGED, TRUNCATE, ChangeBatch


@dataclass(frozen=True)
class Reduced:
    """A batch folded by key: one row per key that changed, each its key's last change in (partition, offset) order.

    `upserts`: the rows to be there afterwards, with the source's columns and `CDC_FIELDS`, ordered by partition and
    offset. `deletes`: the rows of the keys that are gone, same columns, only key and `CDC_FIELDS` filled.
    `key`: the key columns' names. `truncated`: all rows of the table go before these come.
    """

    upserts: pa.Table
    deletes: pa.Table
    key: tuple[str, ...]
    truncated: bool = False


def union_changelog(changes: Sequence[ChangeBatch]) -> pa.Table:
    """All changes as one table, columns united by name: what a change's schema lacks is null in its rows.

    Raises pyarrow.ArrowTypeError if two schemas give one column two types (evolution has to decide before this).
    """
    return pa.concat_tables([change.changelog() for change in changes], promote_options="default")


def nothing(_rows: pa.Table, _columns: Sequence[str], _key: Sequence[str]) -> pa.Table:
    """What a destination without rows has."""
    return pa.table({})


def reduce(batch: Batch, current: Current) -> Reduced:
    """Fold `batch` (of one source table, with at least one change) to the last change per key. `current` reads what
    the destination has of rows that lack values.

    Raises UnsupportedChange for a table without key, and for a truncate of a topic with several partitions; KeyMoved
    if one key turns up in two partitions; ValuesUnknown for values that nobody knows.
    """
    keyed = batch.keyed
    key = keyed[0].schema.key if keyed else ()
    if keyed and (not key or any(change.schema.key != key for change in keyed)):
        topic = keyed[0].topic
        keys = sorted({", ".join(change.schema.key) or "none" for change in keyed})
        raise UnsupportedChange(
            f"{topic}: upsert needs one primary key, but the records have these: {'; '.join(keys)}. Give the source"
            " table a primary key (and snapshot it into a new table), or use write_mode: append"
        )
    log = union_changelog(sorted(batch.changes, key=lambda c: (c.topic, c.partition, c.first)))
    truncates = np.flatnonzero(pc.equal(log.column(CDC_OP), TRUNCATE).to_numpy())
    if len(truncates):
        _check_order(batch, log.slice(int(truncates[0]), 1))
        log = log.slice(int(truncates[-1]) + 1)
    if not log.num_rows:
        return Reduced(log, log, key, bool(len(truncates)))
    names = [f"k{i}" for i in range(len(key))]
    index = pl.DataFrame({name: pl.from_arrow(log.column(column)) for name, column in zip(names, key, strict=True)})
    index = index.with_columns(p=pl.Series(log.column(CDC_PARTITION).to_numpy())).with_row_index("row")
    last = index.unique(subset=names, keep="last", maintain_order=True)
    if len({change.tp for change in batch.changes}) > 1:
        _check_one_partition(log, key, index, last, names)
    truncated = bool(len(truncates))
    if CDC_UNCHANGED in log.column_names:
        rows, deleted = from_batch(log, key, last["row"].cast(pl.Int64).to_numpy())
        rows = from_table(rows, deleted, key, log, nothing if truncated else current)
    else:
        rows = log.take(pa.array(last["row"].to_numpy()))
    gone = pc.equal(rows.column(CDC_OP), "d")
    return Reduced(rows.filter(pc.invert(gone)), rows.filter(gone), key, truncated)


def _check_order(batch: Batch, truncate: pa.Table) -> None:
    """A truncate's record has no key, so it is in any one of a topic's partitions, and no other one knows when."""
    row = truncate.to_pylist()[0]
    topic, count = row[CDC_TOPIC], batch.partition_counts.get(row[CDC_TOPIC])
    if count != 1:
        raise UnsupportedChange(
            f"topic {topic}, partition {row[CDC_PARTITION]}, offset {row[CDC_OFFSET]}: the source table was truncated,"
            f" but the topic has {count or 'several'} partitions, and Kafka doesn't say which changes of the others"
            " came before. Use a topic with one partition for tables that are truncated, or set the connector's"
            " skipped.operations to t and empty the lake table by hand; to go on from here, rename the lake table and"
            " snapshot the source anew"
        )


def check_partition_counts(table: str, known: Mapping[str, int], batch: Batch, *, keyed: bool) -> None:
    """Stop when a topic has another number of partitions than it had when `table` was first written (`known`).

    `keyed` says that the table is written by key; a change log doesn't mind. Raises KeyMoved.
    """
    for topic, count in batch.partition_counts.items():
        before = known.get(topic, count)
        if keyed and before != count:
            raise KeyMoved(
                f"topic {topic} had {before} partitions when table {table} was first written and has {count} now, so"
                " a key's later changes may be in another partition than its earlier ones and their order is unknown."
                " Write into a new table: rename this one, delete and create the topic anew with its final number of"
                " partitions, and start from a new snapshot"
            )


def _check_one_partition(
    log: pa.Table, key: tuple[str, ...], index: pl.DataFrame, last: pl.DataFrame, names: list[str]
) -> None:
    # the rows are ordered by partition: a key that moved has a first row in another partition than its last one
    first = index.unique(subset=names, keep="first", maintain_order=True)
    moved = first.join(last, on=names, suffix="_last", nulls_equal=True).filter(pl.col("p") != pl.col("p_last"))
    if len(moved):
        row = log.slice(moved["row_last"][0], 1).to_pylist()[0]
        raise KeyMoved(
            f"{row[CDC_TOPIC]}: the key { {name: row[name] for name in key} } turned up in the partitions"
            f" {moved['p'][0]} and {row[CDC_PARTITION]} within one batch (last at offset {row[CDC_OFFSET]}), so the"
            " order of its changes is unknown; upsert needs Debezium's default partitioning by key and a constant"
            " number of partitions"
        )
