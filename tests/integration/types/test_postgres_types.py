"""Every column type of PostgreSQL, through real Debezium in all of its modes and three wire formats, arrives in Iceberg
and Delta as it is at the source; what can't is set aside, or refused when the pipeline is deployed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from deployments import deployed, own_database, postgres_source, quiet
from harness import Variant, capture, settings_of
from postgres_specimens import REFUSED, SPECIAL_COLUMNS, SPECIALS, SPECIMENS
from type_captures import POSTGRES_VARIANTS, SINKS, Captured, column, inserts, left_out, rows_of, with_columns
from type_checks import check_every, check_special, check_verified, check_wire

from app.deployment import deploy
from config.errors import ConfigurationError
from sources.debezium.client import DebeziumClient
from sources.debezium.type_matrix import POSTGRES_TYPES
from stack.manager import Endpoint, Endpoints
from stack.testing import StartServices

# what `structured` brings are the parts of dates and times, under the names that the test of types compares
COMPARED = [(variant, sink) for variant in POSTGRES_VARIANTS if variant != "structured" for sink in SINKS]


@pytest.fixture(scope="module")
def services(start_services: StartServices) -> Endpoints:
    return start_services("connect", "postgres")


@asynccontextmanager
async def new_database(server: Endpoint, *tables: str) -> AsyncIterator[tuple[asyncpg.Connection, dict[str, Any]]]:
    """A connection to a database of its own, and a pipeline's `source` for tables of it."""
    async with own_database(server) as (database, name):
        yield database, postgres_source(server, name, *tables, slot_name="")


@pytest.fixture(scope="module")
def captured(services: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Captured:
    return asyncio.run(_capture(services, tmp_path_factory.mktemp("postgres")))


async def _capture(services: Endpoints, folder: Path) -> Captured:
    async with new_database(services["postgres"], "every", "special") as (database, source):

        async def fill(base: int) -> dict[str, int]:
            for statement in inserts("every", SPECIMENS, base):
                await database.execute(statement)
            for number, (of, literal, _, _) in enumerate(SPECIALS):
                await database.execute(f"INSERT INTO special (id, {of}) VALUES ({base + number}, {literal})")
            return {"every": rows_of(SPECIMENS) + 1, "special": len(SPECIALS)}

        for extension in ("hstore", "citext", "ltree"):
            await database.execute(f"CREATE EXTENSION {extension}")
        await database.execute("CREATE TYPE mood AS ENUM ('sad', 'happy', 'sad, so')")
        kinds = {column(i): s.ddl or s.type for i, s in enumerate(SPECIMENS)} | left_out("postgres")
        columns = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
        await database.execute(f"CREATE TABLE every (id int PRIMARY KEY, {columns})")
        await database.execute(f"CREATE TABLE special (id int PRIMARY KEY, {', '.join(SPECIAL_COLUMNS)})")
        variants = with_columns("postgres", SPECIMENS, "big", POSTGRES_VARIANTS)
        found = await capture(variants, source, services, folder, fill)
        by_name = dict(zip(POSTGRES_VARIANTS, found.values(), strict=True))
        types = {column(i): s.type for i, s in enumerate(SPECIMENS)}
        return Captured("postgres", SPECIMENS, POSTGRES_VARIANTS, by_name, types)


@pytest.mark.parametrize(("variant", "sink"), COMPARED)
def test_values_are_in_the_lake_as_at_the_source(captured: Captured, variant: str, sink: str) -> None:
    check_every(captured, variant, sink)


@pytest.mark.parametrize(("variant", "sink"), [(variant, sink) for variant in POSTGRES_VARIANTS for sink in SINKS])
def test_verify_finds_tables_equal_and_damage_different(captured: Captured, variant: str, sink: str) -> None:
    check_verified(captured, variant, sink)


@pytest.mark.parametrize("variant", POSTGRES_VARIANTS)
def test_columns_have_the_types_of_the_matrix_on_kafka(captured: Captured, variant: str) -> None:
    check_wire(captured, variant)


@pytest.mark.parametrize(("variant", "sink"), [(v, sink) for v in ("avro", "text") for sink in SINKS])
def test_values_that_no_lake_type_holds_follow_the_columns_policy(captured: Captured, variant: str, sink: str) -> None:
    check_special(captured, variant, sink, SPECIALS)


def test_deploy_warns_of_nothing(captured: Captured) -> None:
    assert not captured.found["avro"].warnings


def test_only_records_of_tables_with_maps_in_json_take_a_path_of_their_own(captured: Captured) -> None:
    """Geometries have a map."""
    every = 2 * (rows_of(SPECIMENS) + 1)
    slow = {name: found.fallback_rows for name, found in captured.found.items()}
    assert slow == {name: 0 if name in ("avro", "connect") else every for name in POSTGRES_VARIANTS}


def test_every_type_of_the_matrix_is_tried_that_the_server_has() -> None:
    extensions = {"geometry", "geography", "vector", "halfvec", "sparsevec"}
    tried = {specimen.type for specimen in SPECIMENS} | REFUSED.keys()
    assert set(POSTGRES_TYPES) - tried == extensions


async def test_a_value_that_debezium_cannot_convert_stops_the_connector(services: Endpoints, tmp_path: Path) -> None:
    async with new_database(services["postgres"], "every") as (database, source):
        name = source["database"]
        settings = settings_of(Variant(name), source, services, tmp_path / "files")
        await database.execute("CREATE TABLE every (id int PRIMARY KEY, n numeric(10,2))")
        await database.execute("INSERT INTO every VALUES (1, 1.5)")
        async with deployed(settings):
            await database.execute("INSERT INTO every VALUES (2, 'NaN')")
            async with asyncio.timeout(60), DebeziumClient.from_config(settings.platform.connector) as connect:
                # Connect has no call that waits
                while (status := await connect.status(name)) is None or status.failure is None:  # noqa: ASYNC110
                    await asyncio.sleep(0.2)
            assert "task 0" in status.failure


async def test_deploy_refuses_the_columns_that_would_lose_values(services: Endpoints, tmp_path: Path) -> None:
    async with new_database(services["postgres"], "every") as (database, source):
        columns = ", ".join(f"{column(i)} {text}" for i, text in enumerate(REFUSED))
        await database.execute(f"CREATE TABLE every (id int PRIMARY KEY, fine text, {columns})")
        settings = settings_of(Variant(source["database"]), source, services, tmp_path / "files")
        with pytest.raises(ConfigurationError) as refusal:
            await deploy(settings.pipeline, settings.platform, quiet, quiet)
        lines = [line for line in str(refusal.value).splitlines() if "public.every: column" in line]
        assert len(lines) == len(REFUSED)
        for number, (line, reason) in enumerate(zip(lines, REFUSED.values(), strict=True)):
            assert f"column {column(number)} (" in line
            assert reason in line
