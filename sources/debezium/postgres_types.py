"""What Debezium's PostgreSQL connector makes of each column type."""

from __future__ import annotations

from dataclasses import replace

from sources.debezium.connect_types import ConnectType
from sources.debezium.source_types import (
    DATA,
    DOUBLE_LOSS,
    STRING,
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
    struct,
    structured,
    time,
    timestamp,
    zoned_timestamp,
)

_ALIASES = {
    "bool": "boolean",
    "int2": "smallint",
    "smallserial": "smallint",
    "int": "integer",
    "int4": "integer",
    "serial": "integer",
    "int8": "bigint",
    "bigserial": "bigint",
    "float4": "real",
    "float8": "double precision",
    "float": "double precision",
    "decimal": "numeric",
    "character varying": "varchar",
    "character": "bpchar",
    "char": "bpchar",
    '"char"': "char",
    "bit varying": "varbit",
    "timestamp with time zone": "timestamptz",
    "time with time zone": "timetz",
}
_AS_TEXT = (
    "varchar", "text", "bpchar", "char", "citext", "name", "isbn", "inet", "cidr", "macaddr", "macaddr8",
    "int4range", "int8range", "numrange", "tsrange", "tstzrange", "daterange",
)  # fmt: skip
_PLAIN = {
    "boolean": "boolean",
    "smallint": "int16",
    "integer": "int32",
    "bigint": "int64",
    "oid": "int64",
    "real": "float32",
    "double precision": "float64",
} | dict.fromkeys(_AS_TEXT, "string")
_SEMANTIC = {
    "json": "Json",
    "jsonb": "Json",
    "uuid": "Uuid",
    "xml": "Xml",
    "ltree": "Ltree",
    "tsvector": "Tsvector",
    "enum": "Enum",
}
TEXTS = frozenset((*_AS_TEXT, *_SEMANTIC))
"""Types that Debezium sends as the text that the database writes."""
_LEFT_OUT_ARRAYS = frozenset({"money", "name", "interval", "varbit", "xml", "point"})
_CAST = "keep a text of it in a column of its own, or leave it out (column.exclude.list)"


def wire_type(text: str, modes: Modes) -> Wire:
    """What Debezium sends for a column whose type PostgreSQL writes as `text`."""
    type_ = canonical(SqlType.parse(text))
    return _array(type_, modes) if type_.dimensions else _one(type_, modes)


def _array(type_: SqlType, modes: Modes) -> Wire:
    if type_.name in _LEFT_OUT_ARRAYS:
        return Wire(None, f"Debezium leaves arrays of {type_.name} out of its records; {_CAST}")
    if type_.name == "bit":
        return Wire(_bits("bit", type_.number(0)).type, f"Debezium sends arrays of bit as null; {_CAST}")
    item = _one(replace(type_, dimensions=0), modes)
    if item.type is None:
        return item
    loss = item.loss
    if type_.dimensions > 1:
        loss = f"Debezium sends the inner arrays as null; {_CAST}"
    elif type_.name == "time" and (type_.number(0) is None or type_.arguments[0] > "3") and not loss:
        loss = f"Debezium cuts the microseconds off in arrays; make the precision 3, or {_CAST}"
    return Wire(ConnectType("array", items=replace(item.type, optional=True)), loss)


def canonical(type_: SqlType) -> SqlType:
    """PostgreSQL's own name of a type, its `with(out) time zone` folded in."""
    name = " ".join(part for part in (type_.name, type_.suffix) if part).replace(" without time zone", "")
    return replace(type_, name=_ALIASES.get(name, name), suffix="")


