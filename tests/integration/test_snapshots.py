"""Snapshots beside live changes: by a signal, and again by a connector that was deleted; what else is in a stream."""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
from deployments import (
    Run,
    delta,
    iceberg,
    login,
    own_database,
    postgres_source,
    quiet,
    run_pipeline,
    written,
)

from app.deployment import deploy, undeploy
from sources.debezium.client import DebeziumClient
from sources.kafka.lag import KafkaMonitor
from stack.manager import Endpoints
from stack.testing import StartServices
from verify.report import Comparison
from verify.run import verify_pipeline

TABLE = "public.accounts"
ROWS, CHUNK = 300, 15

TABLES = (
    "CREATE TABLE accounts (id int PRIMARY KEY, version int NOT NULL, note text)",
    f"INSERT INTO accounts SELECT n, 0, 'first' FROM generate_series(1, {ROWS}) n",
    "CREATE TABLE signals (id varchar(64) PRIMARY KEY, type varchar(32) NOT NULL, data text)",
)

UPSERTS = ("iceberg-upsert", "delta-upsert")
LOGS = ("iceberg-append", "delta-append")


@pytest.fixture(scope="module")
def services(start_services: StartServices) -> Endpoints:
    return start_services("connect", "postgres")


def chatty(name: str) -> dict[str, str]:
    """Small chunks, and a connector whose heartbeats, transaction markers and messages come in the table's topic."""
    return {
        "incremental.snapshot.chunk.size": str(CHUNK),
        "provide.transaction.metadata": "true",
        "transforms": "one",
        "transforms.one.type": "org.apache.kafka.connect.transforms.RegexRouter",
        "transforms.one.regex": f"__debezium-heartbeat.*|{name}\\.(transaction|message)",
        "transforms.one.replacement": f"{name}.{TABLE}",
    }


class Source:
    """The source's table, every change of which has a higher version than the one before."""

    def __init__(self, database: asyncpg.Connection, version: int = 0) -> None:
        self.database = database
        self.version = version

    async def change(self, times: int = 1) -> None:
        """Some row is changed, another one is deleted or comes back, and a new one is inserted."""
        for _ in range(times):
            self.version += 1
            key = 1 + self.version * 89 % ROWS
            await self.database.execute("UPDATE accounts SET version = $1 WHERE id = $2", self.version, key)
            other = 1 + self.version * 37 % ROWS
            if await self.database.execute("DELETE FROM accounts WHERE id = $1", other) == "DELETE 0":
                await self.database.execute("INSERT INTO accounts VALUES ($1, $2, 'back')", other, self.version)
            new = ROWS + self.version
            await self.database.execute("INSERT INTO accounts VALUES ($1, $2, 'new')", new, self.version)
            await self.database.execute("SELECT pg_logical_emit_message(true, 'audit', 'nobody needs it')")

    async def snapshot_beside_changes(self) -> None:
        """An incremental snapshot by signal: rows change before, while and after each of its chunks is read."""
        data = json.dumps({"data-collections": [TABLE], "type": "incremental"})
        await self.database.execute("INSERT INTO signals VALUES ($1, 'execute-snapshot', $2)", uuid4().hex, data)
        begun = self.version
        windows = "SELECT count(*) FROM signals WHERE type = 'snapshot-window-close'"
        async with asyncio.timeout(120):
            while (read := await self.database.fetchval(windows)) < ROWS // CHUNK - 5:  # deleted rows make no chunks
                if self.version < begun + 4 * (read + 2):  # not so many that the connector falls behind
                    await self.change()

    async def until_nobody_follows(self) -> None:
        """A connector's task that is being stopped still reads for a moment."""
        async with asyncio.timeout(60):
            while await self.database.fetchval(  # noqa: ASYNC110 - the database tells no one
                "SELECT bool_or(active) FROM pg_replication_slots WHERE database = current_database()"
            ):
                await asyncio.sleep(0.1)

    async def keys(self) -> set[int]:
        """The rows that are there."""
        return {row["id"] for row in await self.database.fetch("SELECT id FROM accounts")}


