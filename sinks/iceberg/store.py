"""Reading from the store with few requests, several at a time: over a network each one costs more than its bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.io import FileIO
from pyiceberg.io.pyarrow import PYARROW_PARQUET_FIELD_ID_KEY

REQUESTS_AT_ONCE = 8
WHOLE_BYTES = 8 << 20
"""Files up to this size are read in one request."""

T = TypeVar("T")
U = TypeVar("U")


def at_once(function: Callable[[T], U], items: Iterable[T]) -> list[U]:
    """The results of requests to the store, several at a time, in the order of the items; raises what one raised."""
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        return list(pool.map(function, items))


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
