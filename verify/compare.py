"""Comparing rows by key: which are missing, extra, doubled or different. Pure.

Values are equal as the lake keeps them: NaN equals NaN, null equals null only, and text its own bytes only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from sinks.unchanged import from_batch
from sources.changes import CDC_OFFSET, CDC_OP, CDC_PARTITION, CDC_UNCHANGED
from verify.texts import readable

Kind = Literal["missing", "extra", "doubled", "different"]

_SINK = "\x1fsink"


@dataclass(frozen=True)
class Difference:
    """One row that isn't the same on both sides.

    missing    only the source has it
    extra      only the sink has it
    doubled    the sink has several rows of this key
    different  `columns`: (source value, sink value) of those that differ
    """

    kind: Kind
    key: dict[str, Any]
    columns: dict[str, tuple[Any, Any]]


@dataclass(frozen=True)
class Differing:
    """The rows that differ, as tables sorted by key. `different` has the sink's values beside the source's."""

    key: tuple[str, ...]
    missing: pa.Table
    extra: pa.Table
    doubled: pa.Table
    different: pa.Table

    @property
    def tables(self) -> dict[Kind, pa.Table]:
        """The rows of each kind."""
        return {
            "missing": self.missing,
            "extra": self.extra,
            "doubled": self.doubled,
            "different": self.different,
        }

    @property
    def counts(self) -> dict[Kind, int]:
        """Keys of each kind."""
        return {kind: len(table) for kind, table in self.tables.items()}

    def keys(self, *kinds: Kind) -> pa.Table:
        """The keys of these kinds, of all without any."""
        tables = self.tables
        return pa.concat_tables([tables[kind].select(list(self.key)) for kind in kinds or tables])

    def none(self) -> Differing:
        """The same tables without rows."""
        return Differing(self.key, *(table.slice(0, 0) for table in self.tables.values()))

    def rows(self, limit: int | None = None) -> Iterator[Difference]:
        """The differences of each kind, in key order; of each at most `limit`."""
        kinds: tuple[Kind, ...] = ("missing", "extra", "doubled")
        for kind in kinds:
            keys = self.keys(kind).slice(0, limit)
            for row in range(len(keys)):
                yield Difference(kind, {name: readable(keys.column(name)[row]) for name in self.key}, {})
        for row in range(len(self.different) if limit is None else min(limit, len(self.different))):
            yield self._different(row)

    def _different(self, row: int) -> Difference:
        table = self.different
        names = [name for name in table.column_names if name + _SINK in table.column_names]
        columns = {}
        for name in names:
            source, sink = table.column(name), table.column(name + _SINK)
            if _unequal(source.slice(row, 1), sink.slice(row, 1)):
                columns[name] = readable(source[row]), readable(sink[row])
        return Difference("different", {name: readable(table.column(name)[row]) for name in self.key}, columns)


def last_changes(log: pa.Table, key: Sequence[str]) -> pa.Table:
    """Of a change log the last change of each key by (partition, offset), deletes included.

    Values that it lacks (`CDC_UNCHANGED`) are those of the key's earlier changes, where the log has them.
    """
    lacking = CDC_UNCHANGED in log.column_names and log.column(CDC_UNCHANGED).null_count < len(log)
    if lacking:  # values are handed on in the log's order
        log = log.sort_by([(CDC_PARTITION, "ascending"), (CDC_OFFSET, "ascending")])
    order = pl.DataFrame(
        {
            **{f"k{i}": pl.from_arrow(log.column(name)) for i, name in enumerate(key)},
            "partition": pl.Series(log.column(CDC_PARTITION).to_numpy()),
            "offset": pl.Series(log.column(CDC_OFFSET).to_numpy()),
        }
    ).with_row_index("row")
    keys = [f"k{i}" for i in range(len(key))]
    last = order.sort("partition", "offset").unique(subset=keys, keep="last", maintain_order=True)["row"]
    if lacking:
        rows, _ = from_batch(log, key, last.cast(pl.Int64).to_numpy())
        return rows
    return log.take(pa.array(last.to_numpy()))


def fold(log: pa.Table, key: Sequence[str]) -> pa.Table:
    """The table that a change log describes: each key's last change, unless it is a delete."""
    rows = last_changes(log, key)
    return rows.filter(pc.not_equal(rows.column(CDC_OP), "d"))


