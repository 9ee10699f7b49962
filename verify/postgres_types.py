"""How PostgreSQL is asked to write a column, and what reads it, so that what comes is what Debezium sent.

None of the expressions is a cast of the column where the type's own text is meant: `inet` and `char(n)` are cast to
other texts than they write.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from sources.debezium.connect_types import ConnectType
from sources.debezium.postgres_types import TEXTS, canonical
from sources.debezium.source_types import Modes, SqlType
from verify import geometries, structured
from verify.columns import Column, Reading
from verify.moments import Moments, nulled
from verify.texts import (
    bits,
    documents,
    each,
    entries,
    finite,
    hexadecimal,
    lists,
    named,
    null_as_empty,
    plain,
    sorted_maps,
    whole,
)

SESSION = {
    "timezone": "UTC",
    "datestyle": "ISO",
    "intervalstyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "3",
    "client_encoding": "UTF8",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
}
"""Settings of the session under which the expressions below mean what they say."""

_NUMBERS = frozenset({"boolean", "smallint", "integer", "bigint", "oid", "real", "double precision"})
_GEOMETRIES: Mapping[str, Callable[[str], Any]] = {
    "point": geometries.point,
    "line": geometries.line,
    "circle": geometries.circle,
    "lseg": geometries.segment,
    "box": geometries.box,
    "path": geometries.path,
    "polygon": geometries.polygon,
}
_UNTRIED = frozenset({"geometry", "geography", "sparsevec"})
"""Types of extensions whose representation isn't known for sure."""
_PARTS = ("year", "month", "day", "hour", "minute", "second")
_TEMPORAL = frozenset({"date", "time", "timestamp", "timestamptz"})
_ITEMS = _NUMBERS | TEXTS | _TEMPORAL | {"numeric", "bytea", "hstore", "timetz"}


def quoted(name: str) -> str:
    """An identifier."""
    return '"' + name.replace('"', '""') + '"'


def reading(column: Column) -> Reading | None:
    """How a column is read; None if it isn't known how Debezium represents it."""
    type_, name = canonical(SqlType.parse(column.source.type)), quoted(column.name)
    wire, rule = column.wire, column.rule
    if wire is None:
        return None
    if not type_.dimensions:
        found = _one(name, type_, wire, column.modes, exact=rule.misfit == "text")
    elif wire.kind == "array" and wire.items is not None:
        found = _array(name, type_, wire.items, column.modes, accept_loss=rule.accept_loss)
    else:  # of bits, which Debezium sends as null
        found = Reading("NULL::text", hexadecimal) if rule.accept_loss else None
    if found is not None and rule.misfit == "set_null" and type_.name in _TEMPORAL:
        return replace(found, read=nulled(found.read))
    return found


def text_of(column: Column) -> str:
    """The expression whose text is that of the column in the lake."""
    found = reading(column)
    return quoted(column.name) if found is None else found.sql


def _array(name: str, type_: SqlType, items: ConnectType, modes: Modes, *, accept_loss: bool) -> Reading | None:
    """An array as JSON of its items' texts."""
    item = _item(replace(type_, dimensions=0), items, modes)
    if item is None:
        return None
    sql = f"to_json(ARRAY(SELECT {item.sql} FROM unnest({name}) WITH ORDINALITY u(e, n) ORDER BY n))"
    if accept_loss:  # Debezium sends inner arrays as null
        inner = f"to_json(array_fill(NULL::text, ARRAY[array_length({name}, 1)]))"
        sql = f"CASE WHEN array_ndims({name}) > 1 THEN {inner} ELSE {sql} END"
    read = whole(lists(item.read)) if type_.name == "numeric" else lists(item.read)
    of_structs = modes.time == "structured" and items.kind == "struct"
    alike = null_as_empty if of_structs and type_.name != "numeric" else item.alike
    return Reading(f"CASE WHEN {name} IS NOT NULL THEN {sql}::text END", read, alike)


def _item(type_: SqlType, wire: ConnectType, modes: Modes) -> Reading | None:
    """Most are as a column of the type; how those of rare types arrive isn't known."""
    if type_.name not in _ITEMS:
        return None
    if type_.name == "time":
        return _moment("e", type_, modes, exact=False, cut=True)
    found = _one("e", type_, wire, modes)
    return None if found is None else replace(found, sql=_own_text("e")) if found.sql == "e" else found


def _own_text(name: str) -> str:
    """A value's text as its type writes it, which a cast isn't for `inet` and `char(n)`."""
    return f"CASE WHEN {name} IS NOT NULL THEN concat({name}) END"


