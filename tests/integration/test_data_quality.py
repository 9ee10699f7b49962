"""Rows counted and compared at each stage of their way by readers that share no code with `cdc verify`.

Source (asyncpg), topics (aiokafka), what the worker decoded and committed (`/api/stats`), tables (DuckDB).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pyarrow as pa
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer, TopicPartition
from deltalake import DeltaTable, QueryBuilder
from deployments import delta, deployed, iceberg, new_worker, own_database, postgres_source, written
from pyiceberg.catalog import load_catalog

from config.environment import Settings
from stack.manager import Endpoints
from stack.readers import connect_duckdb
from stack.testing import StartServices
from stack.worker import WorkerProcess

CREATE = (
    "CREATE TABLE readings (id bigint PRIMARY KEY, sensor text NOT NULL, value double precision, unit char(3),"
    " amount numeric(14,3), good boolean, taken timestamptz, raw bytea, note text)"
)
INSERT = (
    "INSERT INTO readings SELECT n, 'sensor ' || n % 7, sqrt(n), 'mV ', n / 8.0, n % 3 = 0,"
    " timestamptz '2026-01-01 00:00:00.123456+00' + n * interval '1 minute',"
    " CASE WHEN n % 5 > 0 THEN decode(md5(n::text), 'hex') END, CASE n % 4 WHEN 0 THEN '' WHEN 1 THEN 'é 漢' END"
    " FROM generate_series({first}, {last}) n"
)
SNAPSHOT, INSERTED, UPDATED, DELETED = 1_000, 1_000, 300, 200
CHANGES = INSERTED + UPDATED + DELETED
"""In the stream; every delete brings a tombstone as well."""
OPS = {"r": SNAPSHOT, "c": INSERTED, "u": UPDATED, "d": DELETED}
ROWS = SNAPSHOT + INSERTED - DELETED
SINKS = ("iceberg-append", "iceberg-upsert", "delta-append", "delta-upsert")


@dataclass
class Lake:
    """What a pipeline has brought, after all changes."""

    folder: Path
    settings: Settings
    worker: WorkerProcess
    source: list[dict[str, Any]]
    changed_at: datetime
    arrived_at: datetime

    @property
    def topic(self) -> str:
        """That of the table."""
        return self.settings.pipeline.topic("public.readings")

    def rows(self, sink: str, columns: str = "*") -> list[dict[str, Any]]:
        """A sink's rows by DuckDB."""
        with closing(connect_duckdb(delta=sink.startswith("delta"))) as connection:
            answer = connection.execute(f"SELECT {columns} FROM {self._scan(sink)}")
            rows: list[dict[str, Any]] = answer.to_arrow_table().to_pylist()
        return rows

    def _scan(self, sink: str) -> str:
        if sink.startswith("delta"):
            return f"delta_scan('{self._path(sink)}')"
        return f"iceberg_scan('{self.table(sink).metadata_location}')"

    def _path(self, sink: str) -> Path:
        return self.folder / "delta" / sink.split("-")[1] / "readings"

    def table(self, sink: str) -> Any:
        """An Iceberg sink's table by PyIceberg."""
        (config,) = (s.iceberg for s in self.settings.pipeline.sinks if s.sink_id == sink)
        assert config is not None
        properties = {"uri": config.catalog_uri, "warehouse": config.warehouse}
        catalog = load_catalog(config.catalog_name, type="sql", **properties)
        return catalog.load_table((sink.split("-")[1], "public_readings"))

    def versions(self, sink: str) -> Iterator[tuple[datetime, list[dict[str, Any]]]]:
        """When each version came to be, and its rows."""
        columns = ("_cdc_partition", "_cdc_offset", "_cdc_op", "_cdc_ts")
        if sink.startswith("delta"):
            path = self._path(sink)
            for entry in sorted(DeltaTable(path).history(), key=lambda entry: entry["version"]):
                query = QueryBuilder().register("t", DeltaTable(path, version=entry["version"]))
                rows = pa.table(query.execute(f"SELECT {', '.join(columns)} FROM t").read_all())
                yield datetime.fromtimestamp(entry["timestamp"] / 1e3, UTC), rows.to_pylist()
        else:
            table = self.table(sink)
            for snapshot in table.metadata.snapshots:
                rows = table.scan(selected_fields=columns, snapshot_id=snapshot.snapshot_id).to_arrow()
                yield datetime.fromtimestamp(snapshot.timestamp_ms / 1e3, UTC), rows.to_pylist()

    def stats(self) -> dict[str, Any]:
        """What the worker tells."""
        found: dict[str, Any] = httpx.get(f"http://127.0.0.1:{self.worker.web_port}/api/stats").json()
        return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lake(start_services: StartServices, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lake]:
    services: Endpoints = start_services("connect", "postgres")
    server, folder = services["postgres"], tmp_path_factory.mktemp("quality")
    async with own_database(server) as (database, name):
        await database.execute(CREATE)
        await database.execute(INSERT.format(first=1, last=SNAPSHOT))
        sinks = [iceberg(folder, mode) for mode in ("append", "upsert")]
        sinks += [delta(folder / "delta", mode) for mode in ("append", "upsert")]
        settings = written(folder, services, name, postgres_source(server, name, "readings"), sinks)
        worker = new_worker(folder)
        async with deployed(settings):
            worker.start()
            try:
                found = Lake(folder, settings, worker, [], datetime.now(UTC), datetime.now(UTC))
                await asyncio.to_thread(arrived, found, SNAPSHOT)
                found.changed_at = datetime.now(UTC)
                await change(database)
                await asyncio.to_thread(arrived, found, SNAPSHOT + CHANGES)
                found.arrived_at = datetime.now(UTC)
                found.source = [dict(row) for row in await database.fetch("SELECT * FROM readings ORDER BY id")]
                yield found
                assert worker.terminate() == 0
            finally:
                if worker.running():
                    worker.kill()


