"""What Debezium's MariaDB and MySQL connectors make of each column type."""

from __future__ import annotations

from sources.debezium.connect_types import ConnectType
from sources.debezium.source_types import (
    DATA,
    TIME,
    Modes,
    SqlType,
    Wire,
    binary,
    date,
    decimal,
    geometry,
    named,
    point,
    structured,
    time,
    timestamp,
    zoned_timestamp,
)

_INTEGERS = {
    # signed, unsigned
    "tinyint": ("int16", "int16"),
    "smallint": ("int16", "int32"),
    "mediumint": ("int32", "int32"),
    "int": ("int32", "int64"),
    "integer": ("int32", "int64"),
}
_TEXTS = frozenset({"char", "varchar", "tinytext", "text", "mediumtext", "longtext", "nchar", "nvarchar"})
_BINARIES = frozenset({"binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"})
_SEMANTIC = {"json": "Json", "enum": "Enum", "set": "EnumSet"}
_GEOMETRIES = frozenset({
    "geometry", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon", "geometrycollection",
    "geomcollection",
})  # fmt: skip
_CAST = "keep a text of it in a column of its own, or leave it out (column.exclude.list)"

_TIMES = (
    "times that are negative or reach 24:00 become null or another time; set time.precision.mode to"
    " adaptive_time_microseconds"
)
_UUIDS = f"a uuid that ends in 00 becomes another one while Debezium streams (3.5); make it a char(36), or {_CAST}"


def wire_type(text: str, modes: Modes) -> Wire:
    """What Debezium sends for a column whose type MariaDB or MySQL writes as `text`."""
    type_ = SqlType.parse(text)
    name, unsigned = type_.name.removesuffix(" unsigned"), "unsigned" in f"{type_.name} {type_.suffix}"
    if name in _INTEGERS:
        return Wire(ConnectType(_INTEGERS[name][unsigned]))
    if name in _TEXTS:
        return Wire(ConnectType("string"))
    if name in _BINARIES:
        return binary(modes.binary)
    if name in _SEMANTIC:
        return named("string", DATA + _SEMANTIC[name])
    if name in _GEOMETRIES:
        return geometry("Geometry")
    match name:
        case "bigint" if unsigned:
            return _bigint_unsigned(modes)
        case "bigint":
            return Wire(ConnectType("int64"))
        case "boolean" | "bool":
            return Wire(ConnectType("boolean"))
        case "float":
            return Wire(
                ConnectType("float32" if type_.number(1) is None and (type_.number(0) or 0) <= 24 else "float64")
            )
        case "double" | "real":
            return Wire(ConnectType("float64"))
        case "decimal" | "numeric":
            precision = type_.number(0)
            return decimal(10 if precision is None else precision, type_.number(1) or 0, modes.decimal)
        case "bit":
            length = type_.number(0) or 1
            return Wire(ConnectType("boolean")) if length == 1 else named("bytes", f"{DATA}Bits", length=str(length))
        case "date":
            return date(modes.time)
        case "time" if modes.time == "structured":
            return structured("Duration", "years months days hours minutes seconds nanos precision")
        case "time":
            wire = time(modes.time, type_.number(0) or 0)
            return wire if modes.time == "adaptive_time_microseconds" else Wire(wire.type, _TIMES)
        case "datetime":
            return timestamp(modes.time, type_.number(0) or 0)
        case "timestamp":
            return zoned_timestamp(modes.time)
        case "year":
            return named("int32", f"{TIME}Year")
        case "uuid":
            return Wire(ConnectType("string", f"{DATA}Uuid"), _UUIDS)
        case "point":
            return point()
        case "vector":
            return Wire(ConnectType("array", f"{DATA}FloatVector", items=ConnectType("float32")))
    return Wire(None, f"Debezium doesn't know the type; {_CAST}")


def _bigint_unsigned(modes: Modes) -> Wire:
    if modes.bigint_unsigned == "precise":
        return decimal(20, 0, "precise")
    return Wire(
        ConnectType("int64"),
        "numbers from 9223372036854775808 on become negative; set bigint.unsigned.handling.mode to precise",
    )
