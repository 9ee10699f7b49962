"""Data files and vector files of a table that Lakeward commits to by itself: written, described, read. Nothing here
commits.

As in Iceberg, a data file holds rows of one Kafka partition (which its name tells) and of one partition of the table.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pyroaring import BitMap

from sinks.at_once import at_once_by
from sinks.delta import partitions
from sinks.delta.actions import DataFile
from sinks.delta.folder import Folder
from sinks.delta.schema import in_shape
from sinks.delta.statistics import statistics
from sinks.delta.vectors import Vector, positions, staged
from sinks.owners import file_name
from sources.changes import TopicPartition

ROWS_PER_ROW_GROUP = 256 * 1024
COMPRESSION, LEVEL = "zstd", 1

VECTORS_BYTES = 32 << 20
"""Bytes of vectors (as they are in their files) that are kept in memory."""


@dataclass(frozen=True)
class StagedRows:
    """A written data file and the rows in it, in row order, with all columns of the table."""

    file: DataFile
    rows: pa.Table


def new_location(tp: TopicPartition, values: partitions.Values) -> str:
    """Where in the table's folder a new data file of this partition goes, which `tp` owns."""
    return partitions.folder(values) + file_name("lw", tp)


class LakeFiles:
    """The files below a table's folder."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._vectors: OrderedDict[str, tuple[BitMap, int]] = OrderedDict()
        self._vector_bytes = 0

    # -- writing

    def data_files(
        self,
        owned: Mapping[TopicPartition, pa.Table],
        schema: pa.Schema,
        partition_by: Sequence[str],
        written: list[str],
    ) -> dict[TopicPartition, list[StagedRows]]:
        """Write the rows of each Kafka partition into files that it owns, one for each partition of the table; `schema`
        are its columns. Where the files will be is added to `written` first."""
        parts = [
            (tp, (new_location(tp, values), part, values, schema))
            for tp, rows in owned.items()
            for values, part in partitions.split(in_shape(rows, schema), partition_by)
            if part.num_rows
        ]
        written += [file[0] for _, file in parts]
        return at_once_by(self.data_file, parts)

    def data_file(self, location: str, rows: pa.Table, values: partitions.Values, schema: pa.Schema) -> StagedRows:
        """Write the rows of one partition of the table, without its columns. Callable from any thread."""
        content = _parquet(rows)
        self._folder.put(location, content)
        file = DataFile.new(location, len(content), values, statistics(rows))
        return StagedRows(file, _whole(rows, values, schema, schema.names))

    def vectors(self, bitmaps: Collection[BitMap], tp: TopicPartition) -> tuple[list[Vector], str]:
        """Write the vectors of one commit into one file that `tp` owns: how actions name them, and the file."""
        found = staged(bitmaps, tp)
        self._folder.put(found.path, found.content)
        for vector, bitmap in zip(found.vectors, bitmaps, strict=True):
            self._remember(vector, bitmap)
        return found.vectors, found.path

    def discard(self, paths: Collection[str]) -> None:
        """Remove files that will never be committed."""
        self._folder.delete(paths)

    # -- reading

    def gone(self, file: DataFile) -> BitMap:
        """The rows of a data file that are gone (not to be changed)."""
        vector = file.vector
        if vector is None:
            return BitMap()
        if vector.id not in self._vectors:
            self._remember(vector, vector.rows(self._folder.read_part))
        self._vectors.move_to_end(vector.id)
        return self._vectors[vector.id][0]

    def open(self, file: DataFile) -> pq.ParquetFile:
        """A data file to be read. Callable from any thread."""
        return self._folder.parquet(file.location, file.size)

    def all_rows(self, file: DataFile) -> tuple[BitMap, int]:
        """All rows of a data file, and how many they are."""
        count = file.rows
        if count is None:  # its writer didn't tell
            count = self.open(file).metadata.num_rows
        return BitMap(range(count)), count

    def rows_at(self, file: DataFile, at: npt.NDArray[np.uint32], schema: pa.Schema, names: Sequence[str]) -> pa.Table:
        """Some columns of the rows of a data file at these positions."""
        return self._read(file, self.open(file), schema, names)[0].take(pa.array(at))

    def live_rows(
        self, file: DataFile, parquet: pq.ParquetFile, schema: pa.Schema, names: Sequence[str]
    ) -> tuple[pa.Table, npt.NDArray[np.uint32], int]:
        """Some columns of the live rows of a data file that is open, the positions of these, and how many rows the file
        has in all.

        Columns that the file lacks are null. Brought into shape before rows are taken: texts of delta-rs' files come as
        views, of which Arrow can't take some.
        """
        rows, count = self._read(file, parquet, schema, names)
        alive = np.ones(count, dtype=np.bool_)
        alive[positions(self.gone(file))] = False
        live = np.flatnonzero(alive).astype(np.uint32)
        return rows.take(pa.array(live)) if len(live) < count else rows, live, count

    def _read(
        self, file: DataFile, parquet: pq.ParquetFile, schema: pa.Schema, names: Sequence[str]
    ) -> tuple[pa.Table, int]:
        there = set(parquet.schema_arrow.names)
        inner = [name for name in names if name not in file.partition]
        # without threads, each of which would keep memory for itself
        found = parquet.read(columns=[name for name in inner if name in there], use_threads=False)
        count = parquet.metadata.num_rows
        return _whole(found, file.partition, schema, names, count), count

    def _remember(self, vector: Vector, bitmap: BitMap) -> None:
        if vector.id not in self._vectors:
            self._vectors[vector.id] = bitmap, vector.size
            self._vector_bytes += vector.size
        while self._vector_bytes > VECTORS_BYTES and len(self._vectors) > 1:
            self._vector_bytes -= self._vectors.popitem(last=False)[1][1]


def _parquet(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(
        rows, sink, row_group_size=ROWS_PER_ROW_GROUP, compression=COMPRESSION, compression_level=LEVEL,
        coerce_timestamps="us", store_schema=False,
    )  # fmt: skip
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _whole(
    rows: pa.Table, values: partitions.Values, schema: pa.Schema, names: Sequence[str], count: int | None = None
) -> pa.Table:
    """A file's rows with these of the table's columns, those of its partition included, at the table's types."""
    count = rows.num_rows if count is None else count
    constant = partitions.columns({name: values[name] for name in names if name in values}, schema, count)
    found = []
    for name in names:
        kind = schema.field(name).type
        if name in constant:
            found.append(pa.chunked_array([constant[name]]))
        elif name in rows.column_names:
            column = rows.column(name)
            found.append(column if column.type == kind else column.cast(kind))
        else:
            found.append(pa.chunked_array([pa.nulls(count, kind)]))
    return pa.table(found, schema=pa.schema([schema.field(name) for name in names]))
