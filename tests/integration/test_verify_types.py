"""Every type's representation: what a connector sends of it, in a snapshot and streamed, is equal to the source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_verify import NONE, counts, examples, mariadb, postgres
from verify_place import Place

from stack.manager import Endpoints
from stack.testing import StartServices

POSTGRES_TYPES = {
    "b": ("boolean", "true", "false"),
    "i2": ("smallint", "1", "-32768"),
    "i4": ("integer", "1", "-2147483648"),
    "i8": ("bigint", "1", "-9223372036854775808"),
    "f4": ("real", "0.1", "'NaN'", "3.4028235e38", "'-Infinity'", "1e-45", "16777217"),
    "f8": ("double precision", "0.1", "'NaN'", "1.7976931348623157e308", "5e-324", "'Infinity'", "-0.0", "1.0/3"),
    "n": ("numeric(20,5)", "1.5", "-123456789012345.12345", "0"),
    "nv": ("numeric", "1.50", "-0.000000001", "123456789012345678901234567890123456789012345", "100"),
    "m": ("money", "1234.56", "-0.01"),
    "t": (
        "text",
        "'a'",
        "''",
        "'漢字 é \"quoted\", ''it''\\'",
        "E'line\\r\\nline\\ttab'",
        "'NULL'",
        "repeat('x', 9000)",
    ),
    "vc": ("varchar(20)", "'a '", "''"),
    "c": ("char(5)", "'ab'", "''"),
    "by": ("bytea", "'\\x00ff'", "''"),
    "wide": ("numeric(50,2)", "12345678901234567890123456789012345678901234567.89", "-0.01", "0"),
    "td": ("date", "'infinity'", "'2024-02-29'", "'10000-01-01'"),
    "tts": ("timestamp", "'-infinity'", "'0044-03-15 12:00 BC'", "'2024-02-29 12:34:56.5'"),
    "nd": ("timestamptz", "'infinity'", "'2024-02-29 12:34:56+02'"),
    "d": ("date", "'2024-02-29'", "'0001-01-01'", "'9999-12-31'", "'1969-12-31'"),
    "tm": ("time", "'12:34:56.789012'", "'00:00'", "'23:59:59.999999'"),
    "tm3": ("time(3)", "'12:34:56.789'", "'00:00'"),
    "tmz": ("timetz", "'12:34:56.789+02'", "'00:00:00-05:30'", "'23:59:59.999999Z'"),
    "ts": ("timestamp", "'2024-02-29 23:59:59.999999'", "'0001-01-01'", "'9999-12-31 23:59:59.999999'", "'1969-12-31'"),
    "ts3": ("timestamp(3)", "'2024-02-29 23:59:59.999'", "'1969-12-31 23:59:59.001'"),
    "tz": ("timestamptz", "'2024-02-29 23:59:59.999999+13'", "'1883-11-18 12:00:00-07:52:58'", "'0001-01-02 00:00Z'"),
    "iv": (
        "interval",
        "'1 year 2 mons 3 days 4:05:06.78'",
        "'-1 day'",
        "'0'",
        "'-00:00:00.000001'",
        "'400 days 100 hours'",
    ),
    "u": ("uuid", "'00000000-0000-0000-0000-00000000000a'"),
    "j": ("json", '\'{"b": 1,  "a": [1.50, null]}\'', "'null'"),
    "jb": ("jsonb", '\'{"b": 1,  "a": [1.50, null]}\'', "'\"\"'"),
    "x": ("xml", "'<a b=\"c\">d</a>'"),
    "e": ("mood", "'sad'", "'so so'"),
    "b1": ("bit(1)", "B'1'", "B'0'"),
    "b10": ("bit(10)", "B'1000000001'", "B'0000000000'"),
    "ip": ("inet", "'10.0.0.1'", "'10.0.0.1/8'", "'::1'"),
    "ci": ("cidr", "'10.0.0.0/8'"),
    "mac": ("macaddr", "'08:00:2b:01:02:03'"),
    "r": ("int4range", "'[1,5)'", "'empty'"),
    "dom": ("price", "1.50", "-7"),
    "cit": ("citext", "'Ab'"),
    "ai": ("int[]", "'{1,NULL,-3}'", "'{}'"),
    "at": ("text[]", '\'{a,"",NULL,"b,c"}\'', "'{}'"),
    "ad": ("date[]", "'{2024-02-29,NULL}'", "'{}'"),
    "an": ("numeric(8,2)[]", "'{1.50,NULL}'"),
    "abt": ("bytea[]", "ARRAY['\\x00ff'::bytea, NULL]"),
    "pt": ("point", "'(1.5,-2)'"),
    "pl": ("polygon", "'((0,0),(1,1),(1,0))'"),
    "hs": ("hstore", "'b=>1, a=>NULL'", "''"),
    "ab": ("boolean[]", "'{t,f,NULL}'"),
    "af": ("double precision[]", "'{0.1,NaN,NULL,-Infinity}'"),
    "ts_v": ("tsvector", "'a fat cat'"),
}
POSTGRES_RULES = {
    "wide": {"misfit": "text"},
    "td": {"misfit": "text"},
    "tts": {"misfit": "text"},
    "nd": {"misfit": "set_null"},
    "tmz": {"accept_loss": True},  # of the offset
}
POSTGRES_EXTRA = (
    "CREATE EXTENSION IF NOT EXISTS citext",
    "CREATE EXTENSION IF NOT EXISTS hstore",
    "CREATE TYPE mood AS ENUM ('sad', 'so so')",
    "CREATE DOMAIN price AS numeric(8,2)",
)

MARIADB_TYPES = {
    "b": ("BOOLEAN", "1", "0"),
    "i1": ("TINYINT", "-128"),
    "i1u": ("TINYINT UNSIGNED", "255"),
    "i3": ("MEDIUMINT", "-8388608"),
    "i4u": ("INT UNSIGNED", "4294967295"),
    "i8": ("BIGINT", "-9223372036854775808"),
    "i8u": ("BIGINT UNSIGNED", "18446744073709551615"),
    # of more than six digits, the connector's snapshot sends the first six: a difference
    "f4": ("FLOAT", "0.5", "1234.5"),
    "f8": ("DOUBLE", "0.1", "1.7976931348623157e308", "-2.5e-300", "1e15", "123456789.123456789"),
    "n": ("DECIMAL(20,5)", "1.5", "-123456789012345.12345"),
    "c": ("CHAR(5)", "'ab '", "''"),
    "vc": ("VARCHAR(200)", "'a '", "''", "'漢字 é \"q\" ''it'' \\\\ \\n'"),
    "t": ("TEXT", "'x'", "REPEAT('y', 9000)"),
    "latin": ("VARCHAR(20) CHARACTER SET latin1", "'é'"),
    "bi": ("BINARY(5)", "x'0100'", "''"),
    "vb": ("VARBINARY(20)", "x'0100'", "''"),
    "bl": ("BLOB", "x'00ff'", "''"),
    "d": ("DATE", "'2024-02-29'", "'1000-01-01'", "'9999-12-31'"),
    "tm": ("TIME", "'12:34:56'", "'00:00:00'"),
    "tm6": ("TIME(6)", "'12:34:56.789012'", "'23:59:59.999999'"),
    "dt": ("DATETIME", "'2024-02-29 23:59:59'", "'1969-12-31 23:59:59'"),
    "dt3": ("DATETIME(3)", "'2024-02-29 23:59:59.123'"),
    "dt6": ("DATETIME(6)", "'2024-02-29 23:59:59.999999'", "'9999-12-31 23:59:59.999999'"),
    "ts": ("TIMESTAMP NULL", "'2024-02-29 23:59:59'", "'1970-01-01 00:00:01'"),
    "ts6": ("TIMESTAMP(6) NULL", "'2024-02-29 23:59:59.999999'"),
    "zd": ("DATE", "'0000-00-00'", "'2024-02-29'"),
    "ztn": ("DATETIME NOT NULL DEFAULT '2000-01-02'", "'2024-02-29 12:00:00'"),
    "g": ("POINT", "POINT(1.5, -2)"),
    "y": ("YEAR", "2024", "1901"),
    "e": ("ENUM('a','b c')", "'b c'"),
    "s": ("SET('a','b')", "'a,b'", "''"),
    "j": ("JSON", '\'{"b": 1,  "a": [1.50, null]}\''),
    "b1": ("BIT(1)", "b'1'", "b'0'"),
    "b10": ("BIT(10)", "b'1000000001'", "b'0'"),
}

SINKS = ("iceberg-upsert", "delta-upsert")


@pytest.fixture(scope="module")
def services(start_services: StartServices) -> Endpoints:
    return start_services("connect", "postgres", "mariadb")


def inserts(types: dict[str, tuple[str, ...]], first: int) -> list[str]:
    """A row of nulls, then rows with each type's values in turn."""
    most = max(len(values) for values in types.values()) - 1
    rows = [f"INSERT INTO kinds (id) VALUES ({first})"]
    for number in range(most):
        picked = ", ".join(values[1 + number % (len(values) - 1)] for values in types.values())
        rows.append(f"INSERT INTO kinds (id, {', '.join(types)}) VALUES ({first + 1 + number}, {picked})")
    return rows


