"""What a database wrote as text, as Arrow at the type that a sink stores: exact, a column at a time.

The databases' readers ask for each column in one agreed form, and say here which of these functions reads it: so one
module knows how a type is represented in the lake, whichever database it comes from. `verify.moments` has those of
dates and times.

Lists come as JSON arrays of texts (or null), each in its own form.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any, TypeAlias

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from config.errors import ConfigurationError

Read: TypeAlias = Callable[[pa.Array, pa.DataType], pa.Array]
"""Texts (Arrow `string`) as values of a plain type (see `verify.lake_types`)."""

OUT_OF_RANGE = "out of range"
"""Stands for a value that no lake table holds (infinity, 24:00:00, a zero date): its row is a dead letter, so that it
equals nothing there."""

BEYOND = {"date": 2**31 - 1, "timestamp": 2**63 - 1, "time": 86_400_000_000}
"""The same as days or microseconds."""

_NAMES = {"NaN": "NAN", "Infinity": "POSITIVE_INFINITY", "-Infinity": "NEGATIVE_INFINITY"}
_NOT_DECIMAL = pa.array(list(_NAMES))


def column(name: str, texts: pa.Array, kind: pa.DataType, read: Read) -> pa.Array:
    """A column's texts at the type `kind`. Raises ConfigurationError for one that doesn't fit."""
    try:
        return read(texts, kind)
    except (pa.ArrowException, pl.exceptions.PolarsError, ArithmeticError, TypeError, ValueError, KeyError) as error:
        raise ConfigurationError(
            f"column {name}: the source's values can't be compared at the sink's type {kind}: {error}"
        ) from error


def plain(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    """Numbers in decimal digits, `true`/`false` or `1`/`0`, and text as it is."""
    return texts if pa.types.is_string(kind) else texts.cast(kind)


def finite(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    """Decimals; NaN and infinity are null, as Debezium sends them in precise mode if it doesn't stop."""
    return plain(pc.if_else(pc.is_in(texts, _NOT_DECIMAL), None, texts), kind)


def named(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    """Decimals as Debezium writes them in string mode: NaN and infinity have names of their own."""
    for text, name in _NAMES.items():
        texts = pc.if_else(pc.equal(texts, text), name, texts)
    return plain(texts, kind)


def hexadecimal(texts: pa.Array, _kind: pa.DataType) -> pa.Array:
    """Bytes, two digits each."""
    series = pl.from_arrow(texts)
    assert isinstance(series, pl.Series)
    return series.str.decode("hex").to_arrow().cast(pa.binary())


def each(parse: Callable[[str], Any]) -> Read:
    """What `parse` makes of each text."""

    def read(texts: pa.Array, kind: pa.DataType) -> pa.Array:
        return pa.array([None if text is None else parse(text) for text in texts.to_pylist()], kind)

    return read


def bits(text: str) -> bytes:
    """A bit string, `1010`, as bytes, the lowest first."""
    return int(text or "0", 2).to_bytes((len(text) + 7) // 8, "little")


def lists(item: Read) -> Read:
    """JSON arrays of texts that `item` reads."""

    def read(texts: pa.Array, kind: pa.DataType) -> pa.Array:
        rows = [None if text is None else json.loads(text) for text in texts.to_pylist()]
        offsets = np.zeros(len(rows) + 1, np.int32)
        np.cumsum([0 if row is None else len(row) for row in rows], out=offsets[1:])
        items = pa.array([value for row in rows if row is not None for value in row], pa.string())
        missing = pa.array([row is None for row in rows], pa.bool_())
        values = item(items, kind.value_type)
        return pa.ListArray.from_arrays(pa.array(offsets), values, type=kind, mask=missing)

    return read


def whole(read: Read) -> Read:
    """Lists of decimals: one with NaN or infinity arrives as null."""

    def checked(texts: pa.Array, kind: pa.DataType) -> pa.Array:
        return read(pc.if_else(pc.match_substring_regex(texts, '"(NaN|-?Infinity)"'), None, texts), kind)

    return checked


def entries(text: str) -> list[tuple[str, Any]]:
    """A JSON object as a map's entries."""
    return list(json.loads(text).items())


def sorted_maps(values: pa.Array) -> pa.Array:
    """Maps with their entries in the order of the keys."""
    return pa.array([_in_order(value, values.type) for value in values.to_pylist()], values.type)


def _in_order(value: Any, kind: pa.DataType) -> Any:
    if value is None:
        return None
    if pa.types.is_map(kind):
        return sorted(value)
    if pa.types.is_list(kind):
        return [_in_order(item, kind.value_type) for item in value]
    if pa.types.is_struct(kind):
        return {field.name: _in_order(value[field.name], field.type) for field in kind}
    return value


def null_as_empty(values: pa.Array) -> pa.Array:
    """Lists; PyIceberg reads null lists of structs as empty ones, so that nobody can tell them apart."""
    return pa.array([value or [] for value in values.to_pylist()], values.type)


def documents(values: pa.Array) -> pa.Array:
    """JSON documents, or lists of them, with sorted keys and without blanks. What isn't JSON stays as it is."""
    if pa.types.is_list(values.type):
        rows: list[Any] = [None if row is None else [_rewritten(text) for text in row] for row in values.to_pylist()]
    else:
        rows = [_rewritten(text) for text in values.to_pylist()]
    return pa.array(rows, values.type)


def _rewritten(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return json.dumps(json.loads(text, parse_float=Decimal), sort_keys=True, separators=(",", ":"), default=float)
    except ValueError:
        return text


def readable(value: pa.Scalar) -> Any:
    """A scalar as Python's value; a date or time that Python has none for as `OUT_OF_RANGE`."""
    if pa.types.is_time(value.type) and value.is_valid and value.value >= BEYOND["time"]:
        return OUT_OF_RANGE  # Python would begin the day anew
    try:
        return value.as_py()
    except (OverflowError, ValueError):
        return OUT_OF_RANGE


def strings(values: list[Any]) -> pa.Array:
    """Texts out of a driver's bytes. Raises ConfigurationError for bytes that aren't UTF-8."""
    try:
        return pa.array(values, pa.binary()).cast(pa.string())
    except pa.ArrowInvalid as error:
        raise ConfigurationError(f"the source has a text that isn't UTF-8: {error}") from error