def _one(type_: SqlType, modes: Modes) -> Wire:
    name, precision = type_.name, type_.number(0)
    if name in _PLAIN:
        return Wire(ConnectType(_PLAIN[name]))
    if name in _SEMANTIC:
        return named("string", DATA + _SEMANTIC[name])
    match name:
        case "numeric":
            return _numeric(type_, modes)
        case "money":
            return decimal(None, modes.money_digits, modes.decimal)
        case "date":
            return date(modes.time)
        case "time":
            return _time(modes, 6 if precision is None else precision)
        case "timestamp":
            return timestamp(modes.time, 6 if precision is None else precision)
        case "timestamptz":
            return zoned_timestamp(modes.time)
        case "timetz":
            return _zoned_time(modes)
        case "bytea":
            return binary(modes.binary)
        case "bit" | "varbit":
            return _bits(name, precision)
        case "hstore" if modes.hstore == "map":
            return Wire(ConnectType("map", items=replace(STRING, optional=True), keys=STRING))
        case "hstore":
            return named("string", f"{DATA}Json")
    if name.startswith("interval"):
        if modes.time == "structured":
            return structured("Duration", "years months days hours minutes seconds nanos precision")
        if modes.interval == "string":
            return named("string", f"{TIME}Interval")
        return Wire(
            ConnectType("int64", f"{TIME}MicroDuration"),
            "a month becomes 30.4375 days; set interval.handling.mode to string",
        )
    return _shaped(name, modes)


def _time(modes: Modes, precision: int) -> Wire:
    wire = time(modes.time, precision)
    if modes.time != "isostring":
        return wire
    return Wire(wire.type, "24:00:00 becomes 00:00:00; set time.precision.mode to adaptive_time_microseconds")


def _zoned_time(modes: Modes) -> Wire:
    if modes.time == "structured":
        return structured("ZonedTime", "hour minute second nanos offsetSeconds precision")
    lost = "Debezium moves the time to UTC and drops its offset; set time.precision.mode to structured (Debezium 3.7)"
    return Wire(ConnectType("string", f"{TIME}ZonedTime"), f"{lost}, or {_CAST}")


def _numeric(type_: SqlType, modes: Modes) -> Wire:
    precision, scale = type_.number(0), type_.number(1) or 0
    if precision is not None or modes.decimal == "string":
        return decimal(precision, scale, modes.decimal)
    if modes.decimal == "double":
        return Wire(ConnectType("float64"), DOUBLE_LOSS)
    return struct(f"{DATA}VariableScaleDecimal", ("scale", ConnectType("int32")), ("value", ConnectType("bytes")))


def _bits(name: str, length: int | None) -> Wire:
    """Bits arrive from the lowest on, without the highest zeros: with a fixed length nothing is lost."""
    if name == "bit" and length in (None, 1):
        return Wire(ConnectType("boolean"))
    bits = ConnectType("bytes", f"{DATA}Bits", parameters={"length": str(length or 2**31 - 1)})
    if name == "bit":
        return Wire(bits)
    type_ = ConnectType("boolean") if length == 1 else bits
    return Wire(type_, f"Debezium drops a bit string's length (B'001' and B'1' become the same); {_CAST}")


def _shaped(name: str, modes: Modes) -> Wire:
    """Points, geometries and vectors; what is left is sent as the bytes of its text."""
    real, index = ConnectType("float64"), ConnectType("int16")
    match name:
        case "point":
            return point()
        case "geometry" | "geography":
            return geometry(name.capitalize(), extensions=True)
        case "box" | "lseg" | "path" | "polygon":
            return geometry("Geometry", extensions=True)
        case "line":
            return struct(f"{DATA}geometry.Line", ("a", real), ("b", real), ("c", real))
        case "circle":
            centre = point().type
            assert centre is not None
            return struct(f"{DATA}geometry.Circle", ("center", centre), ("radius", real))
        case "vector":
            return Wire(ConnectType("array", f"{DATA}DoubleVector", items=real))
        case "halfvec":
            return Wire(ConnectType("array", f"{DATA}FloatVector", items=ConnectType("float32")))
        case "sparsevec":
            elements = ConnectType("map", items=real, keys=index)
            return struct(f"{DATA}SparseDoubleVector", ("dimensions", index), ("vector", elements))
    if modes.unknown:
        return binary(modes.binary)
    return Wire(None, "Debezium leaves types out that it doesn't know; set include.unknown.datatypes to true")
