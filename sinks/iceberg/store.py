"""Reading from the store with few requests, several at a time: over a network each one costs more than its bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.io import FileIO

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
