"""Tidying a table with deletion vectors: small and dirty data files are written anew, without the rows that are gone.

What is due is decided as for Iceberg tables (`sinks.tiers`). A step changes no rows: its actions say so (`dataChange`),
and change data feeds show nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from sinks.at_once import at_once
from sinks.delta.actions import DataFile, Snapshot
from sinks.delta.files import LakeFiles
from sinks.delta.upsert import Delta
from sinks.tiers import Candidate, Chosen
from tables.index_database import IndexDamaged
from tables.key_index import PlacedRows


def rewrite(step: Chosen[DataFile], table: Snapshot, files: LakeFiles, key: Sequence[str]) -> Delta:
    """Write the files of a tidying step, rows in the order of their keys.

    Raises IndexDamaged if a file has more or fewer live rows than the index counted.
    """
    delta = Delta()
    schema = table.columns
    try:
        for tp, candidates in step:
            rows = _live_rows(candidates, files, schema)
            if rows.num_rows:
                order = [(name, "ascending") for name in key if name in rows.column_names]
                staged = files.data_file(
                    tp, rows.sort_by(order) if order else rows, candidates[0].live.partition, schema
                )
                delta.written.append(staged.file.location)
                delta.added.append(staged.file)
                delta.placed[tp].append(PlacedRows(staged.file.path, staged.rows.select(list(key))))
            delta.removed += [candidate.live for candidate in candidates]
            delta.dropped[tp] += [candidate.file_id for candidate in candidates]
    except BaseException:
        files.discard(delta.written)
        raise
    return delta


def _live_rows(candidates: Sequence[Candidate[DataFile]], files: LakeFiles, schema: pa.Schema) -> pa.Table:
    """The live rows of files of one partition of the table, without its columns."""
    names = [name for name in schema.names if name not in candidates[0].live.partition]
    gone = [files.gone(candidate.live) for candidate in candidates]
    read = at_once(
        lambda pair: files.live_rows(pair[0].live, pair[1], schema, names), zip(candidates, gone, strict=True)
    )
    for candidate, (rows, _, count) in zip(candidates, read, strict=True):
        expected = candidate.indexed.rows - candidate.indexed.dead
        if rows.num_rows != expected or count != candidate.indexed.rows:
            raise IndexDamaged(
                f"{candidate.live.path} has {rows.num_rows} live rows, but the key index counted {expected}"
            )
    return pa.concat_tables([rows for rows, _, _ in read])
