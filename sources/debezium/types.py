"""How each Debezium and Connect type is stored in a lake table: without loss, or not at all.

The types on the right are those that both Iceberg v2 and Delta have (Delta lacks a time of day; its sink says what
it does instead). A type that isn't here stops the pipeline by name: a guess could lose values silently.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from config.errors import UnsupportedChange
from sources.debezium import convert, iso, texts
from sources.debezium.connect_types import ConnectType
from sources.debezium.convert import Build


@dataclass(frozen=True)
class LakeType:
    """An Arrow type, and what builds arrays of it from raw columns. `text` builds the same values as exact text, those
    too that the Arrow type can't hold; None where it holds every value. `stops`: a value that doesn't fit stops the
    pipeline; `nulls`: `build` makes such values null."""

    arrow: pa.DataType
    build: Build
    text: Build | None = None
    stops: bool = False
    nulls: bool = False


_TEXT = LakeType(pa.string(), convert.text)
_BYTES = LakeType(pa.binary(), convert.binary)
_INT32 = LakeType(pa.int32(), convert.numbers(pa.int32()))
_INT64 = LakeType(pa.int64(), convert.numbers(pa.int64()))
_DATE = LakeType(pa.date32(), convert.DATE, texts.DATE)
_TIME_MS = LakeType(pa.time64("us"), convert.time_of_day(1), texts.time_of_day(10**3))
_TIME_US = LakeType(pa.time64("us"), convert.time_of_day(1000), texts.time_of_day(10**6))
_TIMESTAMP_MS = LakeType(pa.timestamp("us"), convert.timestamp(1), texts.timestamp(10**3))
_TIMESTAMP_US = LakeType(pa.timestamp("us"), convert.timestamp(1000), texts.timestamp(10**6))

PLAIN = {
    # Iceberg has no 8 and 16 bit integers
    "int8": _INT32,
    "int16": _INT32,
    "int32": _INT32,
    "int64": _INT64,
    "float32": LakeType(pa.float32(), convert.numbers(pa.float32())),
    "float64": LakeType(pa.float64(), convert.numbers(pa.float64())),
    "boolean": LakeType(pa.bool_(), convert.numbers(pa.bool_())),
    "string": _TEXT,
    "bytes": _BYTES,
}

SEMANTIC = {
    ("io.debezium.time.Date", "int32"): _DATE,
    ("io.debezium.time.Time", "int32"): _TIME_MS,
    ("io.debezium.time.MicroTime", "int64"): _TIME_US,
    ("io.debezium.time.NanoTime", "int64"): LakeType(pa.time64("us"), convert.NANO_TIME, texts.time_of_day(10**9)),
    ("io.debezium.time.Timestamp", "int64"): _TIMESTAMP_MS,
    ("io.debezium.time.MicroTimestamp", "int64"): _TIMESTAMP_US,
    ("io.debezium.time.NanoTimestamp", "int64"): LakeType(
        pa.timestamp("us"), convert.NANO_TIMESTAMP, texts.timestamp(10**9)
    ),
    ("io.debezium.time.ZonedTimestamp", "string"): LakeType(
        pa.timestamp("us", tz="UTC"), iso.zoned_timestamp, convert.text
    ),
    ("io.debezium.time.IsoDate", "string"): LakeType(pa.date32(), iso.iso_date, texts.iso),
    ("io.debezium.time.IsoTime", "string"): LakeType(pa.time64("us"), iso.iso_time, texts.iso),
    ("io.debezium.time.IsoTimestamp", "string"): LakeType(pa.timestamp("us"), iso.iso_timestamp, texts.iso),
    ("io.debezium.time.ZonedTime", "string"): _TEXT,
    ("io.debezium.time.Year", "int32"): _INT32,
    ("io.debezium.time.MicroDuration", "int64"): _INT64,
    ("io.debezium.time.NanoDuration", "int64"): _INT64,
    ("io.debezium.time.Interval", "string"): _TEXT,
    ("org.apache.kafka.connect.data.Date", "int32"): _DATE,
    ("org.apache.kafka.connect.data.Time", "int32"): _TIME_MS,
    ("org.apache.kafka.connect.data.Timestamp", "int64"): _TIMESTAMP_MS,
    ("io.debezium.data.Bits", "bytes"): _BYTES,
} | {
    (f"io.debezium.data.{name}", "string"): _TEXT
    for name in ("Json", "Enum", "EnumSet", "Uuid", "Xml", "Ltree", "Tsvector")
}

_DECIMAL = "org.apache.kafka.connect.data.Decimal"
_VARIABLE_DECIMAL = "io.debezium.data.VariableScaleDecimal"
_STRUCTS = frozenset(
    [f"io.debezium.data.geometry.{name}" for name in ("Geometry", "Geography", "Point", "Circle", "Line")]
    + [f"io.debezium.time.Structured{name}" for name in ("Date", "Time", "Timestamp", "Duration")]
    + [f"io.debezium.time.StructuredZoned{name}" for name in ("Time", "Timestamp")]
    + ["io.debezium.data.SparseDoubleVector"]
)
_LISTS = frozenset({None, "io.debezium.data.DoubleVector", "io.debezium.data.FloatVector"})
_MAX_PRECISION = 38

_LEAVE_OUT = "leave the column out (column.exclude.list), or have the connector write it as another type"


def lake_type(type_: ConnectType, column: str) -> LakeType:
    """How values of a Connect type are stored. `column` (topic and column) is named in errors.

    Raises UnsupportedChange for a type that isn't known or that no lake format can hold.
    """
    if type_.name == _DECIMAL and type_.kind == "bytes":
        return _decimal(type_, column)
    if type_.name == _VARIABLE_DECIMAL and type_.kind == "struct":
        return LakeType(pa.string(), convert.variable_decimal)
    if type_.kind == "array" and type_.name in _LISTS and type_.items is not None:
        items = lake_type(type_.items, column)
        arrow = pa.list_(pa.field("element", items.arrow, nullable=type_.items.optional))
        return LakeType(arrow, convert.lists(arrow, items.build))
    if type_.kind == "map" and type_.name is None and type_.keys is not None and type_.items is not None:
        keys, values = lake_type(type_.keys, column), lake_type(type_.items, column)
        arrow = pa.map_(keys.arrow, pa.field("value", values.arrow, nullable=type_.items.optional))
        return LakeType(arrow, convert.maps(arrow, keys.build, values.build))
    if type_.kind == "struct" and type_.name in _STRUCTS:
        parts = {name: lake_type(part, f"{column}.{name}") for name, part in type_.fields}
        # nullable all of them: where the struct is null, so are its parts, which Parquet's writer refuses otherwise
        arrow = pa.struct([pa.field(name, parts[name].arrow) for name, _ in type_.fields])
        return LakeType(arrow, convert.structs(arrow, {n: part.build for n, part in parts.items()}))
    known = PLAIN.get(type_.kind) if type_.name is None else SEMANTIC.get((type_.name, type_.kind))
    if known is None:
        called = f"{type_.name} ({type_.kind})" if type_.name else type_.kind
        raise UnsupportedChange(f"{column}: the type {called} can't be stored without loss; {_LEAVE_OUT}")
    return known


def text_type(type_: ConnectType, column: str) -> LakeType:
    """How a column is stored as text, for the misfit `text`.

    Raises UnsupportedChange for a type whose values all fit as they are, or that has no text.
    """
    build = texts.decimal(_scale(type_)) if type_.name == _DECIMAL else lake_type(type_, column).text
    if build is None:
        raise UnsupportedChange(
            f"{column}: {type_.name or type_.kind} isn't written as text; take the misfit out of source.columns"
        )
    return LakeType(pa.string(), build)


def _scale(type_: ConnectType) -> int:
    return int(type_.parameters.get("scale", "0"))


def _decimal(type_: ConnectType, column: str) -> LakeType:
    """A decimal whose precision isn't given (money, some MariaDB expressions) gets all 38 digits that lakes have."""
    scale = _scale(type_)
    # PostgreSQL's numeric(2,4) has 2 digits, all behind the point and a zero
    precision = max(int(type_.parameters.get("connect.decimal.precision", _MAX_PRECISION)), scale)
    if precision > _MAX_PRECISION or scale < 0:
        raise UnsupportedChange(
            f"{column}: decimal({precision}, {scale}) doesn't fit into the {_MAX_PRECISION} digits that lake tables"
            " have; set the column's misfit to text (source.columns), narrow the column at the source, or set the"
            " connector's decimal.handling.mode to string"
        )
    return LakeType(pa.decimal128(precision, scale), convert.decimal(precision, scale), texts.decimal(scale))