async def change(database: asyncpg.Connection) -> None:
    await database.execute(INSERT.format(first=SNAPSHOT + 1, last=SNAPSHOT + INSERTED))
    await database.execute(f"UPDATE readings SET value = -value, note = NULL WHERE id % 6 = 0 AND id <= {6 * UPDATED}")
    await database.execute(f"DELETE FROM readings WHERE id % 10 = 1 AND id <= {10 * DELETED}")


def arrived(lake: Lake, changes: int) -> None:
    """Wait until every sink has committed so many."""

    def committed() -> bool:
        try:
            told = lake.stats()
        except httpx.TransportError:
            return False
        rows = Counter[str]()
        for partition in told["partitions"]:
            rows[partition["sink_id"]] += partition["rows"] or 0
        return all(rows[sink] >= changes for sink in SINKS)

    lake.worker.wait_for(committed, f"{changes} changes in every sink", timeout=300)


async def test_the_topic_has_every_change_of_the_source_once(lake: Lake) -> None:
    consumer = AIOKafkaConsumer(bootstrap_servers=lake.settings.platform.kafka.bootstrap_servers)
    async with consumer:
        partitions = [TopicPartition(lake.topic, number) for number in range(2)]
        consumer.assign(partitions)
        await consumer.seek_to_beginning()
        ends = await consumer.end_offsets(partitions)
        values: list[Any] = []
        left = sum(ends.values())
        while left:
            for records in (await consumer.getmany(timeout_ms=1_000)).values():
                values += [record.value for record in records]
                left -= len(records)
    assert len(values) == SNAPSHOT + CHANGES + DELETED
    assert values.count(None) == DELETED


async def test_the_worker_decodes_all_and_sets_nothing_aside(lake: Lake) -> None:
    (topic,) = lake.stats()["topics"]
    assert (topic["records"], topic["changes"]) == (SNAPSHOT + CHANGES + DELETED, SNAPSHOT + CHANGES)
    assert (topic["rejected"], topic["fallback"], topic["skipped"]) == (0, 0, {"tombstone": DELETED})


@pytest.mark.parametrize("sink", SINKS)
async def test_each_sink_commits_what_was_decoded(lake: Lake, sink: str) -> None:
    mine = [partition for partition in lake.stats()["partitions"] if partition["sink_id"] == sink]
    assert sum(partition["rows"] for partition in mine) == SNAPSHOT + CHANGES
    assert sum(partition["lag_rows"] for partition in mine) == 0
    assert sum(partition["next_offset"] for partition in mine) == SNAPSHOT + CHANGES + DELETED


@pytest.mark.parametrize("sink", SINKS)
async def test_the_table_has_as_many_rows_as_the_changes_make(lake: Lake, sink: str) -> None:
    if sink.endswith("upsert"):
        assert len(lake.source) == ROWS
        assert [row["id"] for row in in_order(lake.rows(sink, "id"))] == [row["id"] for row in lake.source]
    else:
        rows = lake.rows(sink, "_cdc_op, _cdc_partition, _cdc_offset")
        assert Counter(row["_cdc_op"] for row in rows) == OPS
        assert len({(row["_cdc_partition"], row["_cdc_offset"]) for row in rows}) == sum(OPS.values())


@pytest.mark.parametrize("sink", SINKS)
async def test_every_value_equals_the_sources(lake: Lake, sink: str) -> None:
    rows = lake.rows(sink)
    if sink.endswith("append"):
        newest: dict[int, dict[str, Any]] = {}
        for row in sorted(rows, key=lambda row: row["_cdc_offset"]):
            newest[row["id"]] = row
        rows = [row for row in newest.values() if row["_cdc_op"] != "d"]
    columns = lake.source[0].keys()
    assert [{name: row[name] for name in columns} for row in in_order(rows)] == lake.source


@pytest.mark.parametrize("sink", SINKS)
async def test_the_lag_from_the_sources_commit_to_the_table_can_be_told_from_the_table(
    lake: Lake, sink: str, record_property: Callable[[str, object], None]
) -> None:
    """`_cdc_ts` is when the source committed a change, and a row is visible from its version on."""
    seen: set[tuple[int, int]] = set()
    lags = []
    for committed, rows in lake.versions(sink):
        new = {(row["_cdc_partition"], row["_cdc_offset"]): row for row in rows}
        lags += [
            committed - row["_cdc_ts"] for where, row in new.items() if where not in seen and row["_cdc_op"] != "r"
        ]
        seen |= new.keys()
    lags.sort()
    record_property("lag p50, max", (str(lags[len(lags) // 2]), str(lags[-1])))
    assert len(lags) >= INSERTED - DELETED
    assert timedelta(0) <= lags[0] <= lags[-1] <= lake.arrived_at - lake.changed_at


def in_order(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: int(row["id"]))
