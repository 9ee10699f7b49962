"""Folding a batch of changes into what an upsert table needs: the last change of each key."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from config.errors import KeyMoved, UnsupportedChange
from sinks.base import Batch
from sources.changes import CDC_OFFSET, CDC_OP, CDC_PARTITION, CDC_TOPIC, ChangeBatch


@dataclass(frozen=True)
class Reduced:
    """A batch folded by key: one row per key that changed, each its key's last change in (partition, offset) order.

    `upserts`: the rows to be there afterwards, with the source's columns and `CDC_FIELDS`, ordered by partition and
    offset. `deletes`: the rows of the keys that are gone, same columns, only key and `CDC_FIELDS` filled.
    `key`: the key columns' names.
    """

    upserts: pa.Table
    deletes: pa.Table
    key: tuple[str, ...]


def union_changelog(changes: list[ChangeBatch]) -> pa.Table:
    """All changes as one table, columns united by name: what a change's schema lacks is null in its rows.

    Raises pyarrow.ArrowTypeError if two schemas give one column two types (evolution has to decide before this).
    """
    return pa.concat_tables([change.changelog() for change in changes], promote_options="default")


def reduce(batch: Batch) -> Reduced:
    """Fold `batch` (of one source table, with at least one change) to the last change per key.

    Raises UnsupportedChange for a table without key, KeyMoved if one key turns up in two partitions.
    """
    key = batch.changes[0].schema.key
    if not key or any(change.schema.key != key for change in batch.changes):
        topic = batch.changes[0].topic
        raise UnsupportedChange(
            f"{topic}: upsert needs one primary key, but the records have {[c.schema.key for c in batch.changes]};"
            " give the source table a primary key (and snapshot it anew), or use write_mode: append"
        )
    log = union_changelog(sorted(batch.changes, key=lambda c: (c.topic, c.partition, c.first)))
    index = pl.DataFrame({f"k{i}": pl.from_arrow(log.column(name)) for i, name in enumerate(key)})
    index = index.with_columns(p=pl.Series(log.column(CDC_PARTITION).to_numpy())).with_row_index("row")
    names = [f"k{i}" for i in range(len(key))]
    last = index.unique(subset=names, keep="last", maintain_order=True)
    if len(batch.ranges) > 1:
        split = (
            index.group_by(names).agg(pl.col("p").n_unique().alias("n"), pl.col("row").last()).filter(pl.col("n") > 1)
        )
        if len(split):
            row = log.slice(split["row"][0], 1).to_pylist()[0]
            raise KeyMoved(
                f"{row[CDC_TOPIC]}: the key { {n: row[n] for n in key} } turned up in two Kafka partitions within one"
                f" batch (again at {row[CDC_PARTITION]}:{row[CDC_OFFSET]}), so the order of its changes is unknown;"
                " upsert needs Debezium's default partitioning by key and a constant number of partitions"
            )
    rows = log.take(pa.array(last["row"].to_numpy()))
    gone = pc.equal(rows.column(CDC_OP), "d")
    return Reduced(rows.filter(pc.invert(gone)), rows.filter(gone), key)
