"""`python -m benchmarks.verify`: rows per second and peak memory of `cdc verify` on a large table, equal and damaged.

A database and lake tables with the same rows are made, without connector and worker; what is measured is the looks at
them, each in a process of its own, whose peak memory the kernel tells.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any, cast

import asyncpg
import click
import pyarrow as pa
import pymysql
from deltalake import DeltaTable, write_deltalake

from benchmarks.measure import Watch
from config.pipeline import PipelineConfig
from config.platform import PlatformConfig
from sinks.factory import TablePlan, plan_tables
from sinks.iceberg.catalog import connect, create_namespace
from sinks.iceberg.schema import TABLE_PROPERTIES, new_schema
from sources.changes import CDC_FIELDS
from stack.manager import Endpoint, running_stack
from verify.columns import source_columns
from verify.events import Events
from verify.lake import LakeVersion, open_lake
from verify.look import Limits, Pair, Wanted, look
from verify.passing import Ends, Passing
from verify.source import SourceReader, SourceTable, connect_source, source_table

ROWS_PER_FILE = 500_000

COLUMNS = {
    "id": pa.int64(),
    "code": pa.string(),
    "owner": pa.string(),
    "balance": pa.decimal128(12, 2),
    "active": pa.int32(),
    "born": pa.date32(),
    "opened": pa.timestamp("us", "UTC"),
    "seen": pa.timestamp("us"),
    "ratio": pa.float64(),
    "raw": pa.binary(),
}

POSTGRES = (
    "CREATE TABLE big (id bigint PRIMARY KEY, code uuid, owner text, balance numeric(12,2), active int, born date,"
    " opened timestamptz, seen timestamp, ratio double precision, raw bytea)",
    "INSERT INTO big SELECT n, md5(n::text)::uuid, 'owner ' || n, n % 1000000 / 4.0, n % 2,"
    " date '1990-01-01' + n % 9999, timestamptz '2024-01-01' + n * interval '1 s',"
    " timestamp '2024-01-01' + n * interval '1 ms', n / 3.0, decode(md5(n::text), 'hex')"
    " FROM generate_series(1, {rows}) n",
    "ANALYZE big",
)
MARIADB = (
    "CREATE TABLE big (id BIGINT PRIMARY KEY, code CHAR(32), owner VARCHAR(80), balance DECIMAL(12,2), active INT,"
    " born DATE, opened TIMESTAMP(6) NULL, seen DATETIME(6), ratio DOUBLE, raw VARBINARY(16))",
    "INSERT INTO big SELECT seq, MD5(seq), CONCAT('owner ', seq), seq % 1000000 / 4, seq % 2,"
    " '1990-01-01' + INTERVAL seq % 9999 DAY, '2024-01-01' + INTERVAL seq SECOND,"
    " '2024-01-01' + INTERVAL seq * 1000 MICROSECOND, seq / 3, UNHEX(MD5(seq)) FROM seq_1_to_{rows}",
    "ANALYZE TABLE big",
)


class AtRest:
    """In place of `verify.passing.Passing`: nothing changes."""

    async def ends(self, _topics: Any) -> Ends:
        """No topic."""
        return {}

    async def sent(self, _position: Any) -> Ends:
        """Nothing to wait for."""
        return {}

    async def written(self, plan: TablePlan, topic: str, _ends: Ends) -> LakeVersion | None:
        """The table as it is."""
        return await asyncio.to_thread(open_lake, plan, topic, ())


def pipeline(folder: Path, kind: str, server: Endpoint) -> PipelineConfig:
    """Over one database, into one Iceberg and one Delta table in upsert mode."""
    schema = "public" if kind == "postgres" else server.more["database"]
    iceberg = {
        "catalog_uri": f"sqlite:///{folder}/catalog.db",
        "warehouse": f"file://{folder}/lake",
        "write_mode": "upsert",
    }
    delta = {"table_uri": f"{folder}/delta/{{table}}", "write_mode": "upsert"}
    return PipelineConfig.model_validate(
        {
            "pipeline_id": "bench",
            "topic_prefix": "bench",
            "source": {
                "source_type": kind,
                "host": server.host,
                "port": server.port,
                "username": server.user,
                "password": server.password,
                "database": server.more["database"],
                "tables": [f"{schema}.big"],
            },
            "sinks": [
                {"sink_id": "iceberg", "sink_type": "iceberg", "iceberg": iceberg},
                {"sink_id": "delta", "sink_type": "delta", "delta": delta},
            ],
        }
    )


async def fill_source(kind: str, server: Endpoint, rows: int) -> None:
    """The source's table."""
    login = {"host": server.host, "port": server.port, "user": server.user, "password": server.password}
    if kind == "postgres":
        database = await asyncpg.connect(**login, database=server.more["database"])
        for statement in POSTGRES:
            await database.execute(statement.format(rows=rows))
        await database.close()
        return
    with pymysql.connect(**cast("Any", login), database=server.more["database"], autocommit=True) as connection:
        for statement in MARIADB:
            connection.cursor().execute(statement.format(rows=rows))


