"""A table's folder on a disk or in an object store: whole files, put if absent, and removed.

`put_new` is what commits rest on: of all who put one path at the same time exactly one succeeds (a hard link on disk,
`If-None-Match: *` on S3). obstore is the client: the `object_store` of delta-rs, with that put.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import unquote, urlparse

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
from obstore.exceptions import AlreadyExistsError
from obstore.store import LocalStore, S3Store

from config.errors import ConfigurationError
from sinks.at_once import at_once
from sinks.delta.storage import store_errors

WHOLE_BYTES = 8 << 20
"""Parquet files up to this size are read in one request."""

_CLIENT_KEYS = re.compile(
    r"allow_http|allow_invalid_certificates|connect_timeout|default_content_type|http[12]_\w+|pool_\w+|proxy_\w+|timeout"
    r"|user_agent"
)
"""Options of the HTTP client. Among those of the store they make obstore panic."""

_DELTA_KEYS = frozenset({"s3_locking_provider", "s3_allow_unsafe_rename", "allow_unsafe_rename"})
"""Options of delta-rs alone, which say how it commits."""

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class StoredFile:
    """A file below the table's folder: path, bytes, and when it was last written."""

    path: str
    size: int
    modified: datetime


class Folder:
    """Files below `uri`, by their paths there. Every verb raises Unavailable or ConfigurationError as delta-rs' calls
    do (see `storage.store_errors`), and FileNotFoundError for a file that isn't there."""

    def __init__(self, uri: str, options: Mapping[str, str]) -> None:
        self._uri = uri
        where = urlparse(uri)
        self._store: Any
        with store_errors(uri):
            if where.scheme in ("s3", "s3a"):
                self._store = _s3(where.netloc, options, uri)
                self._root = where.path.strip("/")
            else:
                self._store = LocalStore()
                self._root = (unquote(where.path) if where.scheme else uri).strip("/")

    def read(self, path: str) -> bytes:
        """A file's bytes."""
        with store_errors(self._uri, absent=True):
            return bytes(obstore.get(self._store, self._full(path)).bytes())

    def read_tagged(self, path: str) -> tuple[bytes, str]:
        """A file's bytes, and what tells it from another one that takes its place."""
        with store_errors(self._uri, absent=True):
            found = obstore.get(self._store, self._full(path))
            return bytes(found.bytes()), _tag(found.meta)

    def read_part(self, path: str, start: int, length: int) -> bytes:
        """So many bytes of a file from `start` on."""
        with store_errors(self._uri, absent=True):
            return bytes(obstore.get_range(self._store, self._full(path), start=start, length=length))

    def tag(self, path: str) -> str | None:
        """What tells a file from another one that takes its place; None if it isn't there."""
        with store_errors(self._uri, absent=True), suppress(FileNotFoundError):
            return _tag(obstore.head(self._store, self._full(path)))
        return None

    def put(self, path: str, content: bytes) -> None:
        """Write a file whose name nobody else uses."""
        with store_errors(self._uri):
            obstore.put(self._store, self._full(path), content)

    def put_new(self, path: str, content: bytes) -> str | None:
        """Write a file if there is none of this name: its tag; None if there is one."""
        with store_errors(self._uri), suppress(AlreadyExistsError):
            return _tag(obstore.put(self._store, self._full(path), content, mode="create", use_multipart=False))
        return None

    def delete(self, paths: Collection[str]) -> None:
        """Remove files; one that is gone already was removed by another worker, or by a run that was cut short."""

        def remove(path: str) -> None:
            with store_errors(self._uri, absent=True), suppress(FileNotFoundError):
                obstore.delete(self._store, self._full(path))

        at_once(remove, paths)

    def files(self, folder: str = "") -> Iterator[StoredFile]:
        """All files below a folder of the table (none if it isn't there)."""
        with store_errors(self._uri, absent=True), suppress(FileNotFoundError):
            for found in obstore.list(self._store, prefix=self._full(folder)):
                for meta in found:
                    path = meta["path"].removeprefix(self._root).lstrip("/")
                    yield StoredFile(path, meta["size"], meta["last_modified"])

    def parquet(self, path: str, size: int = 0) -> pq.ParquetFile:
        """A Parquet file to be read: a small one (or one of unknown `size`) comes in one request, of a large one what
        is read of it."""
        source: Any = pa.BufferReader(self.read(path)) if size <= WHOLE_BYTES else self._ranges(path, size)
        # Spark writes times as INT96, which are nanoseconds to Arrow unless told otherwise: far years wouldn't fit
        return pq.ParquetFile(source, coerce_int96_timestamp_unit="us")

    def _ranges(self, path: str, size: int) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self.read_part, path, size), 1 << 20)

    def _full(self, path: str) -> str:
        return f"{self._root}/{path}".rstrip("/")


class _Reader(io.RawIOBase):
    """A file of the store for Arrow, read by ranges."""

    def __init__(self, read_part: Callable[[str, int, int], bytes], path: str, size: int) -> None:
        self._read_part, self._path, self._size, self._at = read_part, path, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self._size - self._at)
        if length <= 0:
            return 0
        buffer[:length] = self._read_part(self._path, self._at, length)
        self._at += length
        return length


def _tag(meta: Any) -> str:
    return f"{meta['e_tag']}"


def _s3(bucket: str, options: Mapping[str, str], uri: str) -> S3Store:
    """delta-rs' options in obstore's three parts."""
    config: dict[str, str] = {}
    client: dict[str, Any] = {}
    retry: dict[str, Any] = {}
    for key, value in options.items():
        name = key.lower().removeprefix("aws_")
        if _CLIENT_KEYS.fullmatch(name):
            client[name] = value.lower() == "true" if value.lower() in ("true", "false") else value
        elif name == "max_retries":
            retry[name] = int(value)
        elif name == "retry_timeout":
            retry[name] = _duration(value, uri)
        elif name not in _DELTA_KEYS:
            config[f"aws_{name}"] = value
    return S3Store(bucket, config=config, client_options=client, retry_config=retry)  # type: ignore[arg-type]  # by key


def _duration(text: str, uri: str) -> timedelta:
    unit = text.lstrip("0123456789.")
    try:
        return timedelta(seconds=float(text.removesuffix(unit)) * _SECONDS[unit.strip()])
    except (KeyError, ValueError):
        raise ConfigurationError(
            f"Delta table {uri}: storage_options: retry_timeout {text!r} isn't a time; write 500ms, 15s or 2m"
        ) from None
