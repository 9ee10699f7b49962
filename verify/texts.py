"""What a database wrote as text, as Arrow at the type that a sink stores: exact, a column at a time.

The databases' readers ask for each column in one agreed form (see `Form`), so that one module knows how a type is
represented in the lake, whichever database it comes from.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Literal

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from config.errors import ConfigurationError

Form = Literal["plain", "hex", "bits", "json"]
"""How a column's texts are to be read.

plain  numbers in decimal digits, `true`/`false` or `1`/`0`, ISO 8601 dates, `YYYY-MM-DD HH:MM:SS[.ffffff]` in UTC,
       `HH:MM:SS[.ffffff]`, and text as it is
hex    bytes, two digits each
bits   a bit string, `1010`: bytes as Debezium's `Bits` has them, the lowest first
json   lists and structs; inside them the forms above, bytes as hex
"""

OUT_OF_RANGE = "out of range"
"""Stands for infinity and for times that no lake table holds (years outside of 1 to 9999, 24:00:00). Such a row is a
dead letter, so that its value equals none in the lake."""

_BEYOND = {"date": 2**31 - 1, "timestamp": 2**63 - 1, "time": 86_400_000_000}
_NOT_DECIMAL = pa.array(["NaN", "Infinity", "-Infinity"])


def column(name: str, texts: pa.Array, kind: pa.DataType, form: Form) -> pa.Array:
    """A column's texts (Arrow `string`) at the type `kind`. Raises ConfigurationError for one that doesn't fit."""
    try:
        if form == "hex":
            return _bytes(texts)
        if form == "bits":
            return pa.array([None if text is None else _bits(text) for text in texts.to_pylist()], kind)
        if form == "json":
            read = _from_json(kind)
            return pa.array([None if text is None else read(_parsed(text)) for text in texts.to_pylist()], kind)
        return _plain(texts, kind)
    except (pa.ArrowException, pl.exceptions.PolarsError, ArithmeticError, TypeError, ValueError, KeyError) as error:
        raise ConfigurationError(
            f"column {name}: the source's values can't be compared at the sink's type {kind}: {error}"
        ) from error


def canonical_json(texts: pa.Array) -> pa.Array:
    """JSON documents in one way of writing: sorted keys, no blanks. What isn't JSON stays as it is."""
    return pa.array([None if text is None else _rewritten(text) for text in texts.to_pylist()], pa.string())


def _plain(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_string(kind):
        return texts
    if pa.types.is_decimal(kind):
        # Debezium sends null for these, in precise mode
        return pc.if_else(pc.is_in(texts, _NOT_DECIMAL), None, texts).cast(kind)
    if pa.types.is_date(kind):
        return _ranged(texts, kind, pa.int32(), _BEYOND["date"])
    if pa.types.is_timestamp(kind):
        return _ranged(texts, kind, pa.int64(), _BEYOND["timestamp"])
    if pa.types.is_time(kind):
        return _ranged(texts, kind, pa.int64(), _BEYOND["time"])
    return texts.cast(kind)


def _ranged(texts: pa.Array, kind: pa.DataType, number: pa.DataType, beyond: int) -> pa.Array:
    """Dates and times; what lies out of range becomes the number `beyond`, which no lake table has."""
    outside = pc.equal(texts, OUT_OF_RANGE)
    inside = pc.if_else(outside, None, texts)
    if pa.types.is_time(kind):
        moments = pc.binary_join_element_wise("1970-01-01", inside, " ").cast(pa.timestamp("us"))
        values = moments.cast(pa.int64())
    elif pa.types.is_timestamp(kind):
        values = inside.cast(pa.timestamp(kind.unit)).cast(number)
    else:
        values = inside.cast(kind).cast(number)
    return pc.if_else(outside, pa.scalar(beyond, number), values).cast(number).view(kind)


def _bytes(texts: pa.Array) -> pa.Array:
    series = pl.from_arrow(texts)
    assert isinstance(series, pl.Series)
    return series.str.decode("hex").to_arrow().cast(pa.binary())


def _bits(text: str) -> bytes:
    return int(text or "0", 2).to_bytes((len(text) + 7) // 8, "little")


def _parsed(text: str) -> Any:
    return json.loads(text, parse_float=Decimal)


def _from_json(kind: pa.DataType) -> Callable[[Any], Any]:
    """What turns a parsed JSON value into one that Arrow takes at type `kind`."""
    if pa.types.is_list(kind):
        item = _from_json(kind.value_type)
        return lambda values: [None if value is None else item(value) for value in values]
    if pa.types.is_struct(kind):
        fields = {field.name: _from_json(field.type) for field in kind}
        return lambda values: {n: None if values.get(n) is None else f(values[n]) for n, f in fields.items()}
    if pa.types.is_floating(kind):
        return float
    if pa.types.is_binary(kind):
        return bytes.fromhex
    if pa.types.is_decimal(kind):
        return lambda value: Decimal(value) if Decimal(value).is_finite() else None
    if pa.types.is_string(kind):
        return lambda value: value if isinstance(value, str) else json.dumps(value, default=str)
    if pa.types.is_temporal(kind):
        return lambda value: _plain(pa.array([str(value).replace("T", " ")]), kind)[0].as_py()
    return lambda value: value


def _rewritten(text: str) -> str:
    try:
        return json.dumps(json.loads(text, parse_float=Decimal), sort_keys=True, separators=(",", ":"), default=_number)
    except ValueError:
        return text


def _number(value: Decimal) -> float:
    return float(value)


def readable(value: pa.Scalar) -> Any:
    """A scalar as Python's value; a date or time that Python has none for as `OUT_OF_RANGE`."""
    if pa.types.is_time(value.type) and value.is_valid and value.value >= _BEYOND["time"]:
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


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type as which both sides are compared: views and large variants as their plain form."""
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind) or pa.types.is_fixed_size_binary(kind):
        return pa.binary()
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_list_view(kind):
        return pa.list_(pa.field("element", plain_type(kind.value_type)))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(pa.field("element", plain_type(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, plain_type(field.type)) for field in kind])
    return kind


def plain_schema(columns: pa.Schema) -> pa.Schema:
    """`columns` at their plain types, without metadata; all nullable."""
    return pa.schema([pa.field(field.name, plain_type(field.type)) for field in columns])
