"""Rows of several files as those of one, sorted, without more memory than it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

T = TypeVar("T")


def read_within(memory_bytes: int, files: Iterable[T], read: Callable[[T], pa.Table]) -> tuple[list[pa.Table], list[T]]:
    """The rows of the first files, and which these were: two at least, more until their rows take so much memory.

    Reads one after the other: decoding takes several times the memory of what comes out.
    """
    tables: list[pa.Table] = []
    taken: list[T] = []
    room = memory_bytes
    for file in files:
        if room <= 0 and len(taken) > 1:
            break
        tables.append(read(file))
        taken.append(file)
        room -= tables[-1].nbytes
    return tables, taken


def merged(tables: list[pa.Table], order: Sequence[str]) -> pa.Table | None:
    """The rows of all of them, sorted by these columns; None if there is no table. Empties the list, and goes column by
    column: a sorted column takes the place of what it came from."""
    if not tables:
        return None
    rows = pa.concat_tables(tables, promote_options="permissive")
    tables.clear()
    if not order:
        return rows
    indices = pc.sort_indices(rows, sort_keys=[(name, "ascending") for name in order])
    columns, names = rows.columns, rows.column_names
    del rows
    for number, column in enumerate(columns):
        columns[number] = column.combine_chunks().take(indices)
        del column
    return pa.table(columns, names)
