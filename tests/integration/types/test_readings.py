"""What `cdc verify` reads of each type out of real databases is what the lake tables hold (see the specimens), in every
mode of the connector. The tests of each database's types compare with what connectors send; here a wrong expression
shows in seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

import asyncpg
import mariadb_specimens
import postgres_specimens
import pyarrow as pa
import pymysql
import pytest
from deployments import login, mariadb_source, postgres_source
from postgres_specimens import DEAD, Specimen
from type_captures import MARIADB_VARIANTS, POSTGRES_VARIANTS, TEXT, column, inserts, rows_of
from type_checks import normal

from config.columns import ColumnConfig
from config.pipeline import SourceConfig
from sources.debezium.mysql_source import MySqlSource
from sources.debezium.postgres_source import PostgresSource
from sources.debezium.type_matrix import modes_with
from stack.manager import Endpoints
from stack.testing import StartServices
from verify.columns import column_in
from verify.lake_types import plain_type
from verify.shape import Shape
from verify.source import connect_source
from verify.texts import OUT_OF_RANGE, readable


@pytest.fixture(scope="module")
def services(start_services: StartServices) -> Endpoints:
    return start_services("postgres", "mariadb")


async def read(
    config: SourceConfig, table: str, options: Mapping[str, str], rules: Mapping[str, Any]
) -> dict[int, dict[str, Any]]:
    """The rows of a table by their ids, as verify reads them under these settings of the connector; columns that the
    connector leaves out are absent."""
    catalogue = await (PostgresSource if config.source_type == "postgres" else MySqlSource)(config).columns()
    modes = modes_with(config.source_type, **{name.replace(".", "_"): value for name, value in options.items()})
    source = await connect_source(config)
    parts: list[pa.Table] = []
    try:
        readings = {}
        for described in catalogue[table]:
            rule = ColumnConfig.model_validate({"accept_loss": True} | rules.get(described.name, {}))
            found = column_in(described, rule, config.source_type, modes)
            if found.stored is not None:
                kind = plain_type(found.stored)
                reading = source.reading(found, kind)
                assert reading is not None, described
                readings[pa.field(described.name, kind)] = reading
        async with source.snapshot() as snapshot:
            await snapshot.read(table, readings, parts.append)
    finally:
        await source.close()
    rows = Shape(("id",), readings, ()).of(pa.concat_tables(parts))
    names = rows.column_names
    values = [{name: readable(rows.column(name)[i]) for name in names} for i in range(len(rows))]
    return {row["id"]: row for row in values}


def wrong_values(
    rows: Mapping[int, dict[str, Any]], specimens: Sequence[Specimen], options: Mapping[str, str]
) -> dict[Any, Any]:
    """The specimens that aren't read as the lake tables hold them: (read, expected)."""
    wrong = {}
    count = rows_of(specimens)
    for number, specimen in enumerate(specimens):
        mode = next((mode for mode in specimen.modes if mode in options.values()), None)
        values = specimen.values if mode is None else specimen.modes[mode]
        for row in range(count):
            got, expected = rows[row][column(number)], values[row % len(values)]
            if normal(got, "iceberg") != normal(expected, "iceberg"):
                wrong[specimen.type, row] = (got, expected)
        assert rows[count][column(number)] is None, specimen
    return wrong


def wrong_specials(
    rows: Mapping[int, dict[str, Any]], specials: Sequence[tuple[str, str, Any, Any]], *, text: bool, wide: str
) -> dict[Any, Any]:
    """The same of the special values; what lakes don't hold is out of range."""
    wrong = {}
    for number, (name, literal, stored, exact) in enumerate(specials):
        got, expected = rows[number][name], exact if text or name == wide else stored
        dead = got == OUT_OF_RANGE or (isinstance(got, list) and OUT_OF_RANGE in got)
        if not dead if expected is DEAD else normal(got, "iceberg") != normal(expected, "iceberg"):
            wrong[name, literal] = (got, expected)
    return wrong


@pytest.fixture(scope="module")
def postgres_rows(services: Endpoints) -> SourceConfig:
    return asyncio.run(_fill_postgres(services))


