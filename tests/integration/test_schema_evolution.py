"""Schema changes from a real PostgreSQL through Debezium and the registry into lake tables: source and tables are
compared before and after each."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import asyncpg
import httpx
import pytest
import pytest_asyncio
import yaml
from deployments import deployed, lake_rows, new_worker, own_database, postgres_source, watched, written

from config.environment import Settings
from sources.debezium.client import DebeziumClient
from sources.schema_registry import SchemaRegistry
from stack.testing import StartServices
from stack.worker import WorkerProcess
from verify.run import verify_pipeline

pytestmark = pytest.mark.asyncio(loop_scope="module")

TABLES = {
    "added": "id bigint PRIMARY KEY, name text",
    "dropped": "id bigint PRIMARY KEY, name text, extra numeric(10,2)",
    "retyped": "id bigint PRIMARY KEY, size int",
    "widened": "id bigint PRIMARY KEY, size int, price numeric(6,2)",
    "renamed": "id bigint PRIMARY KEY, name text",
    "left_side": "id bigint PRIMARY KEY, a int",
    "right_side": "id bigint PRIMARY KEY, b int",
    "again": "id bigint PRIMARY KEY, size int, name text",
    "refused": "id bigint PRIMARY KEY, size int",
}
PATIENCE_SECONDS = 60.0

Row = Mapping[str, Any]


@dataclass
class Place:
    """A database, a connector, and a worker that writes each table into Iceberg and Delta."""

    folder: Path
    settings: Settings
    database: asyncpg.Connection
    worker: WorkerProcess

    async def begin(self) -> None:
        """Put some rows into each table, and let any schema into the registry of those that it would refuse."""
        await self.execute(
            *(f"INSERT INTO {table} (id) VALUES (1), (2), (3)" for table in TABLES),
            "UPDATE added SET name = 'n' || id",
            "UPDATE dropped SET name = 'n' || id, extra = id * 1.25",
            "UPDATE retyped SET size = id",
            "UPDATE widened SET size = id, price = id + 0.5",
            "UPDATE renamed SET name = 'n' || id",
            "UPDATE again SET size = id, name = 'n' || id",
            "UPDATE refused SET size = id",
        )
        for table in TABLES:
            await self.as_at_source(table)
        registry = SchemaRegistry(self.settings.platform.kafka.schema_registry)
        for table in ("retyped", "again"):  # the registry's own rule, BACKWARD, would refuse these
            await registry.set_mode(self.subject(table), "NONE")
        await registry.close()

    async def execute(self, *statements: str) -> None:
        """One transaction."""
        async with self.database.transaction():
            for statement in statements:
                await self.database.execute(statement)

    async def source(self, table: str) -> dict[int, Row]:
        """The source's rows by key, without nulls."""
        return _by_key([dict(row) for row in await self.database.fetch(f"SELECT * FROM {table}")])

    def lake(self, sink_id: str, table: str) -> dict[int, Row]:
        """A sink's rows by key, without nulls and the columns of Lakeward."""
        return _by_key(lake_rows(self.settings, sink_id, f"public.{table}") or [])

    async def settled(self, table: str, iceberg: dict[int, Row], delta: dict[int, Row] | None = None) -> None:
        """Wait until the tables have these rows."""
        wanted = {"iceberg": iceberg, "delta": iceberg if delta is None else delta}
        deadline = monotonic() + PATIENCE_SECONDS
        while True:
            found = {sink: await asyncio.to_thread(self.lake, sink, table) for sink in wanted}
            if found == wanted:
                return
            if monotonic() > deadline or not self.worker.running():
                assert found == wanted, self.worker.tail(40)
            await asyncio.sleep(0.3)

    async def as_at_source(self, table: str) -> dict[int, Row]:
        """Wait until both tables are as the source, and return that."""
        rows = await self.source(table)
        await self.settled(table, rows)
        return rows

    def subject(self, table: str) -> str:
        """The registry's subject of a table's values."""
        return f"{self.settings.pipeline.topic(f'public.{table}')}-value"

    def told(self, event: str, table: str) -> list[dict[str, Any]]:
        """The worker's log lines of an event about a table."""
        return [line for line in self.worker.events(event) if table in json.dumps(line)]

    async def until(self, condition: Callable[[], Any]) -> Any:
        """Wait for something to be true, and return it."""
        deadline = monotonic() + PATIENCE_SECONDS
        while not (found := await asyncio.to_thread(condition)):
            assert monotonic() < deadline, self.worker.tail(40)
            await asyncio.sleep(0.3)
        return found


