"""Every column type that Debezium's documentation lists, and every setting of a connector that decides about types.

With `postgres_types`, `mysql_types` and `types` this is docs/types.md; the integration tests make a column of each type
in real databases, and compare what arrives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sources.debezium.connect_types import ConnectType
from sources.debezium.schemaless import wire_type
from sources.debezium.source_types import CONNECT, Modes, Wire
from sources.debezium.types import PLAIN, SEMANTIC

POSTGRES_TYPES = (
    "boolean", "bit(1)", "bit(9)", "bit varying(9)", "smallint", "integer", "bigint", "oid", "real",
    "double precision", "numeric(10,2)", "numeric(38,0)", "numeric(50,2)", "numeric", "money",
    "character(5)", "character varying(40)", "text", "citext", "name", "enum", "xml", "json", "jsonb", "hstore", "uuid",
    "ltree", "tsvector", "inet", "cidr", "macaddr", "macaddr8", "bytea",
    "date", "time(3)", "time", "time with time zone", "timestamp(3)", "timestamp", "timestamp with time zone",
    "interval",
    "int4range", "int8range", "numrange", "tsrange", "tstzrange", "daterange", "int4multirange",
    "point", "line", "lseg", "box", "path", "polygon", "circle", "geometry", "geography",
    "vector", "halfvec", "sparsevec",
    "smallint[]", "integer[]", "bigint[]", "oid[]", "real[]", "double precision[]", "boolean[]", "numeric(10,2)[]",
    "numeric[]", "integer[][]",
    "character(5)[]", "character varying(40)[]", "text[]", "citext[]", "enum[]", "uuid[]", "json[]",
    "jsonb[]", "hstore[]", "ltree[]", "inet[]", "cidr[]", "macaddr[]", "bytea[]", "date[]",
    "time(3)[]", "time[]", "timetz[]",
    "timestamp[]", "timestamptz[]", "int4range[]", "int8range[]", "numrange[]", "tsrange[]", "tstzrange[]",
    "daterange[]", "bit(9)[]", "bit varying(9)[]", "money[]", "name[]", "interval[]", "xml[]", "point[]",
)  # fmt: skip
MARIADB_TYPES = (
    "boolean", "bit(1)", "bit(9)", "tinyint", "tinyint unsigned", "smallint", "smallint unsigned", "mediumint",
    "mediumint unsigned", "int", "int unsigned", "bigint", "bigint unsigned", "float", "float unsigned", "float(10,2)",
    "double", "double unsigned", "decimal(12,3)", "decimal(12,3) unsigned", "decimal(65,30)",
    "char(5)", "varchar(50)", "tinytext", "text", "mediumtext", "longtext", "enum('a','b')", "set('x','y')", "json",
    "uuid", "inet4", "inet6", "binary(5)", "varbinary(10)", "tinyblob", "blob", "mediumblob", "longblob",
    "date", "time", "time(6)", "datetime", "datetime(6)", "timestamp", "timestamp(6)", "year",
    "point", "geometry", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon",
    "geometrycollection", "vector(3)",
)  # fmt: skip

OPTIONS: Mapping[str, tuple[str, ...]] = {
    "decimal.handling.mode": ("precise", "string", "double"),
    "time.precision.mode": (
        "adaptive_time_microseconds",
        "adaptive",
        "connect",
        "isostring",
        "microseconds",
        "nanoseconds",
        "structured",
    ),
    "binary.handling.mode": ("bytes", "base64", "base64-url-safe", "hex"),
    "interval.handling.mode": ("string", "numeric"),
    "hstore.handling.mode": ("json", "map"),
    "bigint.unsigned.handling.mode": ("precise", "long"),
}
"""The settings and their values; first what Lakeward sets."""

CLASSES = {
    "postgres": "io.debezium.connector.postgresql.PostgresConnector",
    "mariadb": "io.debezium.connector.mariadb.MariaDbConnector",
}


@dataclass(frozen=True)
class Way:
    """What a column becomes on Kafka under some values of one option; no option, where none matters."""

    option: str | None
    values: tuple[str, ...]
    wire: Wire


def modes_with(source_type: str, **settings: str) -> Modes:
    """Lakeward's settings of a connector, some of them changed (`_` for the dots of their names)."""
    config = {option: values[0] for option, values in OPTIONS.items()}
    config |= {"connector.class": CLASSES[source_type], "include.unknown.datatypes": "true"}
    return Modes.of(config | {name.replace("_", "."): value for name, value in settings.items()})


def ways(source_type: str, text: str) -> Iterator[Way]:
    """The different things that Debezium makes of a column type, by the option that decides."""
    for option, values in OPTIONS.items():
        found: dict[str, tuple[Wire, list[str]]] = {}
        for value in values:
            wire = wire_type(source_type, text, modes_with(source_type, **{option.replace(".", "_"): value}))
            found.setdefault(repr(wire), (wire, []))[1].append(value)
        if len(found) > 1:
            for wire, under in found.values():
                yield Way(option, tuple(under), wire)
            return
    yield Way(None, (), wire_type(source_type, text, modes_with(source_type)))


def semantic_types() -> Iterator[ConnectType]:
    """A type of each kind and name that is stored, with the parts that Debezium gives it."""
    yield from (ConnectType(kind) for kind in PLAIN)
    yield from (ConnectType(kind, name) for name, kind in SEMANTIC)
    yield ConnectType("bytes", f"{CONNECT}Decimal", parameters={"connect.decimal.precision": "10", "scale": "2"})
    for text in (
        "numeric",
        "integer[]",
        "vector",
        "halfvec",
        "sparsevec",
        "point",
        "box",
        "geography",
        "line",
        "circle",
    ):
        type_ = wire_type("postgres", text, modes_with("postgres")).type
        assert type_ is not None
        yield type_
    yield ConnectType("map", items=ConnectType("string", optional=True), keys=ConnectType("string"))
