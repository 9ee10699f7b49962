"""What the tests here share: databases of their own, pipeline files, and pipelines that are deployed and run."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import yaml

from app.deployment import deploy, deployed_topics, remove_topics, undeploy
from config.environment import Settings, load_settings
from config.lake_sinks import DeltaConfig, IcebergConfig
from config.sink import SinkConfig
from sinks.factory import plan_tables
from stack.manager import Endpoint, Endpoints
from stack.ports import free_port
from stack.worker import WorkerProcess
from verify.lake import read_sink_table
from verify.report import Report
from verify.run import verify_pipeline


def login(server: Endpoint) -> dict[str, Any]:
    """How the databases' drivers are told of a server."""
    return {"host": server.host, "port": server.port, "user": server.user, "password": server.password or ""}


def postgres_source(server: Endpoint, name: str, *tables: str, **more: Any) -> dict[str, Any]:
    """A pipeline's source: these tables of the schema `public` in the database `name`."""
    return {
        "host": server.host,
        "port": server.port,
        "username": server.user,
        "password": server.password,
        "database": name,
        "tables": [f"public.{table}" for table in tables],
        "slot_name": name,
        "publication_name": name,
        **more,
    }


def mariadb_source(server: Endpoint, name: str, *tables: str, **more: Any) -> dict[str, Any]:
    """As `postgres_source`."""
    return {
        "source_type": "mariadb",
        "host": server.host,
        "port": server.port,
        "username": server.user,
        "password": server.password,
        "database": name,
        "tables": [f"{name}.{table}" for table in tables],
        **more,
    }


@asynccontextmanager
async def own_database(server: Endpoint) -> AsyncIterator[tuple[asyncpg.Connection, str]]:
    """A PostgreSQL database that goes with the block, and its name."""
    name = f"t{uuid4().hex[:10]}"
    admin = await asyncpg.connect(**login(server), database=server.more["database"])
    await admin.execute(f"CREATE DATABASE {name}")
    database = await asyncpg.connect(**login(server), database=name)
    try:
        yield database, name
    finally:
        await database.close()
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()


def iceberg(folder: Path, mode: str) -> dict[str, Any]:
    """A sink on local disk, over SQLite."""
    section = {
        "catalog_uri": f"sqlite:///{folder}/catalog.db",
        "warehouse": f"file://{folder}/lake",
        "table_namespace": mode,
        "write_mode": mode,
        "flush_interval_seconds": 0.5,
    }
    return {"sink_id": f"iceberg-{mode}", "sink_type": "iceberg", "iceberg": section}


def delta(folder: Path, mode: str) -> dict[str, Any]:
    """A sink on local disk."""
    section = {"table_uri": f"{folder}/{mode}/{{table}}", "write_mode": mode, "flush_interval_seconds": 0.5}
    return {"sink_id": f"delta-{mode}", "sink_type": "delta", "delta": section}


def written(
    folder: Path,
    services: Endpoints,
    name: str,
    source: Mapping[str, Any],
    sinks: Sequence[Mapping[str, Any]],
    *,
    partitions: int = 2,
    connector: Mapping[str, Any] | None = None,
    **platform: Any,
) -> Settings:
    """A pipeline's two files, loaded as users' files are; `connector` and `platform` say what is to be otherwise."""
    pipeline = {"pipeline_id": name, "topic_prefix": name, "source": dict(source), "sinks": list(sinks)}
    settings = {
        "kafka": {
            "bootstrap_servers": services["kafka"].address,
            "schema_registry_url": services["registry"].url,
            "topic_num_partitions": partitions,
        },
        "connector": {
            "connect_url": services["connect"].url,
            "converter": "avro-apicurio",
            "registry_url": services["registry"].more["converter_url"],
            **(connector or {}),
        },
        **platform,
    }
    paths = files(folder)
    for path, content in zip(paths, (pipeline, settings), strict=True):
        path.write_text(yaml.safe_dump(content))
    return load_settings(*paths, environ=os.environ)