async def _fill_postgres(services: Endpoints) -> SourceConfig:
    server, name = services["postgres"], f"t{uuid4().hex[:10]}"
    admin = await asyncpg.connect(**login(server), database=server.more["database"])
    await admin.execute(f"CREATE DATABASE {name}")
    await admin.close()
    database = await asyncpg.connect(**login(server), database=name)
    for extension in ("hstore", "citext", "ltree"):
        await database.execute(f"CREATE EXTENSION {extension}")
    await database.execute("CREATE TYPE mood AS ENUM ('sad', 'happy', 'sad, so')")
    specimens = postgres_specimens.SPECIMENS
    columns = ", ".join(f"{column(i)} {s.ddl or s.type}" for i, s in enumerate(specimens))
    await database.execute(f"CREATE TABLE every (id int PRIMARY KEY, {columns})")
    special = ", ".join(postgres_specimens.SPECIAL_COLUMNS)
    await database.execute(f"CREATE TABLE special (id int PRIMARY KEY, {special})")
    for statement in inserts("every", specimens, 0):
        await database.execute(statement)
    for number, (of, literal, _, _) in enumerate(postgres_specimens.SPECIALS):
        await database.execute(f"INSERT INTO special (id, {of}) VALUES ({number}, {literal})")
    await database.close()
    return SourceConfig(**postgres_source(server, name, "every", "special"))


@pytest.mark.parametrize("variant", [name for name in POSTGRES_VARIANTS if name != "structured"])
def test_postgres_values_are_read_as_the_lake_has_them(postgres_rows: SourceConfig, variant: str) -> None:
    options = POSTGRES_VARIANTS[variant].options
    rows = asyncio.run(read(postgres_rows, "public.every", options, {}))
    assert wrong_values(rows, postgres_specimens.SPECIMENS, options) == {}


@pytest.mark.parametrize("text", [False, True])
def test_special_values_of_postgres_are_read_as_the_columns_policy_has_them(
    postgres_rows: SourceConfig, text: bool
) -> None:
    exact = ("d", "ts", "ts3", "ts0", "tstz", "tz3", "t", "t0", "big")
    rows = asyncio.run(read(postgres_rows, "public.special", {}, dict.fromkeys(exact if text else ("big",), TEXT)))
    assert wrong_specials(rows, postgres_specimens.SPECIALS, text=text, wide="big") == {}


def test_special_values_of_postgres_are_null_where_the_policy_says_so(postgres_rows: SourceConfig) -> None:
    rules: dict[str, Any] = {name: {"misfit": "set_null"} for name in ("d", "ts", "tstz", "t", "da")}
    rows = asyncio.run(read(postgres_rows, "public.special", {}, rules | {"big": TEXT}))
    for number, (name, _, stored, _) in enumerate(postgres_specimens.SPECIALS):
        if name in rules:
            assert normal(rows[number][name], "iceberg") == (None if stored is DEAD else normal(stored, "iceberg"))


@pytest.fixture(scope="module")
def mariadb_rows(services: Endpoints) -> SourceConfig:
    server, name = services["mariadb"], f"t{uuid4().hex[:10]}"
    init = "SET time_zone = '+00:00', sql_mode = ''"
    specimens = mariadb_specimens.SPECIMENS
    with pymysql.connect(**login(server), charset="utf8mb4", autocommit=True, init_command=init) as connection:
        cursor = connection.cursor()
        cursor.execute(f"CREATE DATABASE {name}")
        cursor.execute(f"USE {name}")
        columns = ", ".join(f"{column(i)} {s.ddl or s.type} NULL" for i, s in enumerate(specimens))
        cursor.execute(f"CREATE TABLE every (id int PRIMARY KEY, {columns})")
        special = ", ".join(mariadb_specimens.SPECIAL_COLUMNS)
        cursor.execute(f"CREATE TABLE special (id int PRIMARY KEY, {special})")
        for statement in inserts("every", specimens, 0):
            cursor.execute(statement)
        for number, (of, literal, _, _) in enumerate(mariadb_specimens.SPECIALS):
            values = {**mariadb_specimens.NOT_NULL, "id": str(number), of: literal}
            cursor.execute(f"INSERT INTO special ({', '.join(values)}) VALUES ({', '.join(values.values())})")
    return SourceConfig(**mariadb_source(server, name, "every", "special"))


@pytest.mark.parametrize("variant", MARIADB_VARIANTS)
def test_mariadb_values_are_read_as_the_lake_has_them(mariadb_rows: SourceConfig, variant: str) -> None:
    options = MARIADB_VARIANTS[variant].options
    rows = asyncio.run(read(mariadb_rows, f"{mariadb_rows.database}.every", options, {}))
    assert wrong_values(rows, mariadb_specimens.SPECIMENS, options) == {}
