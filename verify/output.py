"""Differing rows as a file: Parquet or JSON, one row or object per differing key, written as they are found."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from config.errors import ConfigurationError
from verify.compare import Difference

SCHEMA = pa.schema(
    [
        ("sink_id", pa.string()),
        ("table", pa.string()),
        ("kind", pa.string()),
        ("key", pa.map_(pa.string(), pa.string())),
        (
            "columns",
            pa.list_(pa.struct([("name", pa.string()), ("source", pa.string()), ("sink", pa.string())])),
        ),
    ]
)
"""The Parquet file's columns. Values are texts, so that one file holds all tables: bytes as hexadecimal digits."""

_SUFFIXES = (".parquet", ".json")


class DifferenceFile:
    """Use as a context manager: the file is whole when the block ends."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigurationError for a name that is neither `….parquet` nor `….json`, or that can't be written."""
        if path.suffix not in _SUFFIXES:
            raise ConfigurationError(f"--output {path}: name it ….parquet or ….json, which says the format")
        self._path = path
        self._json: TextIO | None = None
        self._parquet: pq.ParquetWriter | None = None
        self._rows = 0
        try:
            if path.suffix == ".json":
                self._json = path.open("w", encoding="utf-8")
                self._json.write("[")
            else:
                self._parquet = pq.ParquetWriter(str(path), SCHEMA, compression="zstd")
        except OSError as error:
            raise ConfigurationError(f"--output {path} can't be written: {error}") from error

    def __enter__(self) -> DifferenceFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._parquet is not None:
            self._parquet.close()
        if self._json is not None:
            self._json.write("\n]\n")
            self._json.close()

    def write(self, sink_id: str, table: str, differences: Iterable[Difference]) -> None:
        """Add the differences of a table in a sink."""
        rows = [
            {
                "sink_id": sink_id,
                "table": table,
                "kind": one.kind,
                "key": {name: text(value) for name, value in one.key.items()},
                "columns": [
                    {"name": name, "source": text(source), "sink": text(sink)}
                    for name, (source, sink) in one.columns.items()
                ],
            }
            for one in differences
        ]
        if self._parquet is not None and rows:
            rows = [{**row, "key": list(row["key"].items())} for row in rows]  # type: ignore[attr-defined]
            self._parquet.write_table(pa.Table.from_pylist(rows, SCHEMA))
        if self._json is not None:
            for row in rows:
                self._json.write((",\n" if self._rows else "\n") + json.dumps(row, ensure_ascii=False))
                self._rows += 1


def text(value: Any) -> str | None:
    """A value as exact text; None stays None."""
    if value is None:
        return None
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list | dict):
        return json.dumps(value, default=text, ensure_ascii=False)
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    return str(value)