def files(folder: Path) -> tuple[Path, Path]:
    """Where `written` puts the two files."""
    return folder / "pipeline.yaml", folder / "platform.yaml"


def new_worker(folder: Path) -> WorkerProcess:
    """A worker of the pipeline whose files are in the folder, not started."""
    return WorkerProcess(*files(folder), folder / "data", folder / "worker.log", web_port=free_port())


def quiet(_: str) -> None:
    """Nobody reads it."""


@asynccontextmanager
async def deployed(settings: Settings) -> AsyncIterator[None]:
    """The connector for as long as the block lasts."""
    await deploy(settings.pipeline, settings.platform, quiet, quiet)
    try:
        yield
    finally:
        await gone(settings)


async def gone(settings: Settings) -> None:
    """Take away what was deployed, with the topics."""
    await undeploy(settings.pipeline, settings.platform, quiet)
    await remove_topics(settings.platform, await deployed_topics(settings.pipeline, settings.platform), quiet)


def lake_rows(settings: Settings, sink_id: str, table: str) -> list[dict[str, Any]] | None:
    """A sink's rows of a source table (`schema.table`); None if there is no table yet."""
    topic = settings.pipeline.topic(table)
    plan = next(plan for plan in plan_tables(settings.pipeline, [sink_id]) if topic in plan.target.topics)
    rows = read_sink_table(plan, topic)
    return None if rows is None else rows.to_pylist()


def write_mode(sink: SinkConfig) -> str:
    """That of a sink with tables."""
    assert isinstance(sink.settings, IcebergConfig | DeltaConfig)
    return sink.settings.write_mode


@dataclass
class Run:
    """A deployed pipeline with its running worker."""

    settings: Settings
    worker: WorkerProcess

    def verify(self) -> Report:
        return asyncio.run(verify_pipeline(self.settings.pipeline, self.settings.platform, timeout=240))

    def assert_equal_to_source(self, tables: dict[str, int]) -> None:
        """Every sink has the source's rows, so many of each table."""
        report = self.verify()
        assert report.exit_status == 0, report
        found = {(v.sink_id, v.table): v.comparison.sink_rows for v in report.verdicts if v.comparison is not None}
        sinks = [sink.sink_id for sink in self.settings.pipeline.sinks]
        rows = {(v.sink_id, v.table): v.comparison.source_rows for v in report.verdicts if v.comparison is not None}
        assert rows == {(sink, table): count for sink in sinks for table, count in tables.items()}
        upserts = {s.sink_id for s in self.settings.pipeline.sinks if write_mode(s) == "upsert"}
        assert all(count == rows[where] for where, count in found.items() if where[0] in upserts)

    def log(self, sink_id: str, table: str) -> list[dict[str, Any]]:
        """The rows of an append table, by offset."""
        rows = lake_rows(self.settings, sink_id, table)
        assert rows is not None
        return sorted(rows, key=lambda row: row["_cdc_offset"])

    def ops(self, sink_id: str, table: str, key: int) -> list[str]:
        """The ops of an account in an append table, in the log's order."""
        mine = [row for row in self.log(sink_id, table) if row["id"] == key]
        assert len({row["_cdc_partition"] for row in mine}) == 1
        return [row["_cdc_op"] for row in mine]


@contextmanager
def watched(worker: WorkerProcess) -> Iterator[None]:
    """A failure in the block tells how the worker's log ends; the worker ends with the block."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"The worker's log ends:\n{worker.tail(60)}")
        raise
    finally:
        if worker.running():
            worker.kill()


async def run_pipeline(settings: Settings, folder: Path, change: Any, check: Any) -> None:
    """Deploy, run the worker over the snapshot, change the source, and check."""
    worker = new_worker(folder)
    async with deployed(settings):
        worker.start()
        with watched(worker):
            run = Run(settings, worker)
            await asyncio.to_thread(check, run, "snapshot")
            await change()
            await asyncio.to_thread(check, run, "changed")
            assert worker.running(), worker.tail()
            assert worker.terminate() == 0