def _one(x: str, type_: SqlType, wire: ConnectType, modes: Modes, *, exact: bool = False) -> Reading | None:
    """A value that is no array. Its SQL is `x` itself where COPY writes the type's own text."""
    name = type_.name
    if name in _UNTRIED:
        return None
    if name in _NUMBERS:
        return Reading(f"{x}::text", plain)
    if name in _GEOMETRIES:
        return Reading(f"{x}::text", each(_GEOMETRIES[name]), sorted_maps)
    if name in TEXTS:
        return Reading(x, plain)
    match name:
        case "bit" | "varbit":
            boolean = wire.kind == "boolean"
            return Reading(f"({x} = B'1')::text", plain) if boolean else Reading(f"{x}::text", each(_bits))
        case "numeric" | "money":
            # of a type without scale Debezium sends the value without its last zeros
            trimmed = (wire.name or "").endswith("VariableScaleDecimal")
            return _decimal(f"trim_scale({x})" if trimmed else f"{x}::numeric", modes)
        case "bytea":
            return _bytes(x, modes)
        case "hstore":
            if modes.hstore == "map":
                return Reading(f"{x}::json::text", each(entries), sorted_maps)
            return Reading(f"{x}::json::text", plain, documents)
        case "date" | "time" | "timestamp" | "timestamptz" | "timetz":
            return _moment(x, type_, modes, exact=exact, cut=False)
        case "vector" | "halfvec":
            return Reading(f"{x}::text", lists(plain))
    if name.startswith("interval"):
        return _interval(x, modes)
    return _bytes(f"convert_to({x}::text, 'UTF8')", modes)


def _moment(x: str, type_: SqlType, modes: Modes, *, exact: bool, cut: bool) -> Reading:
    """Dates and times; the session is in UTC. `cut`: the connector leaves out what is finer than milliseconds."""
    precision = 6 if (given := type_.number(0)) is None else given
    if modes.time == "structured":
        # 24:00 arrives as null, if the connector doesn't stop
        text = f"date_trunc('milliseconds', {x})::text" if cut else f"{x}::text"
        sql = f"CASE WHEN {x} < '24:00' THEN {text} END" if type_.name == "time" else text
        return Reading(sql, each(structured.moment(precision, "Z" if type_.name == "timestamptz" else None)))
    digits = {"isostring": None, "nanoseconds": 9}.get(modes.time, 6)
    cut = cut or (precision > 3 and modes.time == "connect")
    match type_.name:
        case "date":
            return Reading(f"{x}::text", Moments(exact))
        case "time" if modes.time == "isostring":
            return Reading(f"CASE {x} WHEN '24:00' THEN '00:00:00' ELSE {x}::text END", Moments(exact, digits, cut=cut))
        case "time":
            return Reading(f"{x}::text", Moments(exact, digits, cut=cut))
        case "timestamp" if modes.time == "nanoseconds":
            return Reading(_in_nanoseconds(x), Moments(exact, digits))
        case "timestamp":
            counted = modes.time == "microseconds" or (precision > 3 and modes.time.startswith("adaptive"))
            return Reading(f"{x}::text", Moments(exact, digits, cut=cut, counted=counted))
        case "timestamptz":
            return Reading(f"({x} AT TIME ZONE 'UTC')::text", Moments(exact, precision, zone="Z"))
    return Reading(f"replace(({x} AT TIME ZONE 'UTC')::text, '+00', 'Z')", plain)


def _in_nanoseconds(x: str) -> str:
    """What 64 bits can't count arrives as null, infinity as their ends."""
    first, last = "1677-09-21 00:12:43.145224192", "2262-04-11 23:47:16.854775807"
    ends = f"CASE {x} WHEN 'infinity' THEN '{last}' WHEN '-infinity' THEN '{first}' END"
    return (
        f"CASE WHEN isfinite({x}) THEN CASE WHEN {x} > '{first}' AND {x} < '{last}' THEN {x}::text END ELSE {ends} END"
    )


def _interval(x: str, modes: Modes) -> Reading:
    """As ISO 8601, or in microseconds."""
    year, month, day, hour, minute, second = (f"extract({part} FROM {x})" for part in _PARTS)
    if modes.interval == "string" or modes.time == "structured":
        numbers = ", ".join(f"{part}::int" for part in (year, month, day, hour, minute))
        text = f"format('P%sY%sM%sDT%sH%sM%sS', {numbers}, trim_scale({second}::numeric))"
        read = each(structured.duration(6)) if modes.time == "structured" else plain
        return Reading(f"CASE WHEN {x} IS NOT NULL THEN {text} END", read)
    # a month of 30.4375 days, counted in floating point as Debezium does
    days = f"({year} * 12 + {month})::float8 * 30.4375 + {day}::float8"
    seconds = f"((({days}) * 24 + {hour}::float8) * 60 + {minute}::float8) * 60 + {second}::float8"
    return Reading(f"trunc(({seconds}) * 1e6)::bigint::text", plain)


def _decimal(x: str, modes: Modes) -> Reading:
    if modes.decimal == "double":
        return Reading(f"{x}::float8::text", plain)
    return Reading(f"{x}::text", named if modes.decimal == "string" else finite)


def _bits(text: str) -> bytes:
    """Debezium leaves the highest zeros out."""
    return bits(text).rstrip(b"\0")


def _bytes(x: str, modes: Modes) -> Reading:
    if modes.binary == "bytes":
        return Reading(f"encode({x}, 'hex')", hexadecimal)
    if modes.binary == "hex":
        return Reading(f"encode({x}, 'hex')", plain)
    # with line breaks, which Debezium doesn't write
    url_safe = modes.binary == "base64-url-safe"
    return Reading(
        f"translate(encode({x}, 'base64'), E'{'+/' if url_safe else ''}\\n', '{'-_' if url_safe else ''}')", plain
    )
