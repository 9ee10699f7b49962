"""Comparing two tables by key: which rows are missing, extra or different. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from sinks.unchanged import from_batch
from sources.changes import CDC_OFFSET, CDC_OP, CDC_PARTITION, CDC_UNCHANGED, TRUNCATE


@dataclass(frozen=True)
class Difference:
    """One row that isn't the same on both sides. `columns`: (source value, sink value) of those that differ; empty
    for a row that one side lacks."""

    kind: str
    key: dict[str, Any]
    columns: dict[str, tuple[Any, Any]]


@dataclass(frozen=True)
class Comparison:
    """Rows on each side, how many differ in which way, and the first of the differences in key order."""

    source_rows: int
    sink_rows: int
    missing: int
    extra: int
    different: int
    examples: tuple[Difference, ...]

    @property
    def equal(self) -> bool:
        """Whether both sides hold the same rows."""
        return not (self.missing or self.extra or self.different)


def fold(log: pa.Table, key: Sequence[str]) -> pa.Table | None:
    """The table that a change log describes: each key's last change by (partition, offset), unless it is a delete.

    A truncate covers all that lies before it. None if that can't be told: the log has several partitions.
    """
    truncates = np.flatnonzero(pc.equal(log.column(CDC_OP), TRUNCATE).to_numpy())
    if len(truncates):
        if pc.count_distinct(log.column(CDC_PARTITION)).as_py() > 1:
            return None
        last = pc.max(log.column(CDC_OFFSET).take(pa.array(truncates)))
        log = log.filter(pc.greater(log.column(CDC_OFFSET), last))
    if CDC_UNCHANGED in log.column_names:  # in the log's order, in which values are handed on
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
    if CDC_UNCHANGED in log.column_names:
        rows, _ = from_batch(log, key, last.cast(pl.Int64).to_numpy())
    else:
        rows = log.take(pa.array(last.to_numpy()))
    return rows.filter(pc.not_equal(rows.column(CDC_OP), "d"))


def compare(source: pa.Table, sink: pa.Table, key: Sequence[str], examples: int) -> Comparison:
    """Compare tables with the same columns and types. A key that a side holds twice counts as an extra row."""
    left, right = _frame(source), _frame(sink)
    keys = list(key)
    twice = len(right) - right.select(keys).n_unique() if len(right) else 0
    right_once = right.unique(subset=keys, keep="first", maintain_order=True)
    missing = left.join(right_once, on=keys, how="anti")
    extra = right_once.join(left, on=keys, how="anti")
    values = [name for name in left.columns if name not in keys]
    joined = left.join(right_once, on=keys, how="inner", suffix="\0sink")
    unequal = [pl.col(name).ne_missing(pl.col(f"{name}\0sink")).alias(name) for name in values]
    marks = joined.select(unequal)
    rows = marks.select(pl.any_horizontal(pl.all()) if values else pl.lit(False)).to_series()
    different = joined.filter(rows) if values else joined.clear()
    found = [
        *_rows("missing", missing, keys, examples),
        *_rows("extra", extra, keys, examples),
        *_different(different, keys, values, examples),
    ]
    return Comparison(len(left), len(right), len(missing), len(extra) + twice, len(different), tuple(found[:examples]))


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _rows(kind: str, frame: pl.DataFrame, keys: list[str], count: int) -> list[Difference]:
    return [Difference(kind, row, {}) for row in frame.select(keys).sort(keys).head(count).to_dicts()]


def _different(frame: pl.DataFrame, keys: list[str], values: list[str], count: int) -> list[Difference]:
    found = []
    for row in frame.sort(keys).head(count).to_dicts():
        columns = {name: (row[name], row[f"{name}\0sink"]) for name in values if row[name] != row[f"{name}\0sink"]}
        found.append(Difference("different", {name: row[name] for name in keys}, columns))
    return found
