"""The store of a table's files, read and written with few requests."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSystem
from pyiceberg.io import FileIO, InputFile, OutputFile
from pyiceberg.io.pyarrow import PYARROW_PARQUET_FIELD_ID_KEY, PyArrowFileIO

WHOLE_BYTES = 8 << 20
"""Files up to this size are read in one request."""


class StoreFiles(PyArrowFileIO):
    """PyIceberg's files by Arrow, as a writer of many small ones needs them."""

    def delete(self, location: str | InputFile | OutputFile) -> None:
        """Delete a file, or find it gone: of old metadata, PyIceberg and a REST catalog both remove it."""
        with suppress(FileNotFoundError):
            super().delete(location)

    def _initialize_s3_fs(self, netloc: str | None) -> FileSystem:
        # Arrow opens every file in S3 as an upload in parts, three requests; with this option a small one is put in one
        make, (options,) = super()._initialize_s3_fs(netloc).__reduce__()
        return make({**options, "allow_delayed_open": True})


def open_parquet(io: FileIO, path: str, **options: Any) -> pq.ParquetFile:
    """A Parquet file to be read; a small one comes in one request, instead of one per column."""
    stream: Any = io.new_input(path).open()  # a file of Arrow's
    if stream.size() > WHOLE_BYTES:
        return pq.ParquetFile(stream, **options)
    with stream:
        return pq.ParquetFile(pa.BufferReader(stream.read_buffer()), **options)


def columns_by_id(parquet: pq.ParquetFile, names: Mapping[int, str]) -> pa.Table:
    """The columns with these field ids, under these names: they may have had others when the file was written."""
    ids = {
        int((field.metadata or {}).get(PYARROW_PARQUET_FIELD_ID_KEY, b"-1")): field.name
        for field in parquet.schema_arrow
    }
    there = {ids[field_id]: name for field_id, name in names.items() if field_id in ids}
    # without threads, each of which would keep memory for itself; to Arrow "a" also means a column named "a.b"
    return parquet.read(columns=list(there), use_threads=False).select(list(there)).rename_columns(there)