def overlay(rows: pa.Table, log: pa.Table, key: Sequence[str]) -> pa.Table:
    """`rows` after the changes of `log`, whose columns are theirs and the `CDC_FIELDS` that order it, and maybe
    `CDC_UNCHANGED`: values that a change lacks are those of `rows`. Where that has no such row they are null, so that
    the record, which is a dead letter, is a difference."""
    if not len(log):
        return rows
    changed = _filled(last_changes(log, key), rows, key)
    untouched = _arrow(_frame(rows).join(_frame(changed), on=list(key), how="anti"), rows.schema)
    present = changed.filter(pc.not_equal(changed.column(CDC_OP), "d")).select(rows.column_names)
    return pa.concat_tables([untouched, present.cast(rows.schema)])


def _filled(changed: pa.Table, rows: pa.Table, key: Sequence[str]) -> pa.Table:
    if CDC_UNCHANGED not in changed.column_names:
        return changed
    frame = _frame(changed)
    values = [name for name in rows.column_names if name not in key]
    unsent = pl.col(CDC_UNCHANGED)
    filled = [
        pl.when(unsent.list.contains(pl.lit(name)).fill_null(False)).then(pl.col(name + _SINK)).otherwise(pl.col(name))
        for name in values
    ]
    both = frame.join(_frame(rows), on=list(key), how="left", suffix=_SINK, maintain_order="left")
    found = both.select(*key, *(value.alias(name) for name, value in zip(values, filled, strict=True)), CDC_OP)
    return _arrow(found, pa.schema([changed.schema.field(name) for name in found.columns]))


def compare(source: pa.Table, sink: pa.Table, key: Sequence[str]) -> Differing:
    """Compare tables with the same columns and types; the source's keys are unique.

    A key that the sink has more than once is `doubled`, whatever its rows say.
    """
    left, right = _frame(source), _frame(sink)
    keys = list(key)
    twice = right.select(keys).filter(pl.struct(keys).is_duplicated()).unique()
    right = right.join(twice, on=keys, how="anti", nulls_equal=True)
    doubled = twice.join(left, on=keys, how="semi", nulls_equal=True)
    extra_twice = twice.join(left, on=keys, how="anti", nulls_equal=True)
    rest = left.join(twice, on=keys, how="anti", nulls_equal=True)
    missing = rest.join(right, on=keys, how="anti")
    extra = pl.concat([right.join(rest, on=keys, how="anti").select(keys), extra_twice])
    values = [name for name in left.columns if name not in keys]
    different = rest.join(right, on=keys, how="inner", suffix=_SINK)
    if values:
        unequal = [pl.col(name).ne_missing(pl.col(name + _SINK)) for name in values]
        different = different.filter(pl.any_horizontal(unequal))
    else:
        different = different.clear()
    found = [frame.sort(keys) for frame in (missing.select(keys), extra, doubled, different)]
    schemas = [pa.schema([source.schema.field(name) for name in keys])] * 3
    pairs = [source.schema.field(n.removesuffix(_SINK)).with_name(n) for n in different.columns]
    tables = [_arrow(frame, schema) for frame, schema in zip(found, [*schemas, pa.schema(pairs)], strict=True)]
    return Differing(tuple(key), *tables)


def concat(first: Differing, second: Differing, limit: int) -> Differing:
    """The differences of both that come first in key order, at most `limit` of each kind."""

    def merged(one: pa.Table, other: pa.Table) -> pa.Table:
        frame = pl.concat([_frame(one), _frame(other)])
        return _arrow(frame.sort(list(first.key)).head(limit), one.schema)

    return Differing(first.key, *map(merged, first.tables.values(), second.tables.values()))


def _unequal(source: pa.ChunkedArray, sink: pa.ChunkedArray) -> bool:
    pair = pl.DataFrame({"a": pl.from_arrow(source), "b": pl.from_arrow(sink)})
    return bool(pair.select(pl.col("a").ne_missing(pl.col("b"))).item())


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _arrow(frame: pl.DataFrame, schema: pa.Schema) -> pa.Table:
    return frame.to_arrow().cast(schema)
