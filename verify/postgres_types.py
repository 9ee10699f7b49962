"""How PostgreSQL is asked to write a column, so that `verify.texts` reads what Debezium would have sent."""

from __future__ import annotations

import pyarrow as pa

from verify.source import SourceColumn
from verify.texts import OUT_OF_RANGE, Form

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

_NUMBERS = frozenset({"int2", "int4", "int8", "oid"})
_FLOATS = frozenset({"float4", "float8"})
_DECIMALS = frozenset({"numeric", "money"})
_OUT = f"'{OUT_OF_RANGE}'"


def quoted(name: str) -> str:
    """An identifier."""
    return '"' + name.replace('"', '""') + '"'


def expression(column: SourceColumn, kind: pa.DataType) -> tuple[str, Form] | None:
    """The SQL expression of a column and the form of what it gives; None if it isn't known for this pair of types."""
    name, type_ = quoted(column.name), column.type
    if pa.types.is_boolean(kind):
        return {"bool": (f"{name}::text", "plain"), "bit": (f"({name} = B'1')::text", "plain")}.get(type_)  # type: ignore[return-value]
    if pa.types.is_integer(kind):
        return (f"{name}::text", "plain") if type_ in _NUMBERS else None
    if pa.types.is_floating(kind):
        return (f"{name}::text", "plain") if type_ in _FLOATS | _NUMBERS else None
    if pa.types.is_decimal(kind):
        return (f"{name}::numeric::text", "plain") if type_ in _DECIMALS | _NUMBERS else None
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return _moment(name, type_, kind)
    if pa.types.is_time(kind):
        return (_within(name, f"{name} < '24:00:00'", f"{name}::text"), "plain") if type_ == "time" else None
    if pa.types.is_binary(kind):
        return _bytes(name, type_)
    if pa.types.is_string(kind):
        return _text(name, type_), "plain"
    if pa.types.is_list(kind):
        if type_ in ("vector", "halfvec"):
            return f"{name}::text", "json"
        known = type_.startswith("_") and expression(SourceColumn("e", type_[1:]), kind.value_type) is not None
        return (f"array_to_json({name})::text", "json") if known and not pa.types.is_binary(kind.value_type) else None
    if pa.types.is_struct(kind) and type_ == "point":
        return _point(name), "json"
    return None


def _within(name: str, condition: str, text: str) -> str:
    return f"CASE WHEN {condition} THEN {text} WHEN {name} IS NOT NULL THEN {_OUT} END"


def _moment(name: str, type_: str, kind: pa.DataType) -> tuple[str, Form] | None:
    wanted = "date" if pa.types.is_date(kind) else "timestamptz" if kind.tz else "timestamp"
    if type_ != wanted:
        return None
    moment = f"({name} AT TIME ZONE 'UTC')" if type_ == "timestamptz" else name
    condition = f"{name} >= '0001-01-01' AND {name} < '10000-01-01'"
    return _within(name, condition, f"{moment}::text"), "plain"


def _bytes(name: str, type_: str) -> tuple[str, Form]:
    if type_ == "bytea":
        return f"encode({name}, 'hex')", "hex"
    if type_ in ("bit", "varbit"):
        return f"{name}::text", "bits"
    # a type that Debezium doesn't know comes as the bytes of its text
    return f"encode(convert_to({name}::text, 'UTF8'), 'hex')", "hex"


def _text(name: str, type_: str) -> str:
    if type_ == "time":  # a Delta table has no type for it
        return f"to_char({name}, 'HH24:MI:SS.US')"
    if type_ == "timetz":
        return f"replace(({name} AT TIME ZONE 'UTC')::text, '+00', 'Z')"
    if type_ == "numeric":
        return f"CASE WHEN {name} <> 'NaN' THEN {name}::text END"
    if type_ == "interval":
        parts = ", ".join(f"extract({part} FROM {name})::int" for part in ("year", "month", "day", "hour", "minute"))
        seconds = f"trim_scale(extract(second FROM {name})::numeric)"
        return f"CASE WHEN {name} IS NOT NULL THEN format('P%sY%sM%sDT%sH%sM%sS', {parts}, {seconds}) END"
    # not name::text: that isn't what the type writes for inet and char(n)
    return name


def _point(name: str) -> str:
    """Debezium's Point: coordinates, and the same as well-known bytes (little endian, type 1)."""
    numbers = "".join(
        f" || encode(substring(float8send({name}[{axis}]) FROM {byte} FOR 1), 'hex')"
        for axis in (0, 1)
        for byte in range(8, 0, -1)
    )
    fields = f"'x', {name}[0], 'y', {name}[1], 'wkb', '0101000000'{numbers}, 'srid', NULL"
    return f"CASE WHEN {name} IS NOT NULL THEN json_build_object({fields})::text END"