async def fill_lakes(config: PipelineConfig, rows_per_file: int) -> None:
    """The same rows in both lake tables."""
    columns = pa.schema(list(COLUMNS.items()))
    plans = {plan.target.sink_id: plan for plan in plan_tables(config)}
    iceberg = plans["iceberg"]
    catalog = connect(cast("Any", iceberg.settings))
    create_namespace(catalog, iceberg.target.name.split(".")[0])
    schema = new_schema(columns, ("id",))
    table = catalog.create_table(iceberg.target.name, schema, properties=TABLE_PROPERTIES)
    waiting: list[pa.Table] = []
    state = {"offset": 0}

    def flush() -> None:
        rows = pa.concat_tables(waiting)
        waiting.clear()
        n = len(rows)
        offsets = pa.array(range(state["offset"], state["offset"] + n), pa.int64())
        state["offset"] += n
        own = [
            pa.repeat(pa.scalar(iceberg.target.topics[0]), n),
            pa.repeat(pa.scalar(0, pa.int32()), n),
            offsets,
            pa.repeat(pa.scalar("r"), n),
            pa.nulls(n, CDC_FIELDS[-1].type),
        ]
        full = pa.table([*rows.columns, *own], names=[*columns.names, *(field.name for field in CDC_FIELDS)])
        table.append(full.cast(table.schema().as_arrow()))
        write_deltalake(plans["delta"].target.name, full, mode="append")

    def take(rows: pa.Table) -> None:
        waiting.append(rows)
        if sum(map(len, waiting)) >= rows_per_file:
            flush()

    source, described = await _source(config)
    readings = {}
    for field in columns:
        column = described.column(field.name)
        reading = source.reading(column, field.type) if column else None
        assert reading is not None, field
        readings[field] = reading
    async with source.snapshot() as snapshot:
        await snapshot.read(described.name, readings, take)
    await source.close()
    if waiting:
        flush()


async def _source(config: PipelineConfig) -> tuple[SourceReader, SourceTable]:
    source = await connect_source(config.source)
    columns = await source_columns(config, PlatformConfig())
    return source, await source_table(source, config, columns, config.source.tables[0])


async def measure(config: PipelineConfig, sink_id: str) -> dict[str, Any]:
    """Look at a table as `cdc verify` does: rows, rows that differ, seconds, and this process' memory in MB."""
    plan = next(plan for plan in plan_tables(config) if plan.target.sink_id == sink_id)
    source, table = await _source(config)
    say = lambda text: print(text, file=sys.stderr)  # noqa: E731, T201
    passing = cast("Passing", AtRest())
    pair = Pair(plan, plan.target.topics[0], table, source, passing, Events(config, PlatformConfig()), say)
    memory = Watch()  # getrusage would report the peak of the parent, from before the exec
    before = memory.peak_rss_mb()
    began = monotonic()
    found = whole = await look(Wanted(pair), Limits(20, 0))
    if found.differences:
        found = await look(Wanted(pair, found), Limits(20, 0))
    seconds = monotonic() - began
    await source.close()
    return {
        "sink": sink_id,
        "rows": whole.rows,
        "counts": found.counts,
        "seconds": round(seconds, 1),
        "rows_per_s": round(whole.rows[0] / seconds),
        "MB before": round(before),
        "MB peak": round(memory.peak_rss_mb()),
    }


def in_child(config: PipelineConfig, sink_id: str) -> dict[str, Any]:
    """`measure` in a process of its own."""
    text = json.dumps({**config.model_dump(mode="json", exclude_none=True)})
    secret = config.source.password.get_secret_value()
    command = [sys.executable, "-m", "benchmarks.verify", "--child", sink_id]
    done = subprocess.run(command, input=json.dumps([text, secret]), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return {**found, "progress": done.stderr.splitlines()}


@contextmanager
def tables(kind: str, server: Endpoint, rows: int, rows_per_file: int = ROWS_PER_FILE) -> Iterator[PipelineConfig]:
    """A filled database and lake tables, in a temporary folder."""
    with TemporaryDirectory(prefix="verify-bench-") as folder:
        config = pipeline(Path(folder), kind, server)
        asyncio.run(fill_source(kind, server, rows))
        asyncio.run(fill_lakes(config, rows_per_file))
        yield config


def damage(config: PipelineConfig, one_in: int) -> None:
    """Take some rows out of the Delta table, and change as many others."""
    table = DeltaTable(next(plan.target.name for plan in plan_tables(config) if plan.target.sink_id == "delta"))
    table.delete(f"id % {one_in} = 1")
    table.update({"owner": "'damaged'"}, predicate=f"id % {one_in} = 2")


@click.command()
@click.option("--rows", default=10_000_000, show_default=True, help="Rows of the table.")
@click.option("--source", "kind", type=click.Choice(["postgres", "mariadb"]), default="postgres", show_default=True)
@click.option("--one-in", default=10_000, show_default=True, help="Which part of the rows is damaged at the end.")
@click.option("--child", hidden=True)
def main(rows: int, kind: str, one_in: int, child: str | None) -> None:
    """Measure, and print a line of JSON each."""
    if child is not None:
        text, secret = json.loads(sys.stdin.read())
        fields = json.loads(text)
        fields["source"]["password"] = secret
        click.echo(json.dumps(asyncio.run(measure(PipelineConfig.model_validate(fields), child))))
        return
    with running_stack({kind}, say=lambda _: None) as services, tables(kind, services[kind], rows) as config:
        for sink_id in ("iceberg", "delta"):
            click.echo(json.dumps({**in_child(config, sink_id), "progress": None}))
        damage(config, one_in)
        click.echo(json.dumps({**in_child(config, "delta"), "progress": None}))


if __name__ == "__main__":
    main()
