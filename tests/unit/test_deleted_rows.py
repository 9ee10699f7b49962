"""Rows of data files by position: what is written into a delete file is what is read, sorted, and filtered by file."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyiceberg.io.pyarrow import PyArrowFileIO

from sinks.iceberg.deletes import DeletedRows

SCHEMA = pa.schema([pa.field("file_path", pa.string(), False), pa.field("pos", pa.int64(), False)])
PATHS = [f"s3://lake/{name}.parquet" for name in ("b", "a", "ü", "aa", "", "z")]

pairs = st.lists(st.tuples(st.sampled_from(PATHS), st.integers(0, 50)), max_size=60)


def made(found: list[tuple[str, int]]) -> DeletedRows:
    files = {path: np.array([row for p, row in found if p == path], np.uint32) for path, _ in found}
    return DeletedRows.of(files.items())


def listed(deleted: DeletedRows) -> list[tuple[str, int]]:
    return [(deleted.paths[code], row) for code, row in zip(deleted.codes.tolist(), deleted.rows.tolist(), strict=True)]


@given(pairs)
def test_sorted_is_the_order_of_a_delete_file(found: list[tuple[str, int]]) -> None:
    assert listed(made(found).sorted()) == sorted(found)


@given(pairs, pairs)
def test_union_and_keep(one: list[tuple[str, int]], two: list[tuple[str, int]]) -> None:
    both = DeletedRows.union([made(one), made(two)])
    assert sorted(listed(both)) == sorted(one + two)
    wanted = set(PATHS[:3])
    assert sorted(listed(both.keep(wanted))) == sorted(pair for pair in one + two if pair[0] in wanted)


@given(pairs)
def test_by_file_has_each_row_once(found: list[tuple[str, int]]) -> None:
    assert sorted((path, row) for path, rows in made(found).by_file() for row in rows.tolist()) == sorted(found)


@given(pairs, st.sets(st.sampled_from([*PATHS, "s3://lake/other.parquet"])), st.integers(1, 7))
def test_file_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, found: list[tuple[str, int]], wanted: set[str], size: int
) -> None:
    folder = tmp_path_factory.mktemp("deletes")
    path = str(folder / "deletes.parquet")
    with pq.ParquetWriter(path, SCHEMA) as writer:
        for table in made(found).sorted().batches(SCHEMA, size):
            writer.write_table(table)
    io = PyArrowFileIO()
    assert pq.ParquetFile(path).num_row_groups == -(-len(found) // size)
    assert listed(DeletedRows.read(io, path)) == sorted(found)
    assert listed(DeletedRows.read(io, path, wanted)) == sorted(pair for pair in found if pair[0] in wanted)
