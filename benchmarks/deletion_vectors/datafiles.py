"""Parquet data files, and the statistics that Delta's log wants of each: `numRecords`, minima, maxima, null counts.

Bounds may be wide but never wrong: a text's maximum is cut off with a character behind it that is larger than all, a
timestamp is cut to milliseconds, downwards for the minimum and upwards for the maximum.
"""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

TEXT_PREFIX = 32
INDEXED_COLUMNS = 32
ROWS_PER_ROW_GROUP = 64 * 1024
"""The old rows of changed keys are read by row group, for the change data feed."""


@dataclass(frozen=True)
class Statistics:
    """A data file's statistics as they stand in the log."""

    rows: int
    text: str

    def wide(self) -> str:
        """The same once a deletion vector took rows away: bounds that needn't be met by a row any more."""
        return self.text.replace('"tightBounds":true', '"tightBounds":false', 1)


def parquet(rows: pa.Table) -> bytes:
    """The bytes of a data file."""
    sink = io.BytesIO()
    pq.write_table(
        rows, sink, row_group_size=ROWS_PER_ROW_GROUP, compression="zstd", compression_level=1,
        coerce_timestamps="us", store_schema=False,
    )  # fmt: skip
    return sink.getvalue()


def statistics(rows: pa.Table) -> Statistics:
    """The statistics of rows that become a data file."""
    minima: dict[str, Any] = {}
    maxima: dict[str, Any] = {}
    nulls: dict[str, int] = {}
    for field in list(rows.schema)[:INDEXED_COLUMNS]:
        column = rows.column(field.name)
        if pa.types.is_nested(field.type):
            continue
        nulls[field.name] = column.null_count
        if column.null_count == len(column) or not _has_bounds(field.type):
            continue
        bounds = pc.min_max(column).as_py()
        if isinstance(bounds["min"], float) and not _all_finite(column):
            continue
        minima[field.name] = _lowest(bounds["min"])
        maximum = _highest(bounds["max"])
        if maximum is not None:
            maxima[field.name] = maximum
    found = {
        "numRecords": rows.num_rows,
        "tightBounds": True,
        "minValues": minima,
        "maxValues": maxima,
        "nullCount": nulls,
    }
    return Statistics(rows.num_rows, _json(found))


def _has_bounds(kind: pa.DataType) -> bool:
    return not (pa.types.is_boolean(kind) or pa.types.is_binary(kind))


def _all_finite(column: pa.ChunkedArray) -> bool:
    return bool(np.isfinite(column.drop_null().to_numpy()).all())


def _lowest(value: Any) -> Any:
    if isinstance(value, str):
        return value[:TEXT_PREFIX]
    if isinstance(value, datetime):
        return _instant(value, value.microsecond // 1_000)
    return _plain(value)


def _highest(value: Any) -> Any:
    """None if there is no upper bound that could be written."""
    if isinstance(value, str):
        # the largest code point there is: nothing that begins with the prefix is larger
        return value if len(value) <= TEXT_PREFIX else value[:TEXT_PREFIX] + "\U0010ffff"
    if isinstance(value, datetime):
        return _instant(value, math.ceil(value.microsecond / 1_000))
    return _plain(value)


def _instant(value: datetime, milliseconds: int) -> str:
    whole = value.replace(microsecond=0) + timedelta(milliseconds=milliseconds)
    if value.tzinfo is None:
        return whole.isoformat(timespec="milliseconds")
    return whole.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, date) else value


def _json(value: Any) -> str:
    """JSON in which a decimal is a number with all its digits."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(name)}:{_json(inner)}" for name, inner in value.items()) + "}"
    return format(value, "f") if isinstance(value, Decimal) else json.dumps(value)
