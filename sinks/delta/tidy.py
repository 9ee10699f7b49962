"""Tidying a table with deletion vectors: small and dirty data files are written anew, without the rows that are gone.

What is due is decided as for Iceberg tables (`sinks.tiers`). A step changes no rows: its actions say so (`dataChange`),
and change data feeds show nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from sinks.at_once import at_once
from sinks.delta.actions import DataFile, Snapshot
from sinks.delta.files import LakeFiles, new_location
from sinks.delta.upsert import Delta
from sinks.merged_rows import merged, read_within
from sinks.tiers import MEMORY_BYTES, Candidate, Chosen, Width
from tables.index_database import IndexDamaged
from tables.key_index import PlacedRows


def rewrite(step: Chosen[DataFile], table: Snapshot, files: LakeFiles, key: Sequence[str], width: Width) -> Delta:
    """Write the files of a tidying step, rows in the order of their keys; `width` learns how wide rows are.

    Raises IndexDamaged if a file has more or fewer live rows than the index counted.
    """
    delta = Delta()
    try:
        for tp, group in step:
            place = group[0].live.partition
            names = [name for name in table.columns.names if name not in place]
            parts, candidates = _live_rows(group, files, table.columns, names, width)
            rows = merged(parts, [name for name in key if name in names])
            if rows is not None and rows.num_rows:
                location = new_location(tp, place)
                delta.written.append(location)
                staged = files.data_file(location, rows, place, table.columns)
                delta.added.append(staged.file)
                delta.placed[tp].append(PlacedRows(staged.file.path, staged.rows.select(list(key))))
            del rows  # before the next group is read
            delta.removed += [candidate.live for candidate in candidates]
            delta.dropped[tp] += [candidate.file_id for candidate in candidates]
    except BaseException:
        files.discard(delta.written)
        raise
    return delta


def _live_rows(
    candidates: Sequence[Candidate[DataFile]], files: LakeFiles, schema: pa.Schema, names: Sequence[str], width: Width
) -> tuple[list[pa.Table], list[Candidate[DataFile]]]:
    """These columns of the live rows of each file, and the files that were looked at: all, if their rows don't take
    more memory than a step may."""
    opened = dict(zip((c.file_id for c in candidates), at_once(lambda c: files.open(c.live), candidates), strict=True))

    def read(candidate: Candidate[DataFile]) -> pa.Table:
        rows, _, count = files.live_rows(candidate.live, opened[candidate.file_id], schema, names)
        width.saw(rows)
        expected = candidate.indexed.rows - candidate.indexed.dead
        if rows.num_rows != expected or count != candidate.indexed.rows:
            raise IndexDamaged(
                f"{candidate.live.path} has {rows.num_rows} live rows, but the key index counted {expected}"
            )
        return rows

    return read_within(MEMORY_BYTES, candidates, read)
