"""Values that the source didn't send: they are taken from where the row was before, or nobody knows them.

PostgreSQL leaves a large value (TOAST) out of an update that didn't change it, and Debezium names the column by a
placeholder; the decoder puts null there and the column's name into `CDC_UNCHANGED`. An append table keeps both. In an
upsert table the earlier value has to stay: it is in an earlier change of the same key in the batch (`from_batch`), or
in the row that the table has now (`from_table`). If neither has it the record can't be applied.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from config.errors import ValuesUnknown
from sinks.base import Batch
from sinks.widening import holds
from sources.changes import CDC_OFFSET, CDC_OP, CDC_PARTITION, CDC_TOPIC, CDC_UNCHANGED, UNCHANGED_FIELD, TopicPartition

Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Current = Callable[[pa.Table, Sequence[str], Sequence[str]], pa.Table]
"""Called with rows and the names of columns and key: reads these columns and the key of the destination's rows that
have the given rows' keys, in any order, maybe of more keys. Columns that it doesn't have (yet) may be left out."""


def from_batch(log: pa.Table, key: Sequence[str], last: Rows) -> tuple[pa.Table, Mask]:
    """The rows `last` of `log` (in order, with a `CDC_UNCHANGED` column), whose unsent values are those of the latest
    earlier change of the key that has them. What has none stays null and named; the column goes if nothing does. Marked
    are the rows for which no earlier row counts: the key was deleted in between."""
    rows = log.take(pa.array(last))
    named = _names(log)
    columns = named.explode().drop_nulls().unique(maintain_order=True).to_list()
    index = _keys(log, key).with_columns(op=pl.Series(log.column(CDC_OP).to_pylist())).with_row_index("row")
    groups = [name for name in index.columns if name.startswith("k")]
    still = np.zeros((len(last), len(columns)), np.bool_)
    deleted = np.zeros(len(last), np.bool_)
    for number, column in enumerate(columns):
        unsent = named.list.contains(pl.lit(column)).fill_null(False)
        frame = index.with_columns(unsent=unsent)
        known = pl.when(pl.col("op") == "d").then(-1).when(~pl.col("unsent")).then(pl.col("row").cast(pl.Int64))
        sources = frame.select(known.forward_fill().over(groups).fill_null(-2).alias("from"))["from"].to_numpy()[last]
        mine = unsent.to_numpy()[last]
        still[:, number] = mine & (sources < 0)
        deleted |= mine & (sources == -1)
        taken = np.where(mine & (sources >= 0), sources, last)
        rows = rows.set_column(rows.column_names.index(column), column, log.column(column).take(pa.array(taken)))
    return _named(rows, still, columns), deleted


def from_table(rows: pa.Table, deleted: Mask, key: Sequence[str], log: pa.Table, current: Current) -> pa.Table:
    """`rows` (of `from_batch`) with the values that the destination has, and without the `CDC_UNCHANGED` column.

    Raises ValuesUnknown if it lacks a row; `log` are the batch's changes, of which those that can't be applied are
    named.
    """
    if CDC_UNCHANGED not in rows.column_names:
        return rows
    named = _names(rows)
    open_rows = np.flatnonzero(named.is_not_null().to_numpy())
    columns = named.explode().drop_nulls().unique(maintain_order=True).to_list()
    wanted = rows.take(pa.array(open_rows))
    found = current(wanted, columns, key)
    at = np.where(deleted[open_rows], -1, _matches(wanted, found, key))
    if (at < 0).any():
        raise _unknown(wanted.take(pa.array(np.flatnonzero(at < 0))), key, log)
    rows = rows.drop_columns([CDC_UNCHANGED])
    for column in columns:
        if column not in found.column_names:
            continue  # the destination doesn't have it yet: null
        mine = named.list.contains(pl.lit(column)).fill_null(False).to_numpy()[open_rows]
        kind = _wider(rows.column(column).type, found.column(column).type)
        parts = [*rows.column(column).cast(kind).chunks, *found.column(column).cast(kind).chunks]
        both = pa.chunked_array(parts, kind)
        source = np.arange(rows.num_rows)
        source[open_rows[mine]] = rows.num_rows + at[mine]
        rows = rows.set_column(rows.column_names.index(column), column, both.take(pa.array(source)))
    return rows


def keys_of(batch: Batch, records: Collection[tuple[str, int, int]]) -> dict[str, pa.Table]:
    """By topic the different keys of the changes at these (topic, partition, offset)."""
    parts: dict[str, list[pa.Table]] = defaultdict(list)
    for change in batch.changes:
        mine = [offset for topic, partition, offset in records if change.tp == (topic, partition)]
        rows = change.rows.filter(pc.is_in(change.rows.column(CDC_OFFSET), pa.array(mine, pa.int64())))
        if rows.num_rows:
            parts[change.topic].append(rows.select(list(change.schema.key)))
    return {topic: _different(pa.concat_tables(some, promote_options="permissive")) for topic, some in parts.items()}


def without(batch: Batch, records: Collection[tuple[str, int, int]]) -> Batch:
    """The batch over the same offsets without the changes at these (topic, partition, offset)."""
    gone: dict[TopicPartition, list[int]] = defaultdict(list)
    for topic, partition, offset in records:
        gone[TopicPartition(topic, partition)].append(offset)
    changes = []
    for change in batch.changes:
        kept = pc.invert(pc.is_in(change.rows.column(CDC_OFFSET), pa.array(gone[change.tp], pa.int64())))
        rows = change.rows.filter(kept)
        if rows.num_rows:  # an empty change would still ask for its schema
            changes.append(replace(change, rows=rows))
    return replace(batch, changes=changes)


def _names(rows: pa.Table) -> pl.Series:
    return pl.Series(pl.from_arrow(rows.column(CDC_UNCHANGED)))


def _keys(rows: pa.Table, key: Sequence[str]) -> pl.DataFrame:
    return pl.DataFrame({f"k{n}": pl.from_arrow(rows.column(column)) for n, column in enumerate(key)})


def _different(keys: pa.Table) -> pa.Table:
    return keys.group_by(keys.column_names).aggregate([])


def _named(rows: pa.Table, still: npt.NDArray[np.bool_], columns: Sequence[str]) -> pa.Table:
    at = rows.column_names.index(CDC_UNCHANGED)
    if not still.any():
        return rows.remove_column(at)
    names = [[columns[n] for n in np.flatnonzero(row).tolist()] or None for row in still]
    return rows.set_column(at, UNCHANGED_FIELD, pa.array(names, UNCHANGED_FIELD.type))


def _matches(wanted: pa.Table, found: pa.Table, key: Sequence[str]) -> Rows:
    """For each wanted row the number of the found one with its key, -1 if there is none."""
    if not found.num_rows:
        return np.full(wanted.num_rows, -1)
    kinds = {name: _wider(wanted.column(name).type, found.column(name).type) for name in key}
    shaped, there = (
        pa.table([table.column(name).cast(kind) for name, kind in kinds.items()], list(key))
        for table in (wanted, found)
    )
    names = [f"k{n}" for n in range(len(key))]
    right = _keys(there, key).with_row_index("at").unique(subset=names, keep="last")
    joined = _keys(shaped, key).join(right, on=names, how="left", maintain_order="left")
    at: Rows = joined["at"].cast(pl.Int64).fill_null(-1).to_numpy()
    return at


def _wider(ours: pa.DataType, stored: pa.DataType) -> pa.DataType:
    """The stored type, unless it is one from before its column was widened."""
    return ours if holds(ours, stored) else stored


def _unknown(missing: pa.Table, key: Sequence[str], log: pa.Table) -> ValuesUnknown:
    """Of the keys' changes behind their last delete in the batch, those that lack a value."""
    groups = [f"k{n}" for n in range(len(key))]
    index = _keys(log, key).with_columns(op=pl.Series(log.column(CDC_OP).to_pylist()), names=_names(log))
    deleted = pl.when(pl.col("op") == "d").then(pl.col("row")).otherwise(None).max().over(groups).fill_null(-1)
    index = index.with_row_index("row").with_columns(pl.col("row").cast(pl.Int64)).with_columns(deleted=deleted)
    index = index.filter(pl.col("names").is_not_null() & (pl.col("row") > pl.col("deleted")))
    index = index.join(_keys(missing, key).unique(), on=groups, how="semi").sort("row")
    rows = log.take(pa.array(index["row"].to_numpy()))
    records = {}
    for row in rows.select([*key, CDC_TOPIC, CDC_PARTITION, CDC_OFFSET, CDC_UNCHANGED]).to_pylist():
        where = row[CDC_TOPIC], row[CDC_PARTITION], row[CDC_OFFSET]
        records[where] = (
            f"topic {where[0]}, partition {where[1]}, offset {where[2]}: PostgreSQL didn't send"
            f" {', '.join(row[CDC_UNCHANGED])} of the row { {name: row[name] for name in key} }, as the update left it"
            " unchanged (TOAST), and the table has no such row to take it from. Run ALTER TABLE … REPLICA IDENTITY FULL"
            " at the source and update the row once more, or snapshot the table anew"
        )
    return ValuesUnknown(records)