def _by_key(rows: list[dict[str, Any]]) -> dict[int, Row]:
    return {
        row["id"]: {name: value for name, value in row.items() if value is not None and not name.startswith("_cdc")}
        for row in rows
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(start_services: StartServices, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    """Tables with some rows each, a running connector and a running worker."""
    services = start_services("connect", "postgres")
    folder = tmp_path_factory.mktemp("evolution")
    server = services["postgres"]
    async with own_database(server) as (database, name):
        for table, columns in TABLES.items():
            await database.execute(f"CREATE TABLE {table} ({columns})")
        settings = written(
            folder,
            services,
            name,
            postgres_source(server, name, *TABLES),
            _sinks(folder),
            connector={"extra_config": {"poll.interval.ms": "50"}},
            schema_monitor_interval_seconds=1.0,
        )
        worker = new_worker(folder)
        async with deployed(settings):
            worker.start()
            with watched(worker):
                found = Place(folder, settings, database, worker)
                await found.begin()
                yield found


def _sinks(folder: Path) -> list[dict[str, Any]]:
    lake = {
        "catalog_uri": f"sqlite:///{folder}/catalog.db",
        "warehouse": f"file://{folder}/lake",
        "write_mode": "upsert",
        "flush_interval_seconds": 0.3,
        "schema_evolution": {"type": "lenient"},
    }
    vectors = {
        "table_uri": f"{folder}/delta/{{table}}",
        "write_mode": "upsert",
        "upserts": "deletion_vectors",
        "flush_interval_seconds": 0.3,
        "schema_evolution": {"type": "lenient", "widen": "lenient"},
    }
    return [
        {"sink_id": "iceberg", "sink_type": "iceberg", "iceberg": lake},
        {"sink_id": "delta", "sink_type": "delta", "delta": vectors},
    ]


async def test_added_column_is_added_and_its_version_told_and_shown(place: Place) -> None:
    await place.as_at_source("added")
    await place.execute("ALTER TABLE added ADD COLUMN level int")
    await place.execute("INSERT INTO added VALUES (4, 'n4', 4)", "UPDATE added SET level = 1 WHERE id = 1")
    await place.as_at_source("added")
    told = await place.until(lambda: place.told("schema.version_changed", place.subject("added")))
    assert [(line["previous_version"], line["new_version"], line["compatible"]) for line in told] == [(1, 2, True)]
    [changed] = {line["column"] for line in place.told("schema.table_changed", ".public.added")}
    assert changed == "level"

    def shown() -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{place.worker.web_port}/api/stats", timeout=10) as answer:
            schemas = json.load(answer)["schemas"]
        found = [s for s in schemas if s["topic"].endswith(".added") and s["part"] == "value"]
        return found and [(v["version"], v["compatible"]) for v in found[0]["versions"]] == [(2, True), (1, None)]

    await place.until(shown)


async def test_dropped_column_stays_with_its_old_values(place: Place) -> None:
    before = await place.as_at_source("dropped")
    await place.execute("ALTER TABLE dropped DROP COLUMN extra")
    await place.execute("INSERT INTO dropped VALUES (4, 'n4')", "UPDATE dropped SET name = 'x' WHERE id = 1")
    after = await place.source("dropped")
    await place.settled("dropped", {**after, 2: before[2], 3: before[3]})


async def test_changed_type_goes_into_a_column_beside_the_old_one(place: Place) -> None:
    before = await place.as_at_source("retyped")
    await place.execute("ALTER TABLE retyped ALTER COLUMN size TYPE text USING 'size ' || size")
    await place.execute("INSERT INTO retyped VALUES (4, 'four')", "UPDATE retyped SET size = 'one' WHERE id = 1")
    after = await place.source("retyped")
    moved = {key: {"id": key, "size__string": after[key]["size"]} for key in (1, 4)}
    await place.settled("retyped", {**moved, 2: before[2], 3: before[3]})


async def test_widened_columns_widen_in_iceberg_and_are_kept_twice_in_delta(place: Place) -> None:
    before = await place.as_at_source("widened")
    await place.execute(
        "ALTER TABLE widened ALTER COLUMN size TYPE bigint",
        "ALTER TABLE widened ALTER COLUMN price TYPE numeric(12,2)",
    )
    await place.execute(
        "INSERT INTO widened VALUES (4, 1099511627776, 1234567890.25)", "UPDATE widened SET size = 10 WHERE id = 1"
    )
    after = await place.source("widened")
    twice = {
        key: {"id": key, "size__int64": after[key]["size"], "price__decimal128_12_2": after[key]["price"]}
        for key in (1, 4)
    }
    await place.settled("widened", after, {**twice, 2: before[2], 3: before[3]})


async def test_renamed_column_keeps_both_names(place: Place) -> None:
    before = await place.as_at_source("renamed")
    await place.execute("ALTER TABLE renamed RENAME COLUMN name TO title")
    await place.execute("INSERT INTO renamed VALUES (4, 't4')", "UPDATE renamed SET title = 't1' WHERE id = 1")
    after = await place.source("renamed")
    await place.settled("renamed", {**after, 2: before[2], 3: before[3]})
    assert {line["kind"] for line in place.told("schema.table_changed", ".public.renamed")} == {"rename"}


async def test_column_that_comes_back_with_another_type_loses_nothing(place: Place) -> None:
    before = await place.as_at_source("again")
    await place.execute("ALTER TABLE again DROP COLUMN size", "UPDATE again SET name = 'x' WHERE id = 1")
    await place.execute("ALTER TABLE again ADD COLUMN size text", "UPDATE again SET size = 'two' WHERE id = 2")
    expected = {
        1: {"id": 1, "name": "x"},
        2: {"id": 2, "name": "n2", "size__string": "two"},
        3: before[3],
    }
    await place.settled("again", expected)


async def test_two_tables_change_at_once_from_two_sessions(place: Place) -> None:
    for table in ("left_side", "right_side"):
        await place.as_at_source(table)
    server = place.settings.pipeline.source
    other = await asyncpg.connect(
        host=server.host,
        port=server.port,
        user=server.username,
        password=server.password.get_secret_value(),
        database=server.database,
    )

    async def grow(connection: asyncpg.Connection, table: str, column: str) -> None:
        for n in range(3):
            async with connection.transaction():
                await connection.execute(f"INSERT INTO {table} (id, {column}) VALUES ({10 + n}, {n})")
                await connection.execute(f"ALTER TABLE {table} ADD COLUMN more_{n} text")
                await connection.execute(f"INSERT INTO {table} (id, more_{n}) VALUES ({20 + n}, 'new {n}')")

    try:
        await asyncio.gather(grow(place.database, "left_side", "a"), grow(other, "right_side", "b"))
    finally:
        await other.close()
    for table in ("left_side", "right_side"):
        assert len(await place.as_at_source(table)) == 9


async def test_change_that_the_registrys_rule_refuses_waits_and_loses_nothing(place: Place) -> None:
    before = await place.as_at_source("refused")
    settings = place.settings
    name, registry = settings.pipeline.pipeline_id, SchemaRegistry(settings.platform.kafka.schema_registry)
    client = DebeziumClient(settings.platform.connector.connect_url)
    subject = place.subject("refused")
    try:
        await registry.set_mode(subject, "BACKWARD")
        await place.execute("ALTER TABLE refused ALTER COLUMN size TYPE text")
        await place.execute("UPDATE refused SET size = 'one' WHERE id = 1")
        deadline = monotonic() + PATIENCE_SECONDS
        while (status := await client.status(name)) is None or not any(t.state == "FAILED" for t in status.tasks):
            assert monotonic() < deadline, status
            await asyncio.sleep(0.3)
        await place.settled("refused", before)
        await registry.set_mode(subject, "NONE")
        await client.restart(name, only_failed=True)
        await place.settled("refused", {**before, 1: {"id": 1, "size__string": "one"}})
        assert len(await registry.versions(subject)) == 2
    finally:
        await registry.close()
        await client.close()


async def test_verify_compares_evolved_tables_by_the_columns_that_both_sides_have(place: Place) -> None:
    assert place.worker.running(), place.worker.tail(40)
    pipeline = place.settings.pipeline
    few = pipeline.source.model_copy(update={"tables": ("public.added", "public.dropped", "public.left_side")})
    report = await verify_pipeline(
        pipeline.model_copy(update={"source": few}), place.settings.platform, timeout=PATIENCE_SECONDS
    )
    assert report.exit_status == 0, report
    notes = {note for verdict in report.verdicts if verdict.table == "public.dropped" for note in verdict.notes}
    assert notes == {"column extra isn't compared: the source has none of that name any more"}


async def test_worker_that_is_told_to_stops_at_a_version_that_breaks_the_rule(place: Place) -> None:
    """Registered while no worker ran: the one that starts knows the versions before from the table's changelog."""
    await asyncio.to_thread(place.worker.terminate)
    subject, settings = place.subject("added"), place.settings.platform.kafka.schema_registry
    broken = {"type": "record", "name": "Envelope", "fields": [{"name": "unreadable", "type": "string"}]}
    registry = SchemaRegistry(settings)
    await registry.set_mode(subject, "NONE")
    async with httpx.AsyncClient(base_url=settings.url) as client:
        answer = await client.post(f"subjects/{subject}/versions", json={"schema": json.dumps(broken)})
    assert answer.status_code == 200, answer.text
    await registry.set_mode(subject, "BACKWARD")
    await registry.close()
    strict = place.folder / "strict.yaml"
    platform = yaml.safe_load((place.folder / "platform.yaml").read_text())
    strict.write_text(yaml.safe_dump({**platform, "stop_on_incompatible_schema": True}))
    files = place.folder / "pipeline.yaml"
    port = place.worker.web_port  # a static member of the group keeps its address
    worker = WorkerProcess(files, strict, place.folder / "data", place.folder / "strict.log", web_port=port)
    worker.start()
    try:
        assert await asyncio.to_thread(worker.wait, PATIENCE_SECONDS) != 0
    finally:
        if worker.running():
            worker.kill()
    [stopped] = worker.events("pipeline.stopped")
    assert subject in stopped["error"]
    assert "version 3" in stopped["error"]
    [told] = worker.events("schema.incompatible_change_detected")
    assert (told["level"], told["subject"], told["previous_version"], told["new_version"]) == ("error", subject, 2, 3)
