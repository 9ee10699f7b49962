"""Staging: writes data files and position-delete files, and describes them. Nothing here commits.

A data file has an owner, a Kafka partition that its name tells, so that the files of different workers are different
ones. In upsert mode it holds rows of that partition only (and of one table partition): position deletes of different
workers never meet. In append mode it holds a whole batch, and the lowest of its partitions owns it. A position-delete
file is sorted by (file_path, pos) (Iceberg spec, Position Delete Files) and has the table partition of the files that
it names: one with another partition would be ignored by readers that prune.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.conversions import to_bytes
from pyiceberg.io import FileIO
from pyiceberg.io.pyarrow import (
    PYARROW_PARQUET_FIELD_ID_KEY,
    _determine_partitions,
    compute_statistics_plan,
    data_file_statistics_from_parquet_metadata,
    parquet_path_to_id_mapping,
    schema_to_pyarrow,
)
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.partitioning import PartitionKey
from pyiceberg.schema import Schema
from pyiceberg.table.locations import load_location_provider
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.typedef import Record
from pyiceberg.types import LongType, StringType

from sinks.at_once import at_once, at_once_by
from sinks.iceberg.deletes import DeletedRows
from sinks.owners import file_name
from sources.changes import TopicPartition

ROWS_PER_ROW_GROUP = 256 * 1024
DELETES_PER_ROW_GROUP = 16 * 1024
"""Readers that look for one data file's deletes read the row groups that name it."""
COMPRESSION, LEVEL = "zstd", 1

PATH_ID, POS_ID = 2147483546, 2147483545
"""Reserved field ids of a position-delete file's columns (Iceberg spec, Reserved Field IDs)."""


def _with_id(name: str, kind: pa.DataType, field_id: int) -> pa.Field:
    return pa.field(name, kind, nullable=False, metadata={PYARROW_PARQUET_FIELD_ID_KEY: str(field_id).encode()})


_DELETES = pa.schema([_with_id("file_path", pa.string(), PATH_ID), _with_id("pos", pa.int64(), POS_ID)])


@dataclass(frozen=True)
class StagedRows:
    """A written data file and the rows in it, in row order."""

    file: DataFile
    rows: pa.Table


class Staging:
    """Writes files into one table, as its metadata stood when this was made."""

    def __init__(self, metadata: TableMetadata, io: FileIO) -> None:
        self._metadata = metadata
        self._io = io
        self._locations = load_location_provider(metadata.location, metadata.properties)
        self._schema = metadata.schema()
        self._arrow = _file_schema(self._schema)
        self._statistics = compute_statistics_plan(self._schema, metadata.properties)
        self._paths = parquet_path_to_id_mapping(self._schema)

    def data_files(self, owned: Mapping[TopicPartition, pa.Table]) -> dict[TopicPartition, list[StagedRows]]:
        """Write the rows of each Kafka partition into files that it owns, split by table partition."""
        split = ((tp, key, part) for tp, rows in owned.items() for key, part in self._split(rows))
        return at_once_by(self._data_file, [(part[0], part) for part in split if part[2].num_rows])

    def _split(self, rows: pa.Table) -> list[tuple[PartitionKey | None, pa.Table]]:
        table = self._fit(rows)
        spec = self._metadata.spec()
        if spec.is_unpartitioned():
            return [(None, table)]
        split = _determine_partitions(spec, self._schema, table)
        return [(part.partition_key, part.arrow_table_partition) for part in split]

    def _data_file(self, tp: TopicPartition, key: PartitionKey | None, rows: pa.Table) -> StagedRows:
        path = self._locations.new_data_location(file_name("lw", tp), key)
        size, parquet = self._write(path, rows.schema, [rows], ROWS_PER_ROW_GROUP)
        statistics = data_file_statistics_from_parquet_metadata(parquet, self._statistics, self._paths)
        described = self._describe(
            DataFileContent.DATA, path, size, self._metadata.default_spec_id, key.partition if key else Record(),
            **statistics.to_serialized_dict(),
        )  # fmt: skip
        return StagedRows(described, rows)

    def position_deletes(self, tp: TopicPartition, deleted: DeletedRows, spec_id: int, partition: Record) -> DataFile:
        """Write one delete file, owned by `tp`; the data files that it names all have this spec and partition."""
        deleted = deleted.sorted()
        name = file_name("lw-deletes", tp)
        path = self._locations.new_data_location(name)
        size, _ = self._write(path, _DELETES, deleted.batches(_DELETES, DELETES_PER_ROW_GROUP), DELETES_PER_ROW_GROUP)
        first, last = deleted.paths[deleted.codes[0]], deleted.paths[deleted.codes[-1]]
        lowest, highest = int(deleted.rows.min()), int(deleted.rows.max())
        return self._describe(
            DataFileContent.POSITION_DELETES, path, size, spec_id, partition,
            record_count=len(deleted),
            # with equal bounds readers know that the file concerns one data file only
            lower_bounds={PATH_ID: to_bytes(StringType(), first), POS_ID: to_bytes(LongType(), lowest)},
            upper_bounds={PATH_ID: to_bytes(StringType(), last), POS_ID: to_bytes(LongType(), highest)},
            value_counts={PATH_ID: len(deleted), POS_ID: len(deleted)},
            null_value_counts={PATH_ID: 0, POS_ID: 0},
        )  # fmt: skip

    def discard(self, files: list[DataFile]) -> None:
        """Remove files that will never be committed."""
        at_once(self._io.delete, [file.file_path for file in files])

    def _fit(self, rows: pa.Table) -> pa.Table:
        """The rows with the table's columns, in its order; columns that they lack are null."""
        n = rows.num_rows
        columns = []
        for field in self._arrow:
            if field.name not in rows.column_names:
                columns.append(pa.nulls(n, field.type))
                continue
            column = rows.column(field.name)
            columns.append(column if column.type == field.type else column.cast(field.type))
        return pa.table(columns, schema=self._arrow)

    def _write(
        self, path: str, schema: pa.Schema, tables: Iterable[pa.Table], rows_per_group: int
    ) -> tuple[int, pq.FileMetaData]:
        with (
            self._io.new_output(path).create(overwrite=True) as stream,
            pq.ParquetWriter(
                stream,
                schema,
                compression=COMPRESSION,
                compression_level=LEVEL,
                store_decimal_as_integer=True,  # Iceberg spec, Appendix A: decimals up to 18 digits are int32, int64
            ) as writer,
        ):
            for table in tables:
                writer.write_table(table, row_group_size=rows_per_group)
            writer.close()
            size = int(stream.tell())
            return size, writer.writer.metadata

    def _describe(
        self, content: DataFileContent, path: str, size: int, spec_id: int, partition: Record, **statistics: Any
    ) -> DataFile:
        file = DataFile.from_args(
            _table_format_version=self._metadata.format_version,
            content=content,
            file_path=path,
            file_format=FileFormat.PARQUET,
            partition=partition,
            file_size_in_bytes=size,
            sort_order_id=None,
            equality_ids=None,
            key_metadata=None,
            **statistics,
        )
        file.spec_id = spec_id
        return file


def _file_schema(schema: Schema) -> pa.Schema:
    """The Arrow schema of data files, with field ids; text and bytes with 32-bit offsets, as they arrive."""
    small = {pa.large_string(): pa.string(), pa.large_binary(): pa.binary()}
    fields = schema_to_pyarrow(schema, include_field_ids=True)
    return pa.schema([field.with_type(small.get(field.type, field.type)) for field in fields])
