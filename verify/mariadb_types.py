"""How MariaDB and MySQL are asked to write a column, and what reads it, so that what comes is what Debezium sent."""

from __future__ import annotations

import struct
from typing import Any

from sources.debezium.source_types import Modes, SqlType
from verify.columns import Column, Reading
from verify.moments import Moments, nulled, without_zeros
from verify.texts import OUT_OF_RANGE, Read, bits, documents, each, hexadecimal, plain

_INTEGERS = frozenset({"tinyint", "smallint", "mediumint", "int", "bigint", "year"})
_FLOATS = frozenset({"float", "double"})
_BYTES = frozenset({"binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"})
_TEXTS = frozenset({"char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum", "set", "uuid"})


def quoted(name: str) -> str:
    """An identifier."""
    return "`" + name.replace("`", "``") + "`"


def reading(column: Column, *, mysql: bool) -> Reading | None:
    """How a column is read; None if it isn't known how Debezium represents it. `mysql`: the server is one."""
    if column.wire is None:
        return None
    type_, name, modes = SqlType.parse(column.source.type), quoted(column.name), column.modes
    kind = type_.name.removesuffix(" unsigned")
    if kind in _INTEGERS:
        signed = kind == "bigint" and column.wire.kind == "int64"
        return Reading(f"CAST({name} AS SIGNED)" if signed else name, plain)
    if kind in _FLOATS:
        # as a FLOAT the server writes six digits
        return Reading(f"CAST({name} AS DOUBLE)", plain)
    if kind in _BYTES:
        return _bytes(name, modes)
    if kind in _TEXTS:
        return Reading(name, plain)
    match kind:
        case "json":
            # MySQL's travels in binary, and Debezium writes it anew; MariaDB's is a text
            return Reading(name, plain, documents if mysql else None)
        case "decimal":
            if modes.decimal == "double":
                return Reading(f"CAST({name} AS DOUBLE)", plain)
            return Reading(f"{name} + 0" if "zerofill" in column.source.type else name, plain)
        case "bit":
            length = type_.number(0) or 1
            return Reading(f"{name} + 0", plain) if length == 1 else _bits(name, length)
        case "date" | "datetime" | "timestamp" | "time":
            return _moment(column, name, type_)
        case "point":
            return Reading(f"HEX({name})", each(point))
    return Reading(f"HEX({name})", each(geometry)) if column.wire.kind == "struct" else None


def text_of(column: Column) -> str:
    """The expression whose text is that of the column in the lake."""
    found = reading(column, mysql=False)
    return quoted(column.name) if found is None else found.sql


def truth(name: str) -> Reading:
    """A `tinyint(1)` that Debezium took for a boolean (see docs/types.md)."""
    return Reading(f"{quoted(name)} <> 0", plain)


def _moment(column: Column, name: str, type_: SqlType) -> Reading | None:
    mode, rule = column.modes.time, column.rule
    if mode == "structured":
        return None
    exact = rule.misfit == "text"
    if type_.name == "timestamp":
        # the same instant has its last zeros while the connector streams, and in a snapshot it hasn't
        read: Read = Moments(exact, None, zone="Z")
        alike = without_zeros if exact else None
    else:
        digits = {"isostring": None, "nanoseconds": 9}.get(mode, 6)
        read = Moments(exact, digits, cut=mode == "connect" and (type_.number(0) or 0) > 3)
        alike = None
    sql = _of_a_day(name, mode) if type_.name == "time" else _no_zero(column, name, type_.name)
    return Reading(sql, nulled(read) if rule.misfit == "set_null" else read, alike)


def _of_a_day(name: str, mode: str) -> str:
    """But in one mode, times of no day arrive as null, if the connector doesn't stop; 24:00 may become 00:00."""
    if mode == "adaptive_time_microseconds":
        return name
    inside = f"{name} >= '00:00:00' AND {name} < '24:00:00'"
    midnight = "'24:00:00'" if mode == "connect" else "'00:00:00'"
    return f"IF({inside}, {name}, IF({name} = '24:00:00', {midnight}, NULL))"


def _no_zero(column: Column, name: str, type_: str) -> str:
    """Debezium has no zero dates: they arrive as null or, where the column can't be null, as its default or as 1970,
    which is a misfit wherever a zero date may be behind it (see `sources.debezium.policies`)."""
    source, accept_loss = column.source, column.rule.accept_loss
    out = f"'{OUT_OF_RANGE}'"
    if source.nullable:
        instead = "NULL"
    elif source.default:
        instead = f"DEFAULT({name})" if accept_loss else out
    else:
        epoch = "'1970-01-01'" if type_ == "date" else "'1970-01-01 00:00:00'"
        instead = epoch if accept_loss else out
    value = f"IF({name} = 0 OR MONTH({name}) = 0 OR DAY({name}) = 0, {instead}, {name})"
    if accept_loss or (source.nullable and type_ != "timestamp"):
        return value
    return f"IF({name} = '1970-01-01', {out}, {value})"


def _bits(name: str, length: int) -> Reading:
    return Reading(f"LPAD(BIN({name} + 0), {length}, '0')", each(bits))


def _bytes(name: str, modes: Modes) -> Reading:
    if modes.binary == "bytes":
        return Reading(f"HEX({name})", hexadecimal)
    if modes.binary == "hex":
        return Reading(f"LOWER(HEX({name}))", plain)
    # with line breaks, which Debezium doesn't write
    text = f"REPLACE(TO_BASE64({name}), '\n', '')"
    return Reading(
        f"REPLACE(REPLACE({text}, '+', '-'), '/', '_')" if modes.binary == "base64-url-safe" else text, plain
    )


def geometry(text: str) -> dict[str, Any]:
    """Debezium's Geometry out of the server's own form in hexadecimal digits: four bytes of the reference system, then
    well-known binary."""
    (srid,) = struct.unpack("<I", bytes.fromhex(text[:8]))
    return {"wkb": bytes.fromhex(text[8:]), "srid": srid or None}


def point(text: str) -> dict[str, Any]:
    """Debezium's Point."""
    found = geometry(text)
    x, y = struct.unpack("<2d", found["wkb"][5:21])
    return {"x": x, "y": y, **found}
