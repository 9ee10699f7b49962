"""Every column type of MariaDB, through real Debezium in all of its modes and three wire formats, arrives in Iceberg
and Delta as it is at the source; what can't is set aside."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import uuid4

import pymysql
import pytest
from deployments import login, mariadb_source
from harness import capture
from mariadb_specimens import NOT_NULL, SPECIAL_COLUMNS, SPECIALS, SPECIMENS
from type_captures import MARIADB_VARIANTS, SINKS, Captured, column, inserts, rows_of, with_columns
from type_checks import check_every, check_special, check_verified, check_wire

from sources.debezium.type_matrix import MARIADB_TYPES
from stack.manager import Endpoints
from stack.testing import StartServices

COMPARED = [(variant, sink) for variant in MARIADB_VARIANTS for sink in SINKS]


@pytest.fixture(scope="module")
def captured(start_services: StartServices, tmp_path_factory: pytest.TempPathFactory) -> Captured:
    services = start_services("connect", "mariadb")
    return asyncio.run(_capture(services, tmp_path_factory.mktemp("mariadb")))


async def _capture(services: Endpoints, folder: Path) -> Captured:
    server, name = services["mariadb"], f"t{uuid4().hex[:10]}"
    connection = pymysql.connect(
        **login(server), charset="utf8mb4", autocommit=True, init_command="SET time_zone = '+00:00', sql_mode = ''"
    )
    cursor = connection.cursor()

    async def fill(base: int) -> dict[str, int]:
        for statement in inserts("every", SPECIMENS, base):
            cursor.execute(statement)
        for number, (of, literal, _, _) in enumerate(SPECIALS):
            values = {**NOT_NULL, "id": str(base + number), of: literal}
            cursor.execute(f"INSERT INTO special ({', '.join(values)}) VALUES ({', '.join(values.values())})")
        return {"every": rows_of(SPECIMENS) + 1, "special": len(SPECIALS)}

    try:
        cursor.execute(f"CREATE DATABASE {name}")
        cursor.execute(f"USE {name}")
        columns = ", ".join(f"{column(i)} {s.ddl or s.type} NULL" for i, s in enumerate(SPECIMENS))
        cursor.execute(f"CREATE TABLE every (id int PRIMARY KEY, {columns})")
        cursor.execute(f"CREATE TABLE special (id int PRIMARY KEY, {', '.join(SPECIAL_COLUMNS)})")
        source = mariadb_source(server, name, "every", "special")
        variants = with_columns("mariadb", SPECIMENS, "dc", MARIADB_VARIANTS)
        found = await capture(variants, source, services, folder, fill)
        by_name = dict(zip(MARIADB_VARIANTS, found.values(), strict=True))
        cursor.execute(
            "SELECT column_name, column_type FROM information_schema.columns WHERE table_schema = %s"
            " AND table_name = 'every'",
            (name,),
        )
        return Captured("mariadb", SPECIMENS, MARIADB_VARIANTS, by_name, dict(cursor.fetchall()))
    finally:
        cursor.execute(f"DROP DATABASE IF EXISTS {name}")
        connection.close()


@pytest.mark.parametrize(("variant", "sink"), COMPARED)
def test_values_are_in_the_lake_as_at_the_source(captured: Captured, variant: str, sink: str) -> None:
    check_every(captured, variant, sink)


@pytest.mark.parametrize(("variant", "sink"), COMPARED)
def test_verify_finds_tables_equal_and_damage_different(captured: Captured, variant: str, sink: str) -> None:
    check_verified(captured, variant, sink)


@pytest.mark.parametrize("variant", MARIADB_VARIANTS)
def test_columns_have_the_types_of_the_matrix_on_kafka(captured: Captured, variant: str) -> None:
    check_wire(captured, variant)


@pytest.mark.parametrize(("variant", "sink"), [(v, sink) for v in ("avro", "text") for sink in SINKS])
def test_values_that_no_lake_type_holds_follow_the_columns_policy(captured: Captured, variant: str, sink: str) -> None:
    check_special(captured, variant, sink, SPECIALS)


def test_deploy_warns_of_a_server_that_allows_zero_dates(captured: Captured) -> None:
    (warning,) = captured.found["avro"].warnings
    assert "zero dates" in warning
    assert ".special.dn" in warning


def test_no_record_takes_a_path_of_its_own(captured: Captured) -> None:
    assert not any(found.fallback_rows for found in captured.found.values())


def test_every_type_of_the_matrix_is_tried_that_the_server_has() -> None:
    # the connector's parser of DDL stops at inet6, and this server has no vectors
    unknown = {"inet4", "inet6", "vector(3)", "decimal(65,30)"}
    assert set(MARIADB_TYPES) - {specimen.type for specimen in SPECIMENS} == unknown
