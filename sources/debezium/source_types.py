"""Column types as databases write them, and what Debezium makes of them: the ground of schemaless JSON, of the checks
of `cdc deploy`, and of docs/types.md. `postgres_types` and `mysql_types` say it for each connector.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sources.debezium.connect_types import ConnectType

_TYPE = re.compile(r"([^(\[]*)(?:\((.*)\))?([^()\[]*)((?:\[\d*\])*)", re.DOTALL)


@dataclass(frozen=True)
class SqlType:
    """A type's name (lower case, one blank between words, without schema), the numbers or words in its brackets, the
    words behind them, and its dimensions if it is an array."""

    name: str
    arguments: tuple[str, ...] = ()
    suffix: str = ""
    dimensions: int = 0

    @classmethod
    def parse(cls, text: str) -> SqlType:
        """`timestamp(3) without time zone`, `numeric(10,2)[]`, `int(10) unsigned`, `enum('a','b')`."""
        found = _TYPE.fullmatch(text.strip())
        if found is None:
            return cls(text.strip().lower())
        name, arguments, suffix, array = found.groups()
        words = " ".join(f"{name} {suffix}".lower().split())
        return cls(
            " ".join(name.lower().split()).rpartition(".")[2],
            tuple(part.strip() for part in arguments.split(",")) if arguments else (),
            words[len(" ".join(name.lower().split())) :].strip(),
            array.count("["),
        )

    def number(self, position: int) -> int | None:
        """The number at a position in the brackets, None if there is none."""
        if position >= len(self.arguments) or not re.fullmatch(r"-?\d+", self.arguments[position]):
            return None
        return int(self.arguments[position])


@dataclass(frozen=True)
class SourceColumn:
    """A column of the source's catalogue: its type as the database writes it (a domain's is its base type's, an
    enum's is `enum`), whether it may be null, is part of the primary key, is computed from others, or has a constant as
    its default (told by MariaDB and MySQL)."""

    name: str
    type: str
    nullable: bool = True
    key: bool = False
    generated: bool = False
    default: bool = False


@dataclass(frozen=True)
class Wire:
    """What Debezium sends for a column: `type`, None if it leaves the column out. `loss` says what the values lose on
    that way, and which option or step helps; empty if nothing."""

    type: ConnectType | None
    loss: str = ""


@dataclass(frozen=True)
class Modes:
    """The settings of a connector that decide about types, under Debezium's names and with its defaults."""

    decimal: str = "precise"
    time: str = "adaptive"
    binary: str = "bytes"
    interval: str = "numeric"
    hstore: str = "json"
    bigint_unsigned: str = "long"
    unknown: bool = False
    money_digits: int = 2

    @classmethod
    def of(cls, config: Mapping[str, str]) -> Modes:
        """Those of a connector's flat configuration."""
        mysql = "Postgres" not in config.get("connector.class", "Postgres")
        return cls(
            config.get("decimal.handling.mode", "precise"),
            config.get("time.precision.mode", "adaptive_time_microseconds" if mysql else "adaptive"),
            config.get("binary.handling.mode", "bytes"),
            config.get("interval.handling.mode", "numeric"),
            config.get("hstore.handling.mode", "json"),
            config.get("bigint.unsigned.handling.mode", "long"),
            config.get("include.unknown.datatypes", "false") == "true",
            int(config.get("money.fraction.digits", "2")),
        )


TIME = "io.debezium.time."
DATA = "io.debezium.data."
CONNECT = "org.apache.kafka.connect.data."
STRING = ConnectType("string")
BYTES = ConnectType("bytes")

DOUBLE_LOSS = "a double holds 15 digits; set decimal.handling.mode to precise or string"
_MILLISECONDS = (
    "time.precision.mode connect cuts the microseconds off; set it to adaptive_time_microseconds, or make the column's"
    " precision 3"
)

_NANOSECONDS = (
    "timestamps before 1678 and after 2261 become null or stop the connector; set time.precision.mode to microseconds"
)


def named(kind: str, name: str, **parameters: str) -> Wire:
    """A semantic type."""
    return Wire(ConnectType(kind, name, parameters=parameters))


