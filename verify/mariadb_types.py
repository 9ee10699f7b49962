"""How MariaDB and MySQL are asked to write a column, so that `verify.texts` reads what Debezium would have sent."""

from __future__ import annotations

import pyarrow as pa

from verify.source import SourceColumn
from verify.texts import OUT_OF_RANGE, Form

_NUMBERS = frozenset({"tinyint", "smallint", "mediumint", "int", "bigint", "year"})
_FLOATS = frozenset({"float", "double"})
_BYTES = frozenset({"binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"})
_TEXTS = frozenset(
    {"char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum", "set", "json", "uuid", "inet4", "inet6"}
)
_MOMENTS = frozenset({"date", "datetime", "timestamp"})
_OUT = f"'{OUT_OF_RANGE}'"


def quoted(name: str) -> str:
    """An identifier."""
    return "`" + name.replace("`", "``") + "`"


def expression(column: SourceColumn, kind: pa.DataType) -> tuple[str, Form] | None:
    """The SQL expression of a column and the form of what it gives; None if it isn't known for this pair of types."""
    name, type_ = quoted(column.name), column.type
    if pa.types.is_boolean(kind):
        return (f"{name} + 0", "plain") if type_ in _NUMBERS | {"bit"} else None
    if pa.types.is_integer(kind):
        return (f"{name} + 0", "plain") if type_ in _NUMBERS else None
    if pa.types.is_floating(kind):
        # as a FLOAT the server writes six digits
        return (f"CAST({name} AS DOUBLE)", "plain") if type_ in _FLOATS | _NUMBERS else None
    if pa.types.is_decimal(kind):
        return (name, "plain") if type_ == "decimal" or type_ in _NUMBERS else None
    if pa.types.is_date(kind):
        return (_no_zero(name, column.nullable, "1970-01-01"), "plain") if type_ == "date" else None
    if pa.types.is_timestamp(kind):
        wanted = "timestamp" if kind.tz else "datetime"
        return (_no_zero(name, column.nullable, "1970-01-01 00:00:00"), "plain") if type_ == wanted else None
    if pa.types.is_time(kind):
        inside = f"{name} >= '00:00:00' AND {name} < '24:00:00'"
        return (f"IF({inside}, {name}, IF({name} IS NULL, NULL, {_OUT}))", "plain") if type_ == "time" else None
    if pa.types.is_binary(kind):
        if type_ == "bit":
            return f"LPAD(BIN({name} + 0), {column.length or 1}, '0')", "bits"
        return (f"HEX({name})", "hex") if type_ in _BYTES else None
    if pa.types.is_string(kind):
        if type_ == "time":  # a Delta table has no type for it
            return f"TIME_FORMAT({name}, '%H:%i:%s.%f')", "plain"
        return (name, "plain") if type_ in _TEXTS | _NUMBERS | _MOMENTS | {"decimal"} else None
    return None


def _no_zero(name: str, nullable: bool, epoch: str) -> str:
    """Debezium has no zero dates: they become null, or 1970 where the column can't be null."""
    instead = "NULL" if nullable else f"'{epoch}'"
    return f"IF(YEAR({name}) > 0 AND MONTH({name}) > 0 AND DAY({name}) > 0, {name}, {instead})"