def check_types(place: Place, execute: Any, types: dict[str, tuple[str, ...]], out_of_range: str) -> None:
    columns = ", ".join(f"{name} {values[0]}" for name, values in types.items())
    execute(f"CREATE TABLE kinds (id bigint PRIMARY KEY, {columns})")
    for statement in inserts(types, 1):
        execute(statement)
    with place.running():
        for statement in inserts(types, 100):
            execute(statement)
        status, found = place.verify("--limit", "100")
        for sink in SINKS:
            assert counts(found[sink, "kinds"]) == NONE, (sink, found[sink, "kinds"]["comparison"]["examples"])
            assert found[sink, "kinds"]["notes"] == []
        assert status == 0
        # a dead letter is missing, whatever its other values are
        execute(f"INSERT INTO kinds (id, d) VALUES (200, {out_of_range})" if out_of_range[0] == "'" else out_of_range)
        status, found = place.verify()
        assert status == 1
        assert all(examples(found[sink, "kinds"]) == {("missing", 200, "")} for sink in SINKS)


def test_postgres_types(services: Endpoints, tmp_path: Path) -> None:
    with postgres(services, tmp_path, *SINKS, tables=("kinds",), columns={"kinds": POSTGRES_RULES}) as (
        place,
        execute,
        _,
    ):
        for statement in POSTGRES_EXTRA:
            execute(statement)
        check_types(place, execute, POSTGRES_TYPES, "'infinity'")


def test_mariadb_types(services: Endpoints, tmp_path: Path) -> None:
    with mariadb(services, tmp_path, *SINKS, tables=("kinds",)) as (place, execute, _):
        check_types(place, execute, MARIADB_TYPES, "INSERT INTO kinds (id, tm) VALUES (200, '-10:00:00')")