def decimal(precision: int | None, scale: int, mode: str) -> Wire:
    """A decimal of a known scale."""
    if mode == "double":
        return Wire(ConnectType("float64"), DOUBLE_LOSS)
    if mode == "string":
        return Wire(STRING)
    parameters = {"scale": str(scale)}
    if precision is not None:
        parameters["connect.decimal.precision"] = str(precision)
    return named("bytes", f"{CONNECT}Decimal", **parameters)


def binary(mode: str) -> Wire:
    """Bytes, or their text in base64 or hex."""
    return Wire(BYTES if mode == "bytes" else STRING)


def date(mode: str) -> Wire:
    """A date without time."""
    if mode == "structured":
        return structured("Date", "year month day specialValue")
    special = {"isostring": ("string", f"{TIME}IsoDate"), "connect": ("int32", f"{CONNECT}Date")}
    return named(*special.get(mode, ("int32", f"{TIME}Date")))


def time(mode: str, precision: int) -> Wire:
    """A time of day without zone; `precision` is the number of its decimals."""
    match mode:
        case "isostring":
            return named("string", f"{TIME}IsoTime")
        case "structured":
            return structured("Time", "hour minute second nanos precision")
        case "connect":
            return Wire(ConnectType("int32", f"{CONNECT}Time"), _MILLISECONDS if precision > 3 else "")
        case "nanoseconds":
            return named("int64", f"{TIME}NanoTime")
        case "adaptive" if precision <= 3:
            return named("int32", f"{TIME}Time")
    return named("int64", f"{TIME}MicroTime")


def timestamp(mode: str, precision: int) -> Wire:
    """A timestamp without zone; `precision` is the number of its decimals."""
    match mode:
        case "isostring":
            return named("string", f"{TIME}IsoTimestamp")
        case "structured":
            return structured("Timestamp", "year month day hour minute second nanos specialValue precision")
        case "connect":
            return Wire(ConnectType("int64", f"{CONNECT}Timestamp"), _MILLISECONDS if precision > 3 else "")
        case "nanoseconds":
            return Wire(ConnectType("int64", f"{TIME}NanoTimestamp"), _NANOSECONDS)
        case "microseconds":
            return named("int64", f"{TIME}MicroTimestamp")
    return named("int64", f"{TIME}{'Timestamp' if precision <= 3 else 'MicroTimestamp'}")


def zoned_timestamp(mode: str) -> Wire:
    """An instant."""
    if mode == "structured":
        parts = "year month day hour minute second nanos offsetSeconds zoneId specialValue precision"
        return structured("ZonedTimestamp", parts)
    return named("string", f"{TIME}ZonedTimestamp")


_PARTS = dict.fromkeys(("month", "day", "hour", "minute", "second"), "int8")
_PARTS |= {"specialValue": "string", "zoneId": "string", "seconds": "int64"}


def structured(name: str, parts: str) -> Wire:
    """A date or time in its parts (time.precision.mode structured), with infinity and zero dates as they are."""
    fields = ((part, ConnectType(_PARTS.get(part, "int32"), optional=True)) for part in parts.split())
    return struct(f"{TIME}Structured{name}", *fields)


def struct(name: str, *fields: tuple[str, ConnectType]) -> Wire:
    """A type with parts."""
    return Wire(ConnectType("struct", name, fields=fields))


def geometry(name: str, *, extensions: bool = False) -> Wire:
    """Geometry or Geography as well-known binary; `extensions`: what it was, if that doesn't tell."""
    fields = [("wkb", BYTES), ("srid", ConnectType("int32", optional=True))]
    if extensions:
        fields.append(("extensions", ConnectType("map", optional=True, items=STRING, keys=STRING)))
    return struct(f"{DATA}geometry.{name}", *fields)


def point() -> Wire:
    """A point: its coordinates, and itself as well-known binary."""
    real = ConnectType("float64")
    wkb, srid = ConnectType("bytes", optional=True), ConnectType("int32", optional=True)
    return struct(f"{DATA}geometry.Point", ("x", real), ("y", real), ("wkb", wkb), ("srid", srid))
