"""What the log says of a data file's rows: their number, and each column's bounds and nulls (Delta protocol, "Per-file
Statistics").

Readers leave files out by them, so a wrong bound hides rows in every reader. Bounds may be wide but never wrong: a
text's maximum is cut off with a character behind it that is larger than all, a timestamp is cut to milliseconds,
downwards for the minimum and upwards for the maximum. A column whose bounds can't be told for sure has none.
"""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

TEXT_PREFIX = 32
"""Characters of a text that its bounds have."""

INDEXED_COLUMNS = 32
"""Columns, from the first one on, that have bounds: Delta's default."""

_LARGEST = "\U0010ffff"
_NO_BOUND = object()


def statistics(rows: pa.Table) -> str:
    """The statistics of rows that become a data file, as JSON."""
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
        lowest, highest = _bounds(column)
        if lowest is not _NO_BOUND:
            minima[field.name] = lowest
        if highest is not _NO_BOUND:
            maxima[field.name] = highest
    found = {
        "numRecords": rows.num_rows,
        "tightBounds": True,
        "minValues": minima,
        "maxValues": maxima,
        "nullCount": nulls,
    }
    return _json(found)


def _has_bounds(kind: pa.DataType) -> bool:
    return not (pa.types.is_boolean(kind) or pa.types.is_binary(kind))


def _bounds(column: pa.ChunkedArray) -> tuple[Any, Any]:
    if pa.types.is_floating(column.type) and not np.isfinite(column.drop_null().to_numpy()).all():
        return _NO_BOUND, _NO_BOUND  # NaN is larger than all to some readers, and JSON can't say infinity
    try:
        found = pc.min_max(column).as_py()
        return _lowest(found["min"]), _highest(found["max"])
    except (OverflowError, ValueError):  # a date or time outside of Python's years
        return _NO_BOUND, _NO_BOUND


def _lowest(value: Any) -> Any:
    if isinstance(value, str):
        return value[:TEXT_PREFIX]
    if isinstance(value, datetime):
        return _instant(value, value.microsecond // 1_000)
    if isinstance(value, float) and value == 0:
        return -0.0  # to some readers it is smaller than 0.0
    return _plain(value)


def _highest(value: Any) -> Any:
    if isinstance(value, str):
        if len(value) <= TEXT_PREFIX:
            return value
        # nothing that begins with the prefix is larger, unless it goes on with that very character
        return _NO_BOUND if value[TEXT_PREFIX] == _LARGEST else value[:TEXT_PREFIX] + _LARGEST
    if isinstance(value, datetime):
        return _instant(value, math.ceil(value.microsecond / 1_000))
    if isinstance(value, float) and value == 0:
        return 0.0
    return _plain(value)


def _instant(value: datetime, milliseconds: int) -> str:
    """A time with milliseconds; of one with zone in UTC."""
    whole = value.replace(microsecond=0) + timedelta(milliseconds=milliseconds)
    if value.tzinfo is None:
        return whole.isoformat(timespec="milliseconds")
    return whole.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, date) else value


def _json(value: Any) -> str:
    """JSON in which a decimal is a number with all its digits. Characters beyond ASCII are there as they are: delta-rs
    takes some of the pairs that they are escaped to for other characters."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{_json(name)}:{_json(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, Decimal):
        return format(value, "f")
    return json.dumps(value, ensure_ascii=False)