async def test_snapshots_beside_changes_and_again_take_no_row_back(services: Endpoints, tmp_path: Path) -> None:
    server = services["postgres"]
    async with own_database(server) as (database, name):
        for statement in TABLES:
            await database.execute(statement)
        sinks = [iceberg(tmp_path, "upsert"), delta(tmp_path / "delta", "upsert")]
        sinks += [iceberg(tmp_path, "append"), delta(tmp_path / "delta", "append")]
        described = postgres_source(server, name, "accounts", signal_table="public.signals")
        connector = {"converter": "json-schema", "extra_config": chatty(name)}
        settings = written(tmp_path, services, name, described, sinks, connector=connector)
        source = Source(database)

        def checked(run: Run, stage: str) -> None:
            report = run.verify()
            assert report.exit_status == 0, report
            if stage == "changed":
                for sink in LOGS:
                    no_row_goes_back(run.log(sink, TABLE))
                what_is_no_row_is_counted(run)
                there = login(server) | {"database": name}
                asyncio.run(a_new_connector_brings_all_but_deletes(run, there, source.version))

        await run_pipeline(settings, tmp_path, source.snapshot_beside_changes, checked)


def no_row_goes_back(log: list[dict[str, Any]]) -> None:
    """Versions of a row only grow, and only an insert follows a delete."""
    rows: dict[int, list[dict[str, Any]]] = {}
    for row in log:
        rows.setdefault(row["id"], []).append(row)
    assert sum(len([row for row in mine if row["_cdc_op"] == "r"]) > 1 for mine in rows.values()) > ROWS // 2
    for key, mine in rows.items():
        versions = [row["version"] for row in mine if row["_cdc_op"] != "d"]
        assert versions == sorted(versions), (key, mine)
        follows = {after["_cdc_op"] for before, after in itertools.pairwise(mine) if before["_cdc_op"] == "d"}
        assert follows <= {"c"}, (key, mine)


def what_is_no_row_is_counted(run: Run) -> None:
    """Heartbeats, transaction markers and messages of pg_logical_emit_message make neither rows nor dead letters."""

    def topic() -> dict[str, Any]:
        stats = httpx.get(f"http://127.0.0.1:{run.worker.web_port}/api/stats", timeout=30).json()
        found: dict[str, Any] = stats["topics"][0]
        return found

    run.worker.wait_for(lambda: topic()["skipped"].get("heartbeat"), "heartbeat", 60)
    found = topic()
    assert set(found["skipped"]) == {"heartbeat", "transaction", "message", "tombstone"}
    assert found["rejected"] == 0
    assert found["records"] == found["changes"] + sum(found["skipped"].values())


async def a_new_connector_brings_all_but_deletes(run: Run, there: dict[str, Any], version: int) -> None:
    """Connect's offsets are lost and the slot is kept; then the slot is lost, too. Rows are updated, deleted and
    inserted meanwhile: the new snapshot tells of all but the deleted, which a repair takes out of upsert tables."""
    pipeline, platform = run.settings.pipeline, run.settings.platform
    # A snapshot begins at the log's written end, which commits that nobody waits for may not have reached.
    database = await asyncpg.connect(**there, server_settings={"synchronous_commit": "on"})
    source, unseen = Source(database, version), set[int]()
    for slot_is_kept in (True, False):
        before = await source.keys()
        if slot_is_kept:
            async with DebeziumClient.from_config(platform.connector) as connect:
                await connect.reset_offsets(pipeline.pipeline_id)
                await connect.ensure_deleted(pipeline.pipeline_id)
            await source.until_nobody_follows()
        else:
            await undeploy(pipeline, platform, quiet)
        await source.change(30)
        gone = before - await source.keys()
        assert gone
        await deploy(pipeline, platform, quiet, quiet)
        await source.change(10)
        unseen = (unseen | gone) - await source.keys()
        report = await verify_pipeline(pipeline, platform, timeout=240, repair=True)
        found = {verdict.sink_id: verdict for verdict in report.verdicts}
        for sink in UPSERTS:
            notes = " ".join(found[sink].notes)
            assert counts(found[sink].comparison) == (0, 0, 0, 0), report
            assert "that the source no longer has were deleted from the table" in notes, report
        for sink in LOGS:
            assert counts(found[sink].comparison) == (0, len(unseen), 0, 0), report
            assert "Insert and delete a row of the key at the source" in " ".join(found[sink].notes)
    await database.close()
    report = await verify_pipeline(pipeline, platform, timeout=240)
    assert {v.sink_id for v in report.verdicts if v.comparison is not None and v.comparison.equal} == set(UPSERTS)
    monitor = KafkaMonitor(platform.kafka)
    assert sum((await monitor.end_offsets([f"{pipeline.topic(TABLE)}.dlq"])).values()) == 0
    await monitor.close()


def counts(found: Comparison | None) -> tuple[int, int, int, int]:
    assert found is not None
    return found.missing, found.extra, found.doubled, found.different
