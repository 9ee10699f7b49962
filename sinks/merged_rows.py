"""Rows of several files as those of one, sorted, without more memory than it takes."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc


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
