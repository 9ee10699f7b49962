"""Rows of which a sink lacks values are read from the source again, by real Debezium (`unknown_values: read_again`)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from deployments import (
    Run,
    delta,
    deployed,
    iceberg,
    lake_rows,
    new_worker,
    own_database,
    postgres_source,
    quiet,
    watched,
    written,
)

from app.deployment import deploy
from config.environment import Settings
from sources.kafka.lag import KafkaMonitor
from stack.manager import Endpoints
from stack.testing import StartServices

TABLE, ROWS = "public.notes", 250
BODY = "repeat(md5(n::text), 400)"  # some 13 kB, kept out of line and whole
TABLES = (
    "CREATE TABLE notes (id int PRIMARY KEY, title text, body text)",
    "ALTER TABLE notes ALTER COLUMN body SET STORAGE EXTERNAL",
    f"INSERT INTO notes SELECT n, 'first', {BODY} FROM generate_series(1, {ROWS}) n",
    "CREATE TABLE signals (id varchar(64) PRIMARY KEY, type varchar(32) NOT NULL, data text)",
)
CHANGES = (
    "UPDATE notes SET title = 'changed'",  # more rows than one condition takes
    "UPDATE notes SET title = 'once more' WHERE id < 20",
    "DELETE FROM notes WHERE id BETWEEN 15 AND 24",
    "INSERT INTO notes VALUES (15, 'back', 'whole')",
    "UPDATE notes SET title = 'again' WHERE id = 15",
    "UPDATE notes SET id = 1000 WHERE id = 30",  # its new row can't be found under the old key
    "UPDATE notes SET body = 'known' WHERE id = 31",
    "UPDATE notes SET title = 'last' WHERE id = 31",
)
LEFT = ROWS - 9


@pytest.fixture(scope="module")
def services(start_services: StartServices) -> Endpoints:
    return start_services("connect", "postgres")


async def test_rows_whose_values_a_sink_does_not_know_are_read_again(services: Endpoints, tmp_path: Path) -> None:
    """The connector began without a snapshot: the sinks know none of the rows that are updated."""
    server = services["postgres"]
    async with own_database(server) as (database, name):
        for statement in TABLES:
            await database.execute(statement)
        sinks = [iceberg(tmp_path, "upsert"), delta(tmp_path / "delta", "upsert"), iceberg(tmp_path, "append")]

        def settings(**more: Any) -> Settings:
            source = postgres_source(server, name, "notes", snapshot_mode="never", **more)
            return written(tmp_path, services, name, source, sinks)

        worker = new_worker(tmp_path)
        async with deployed(settings()):
            asking = settings(signal_table="public.signals", unknown_values="read_again")
            worker.start()
            assert await asyncio.to_thread(worker.wait, 120) != 0
            assert "which it doesn't listen to (signal.data.collection: none): run `cdc deploy`" in worker.tail(200)
            await deploy(asking.pipeline, asking.platform, quiet, quiet)
            worker.start()
            with watched(worker):
                for statement in CHANGES:
                    await database.execute(statement)
                await asyncio.to_thread(ends_as_the_source, Run(asking, worker))
                assert await dead_letters(asking) == 0
                assert worker.terminate() == 0


def ends_as_the_source(run: Run) -> None:
    for sink in ("iceberg-upsert", "delta-upsert"):
        run.worker.wait_for(lambda: there(run, sink) == LEFT, f"rows in {sink}", 180)  # noqa: B023 - called here
    for sink in ("iceberg-upsert", "delta-upsert"):
        asked = [event for event in run.worker.events("pipeline.rows_read_again") if event["sink"] == sink]
        assert sum(event["rows"] for event in asked) >= LEFT - 2, sink
    report = run.verify()
    compared = {v.sink_id: v.comparison for v in report.verdicts if v.sink_id.endswith("upsert")}
    assert all(comparison is not None and comparison.equal for comparison in compared.values()), report
    ops = {row["_cdc_op"] for row in run.log("iceberg-append", TABLE)}
    assert ops == {"u", "d", "c", "r"}


def there(run: Run, sink: str) -> int:
    return len(lake_rows(run.settings, sink, TABLE) or ())


async def dead_letters(settings: Settings) -> int:
    monitor = KafkaMonitor(settings.platform.kafka)
    try:
        return sum((await monitor.end_offsets([f"{settings.pipeline.topic(TABLE)}.dlq"])).values())
    finally:
        await monitor.close()
