"""`make demo`: a real local stack, changes in PostgreSQL and MariaDB, the same rows in Iceberg and Delta tables.

Starts the stack, fills the databases, deploys two pipelines (one per database; between them the four pairs of format
and mode, one over REST catalog and S3), runs their workers, changes the data for a minute, compares every sink table
with its source row by row, says how fresh the tables were, and stops what it started. Exit status 1 if anything
differs.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import threading
from pathlib import Path
from time import monotonic

import click
from rich.console import Console
from rich.table import Table

from app.deployment import deploy
from config.environment import load_settings
from config.errors import LakewardError
from demo.connections import MariaDbConnection, PostgresConnection
from demo.freshness import Freshness, freshness
from demo.pipelines import write_files
from demo.workload import MARIADB_DDL, POSTGRES_DDL, Workload
from stack.manager import Endpoints, down, up
from stack.ports import free_port, free_ports
from stack.worker import WorkerProcess
from verify.report import Verdict
from verify.run import verify_pipeline

STATE = Path(".stack/demo")
console = Console(soft_wrap=True, highlight=False)
BEGAN = monotonic()


def say(text: str) -> None:
    """A progress line with the seconds since the start."""
    console.print(f"[{monotonic() - BEGAN:6.1f} s] {text}", markup=False)


@click.command()
@click.option("--rows", default=100_000, show_default=True, help="Rows that the databases hold before the start.")
@click.option("--seconds", default=60.0, show_default=True, help="How long the data is changed.")
@click.option("--rate", default=1_200.0, show_default=True, help="Changes per second over both databases.")
@click.option("--keep", is_flag=True, help="Leave the stack and its data running.")
def demo(rows: int, seconds: float, rate: float, keep: bool) -> None:
    """Show the whole way of a change on real services."""
    down(STATE, say)
    shutil.rmtree(STATE, ignore_errors=True)
    try:
        equal = run(rows, seconds, rate)
    except LakewardError as error:
        console.print(f"{type(error).__name__}: {error}", style="red", markup=False)
        equal = False
    finally:
        if keep:
            say(f"left running: `cdc stack status --state {STATE}`, `cdc stack down --state {STATE}`")
        else:
            say("stopping the stack")
            down(STATE, say)
    sys.exit(0 if equal else 1)


def run(rows: int, seconds: float, rate: float) -> bool:
    """Everything between starting and stopping the stack; True if all tables equal their sources."""
    say("starting the stack: Kafka, Connect with Debezium, registry, PostgreSQL, MariaDB, S3, Iceberg REST catalog")
    endpoints = up(STATE, ports=free_ports(), say=say)
    folder = STATE.absolute() / "lake"
    files = write_files(folder, endpoints)
    workloads = fill(endpoints, rows)
    for pipeline, platform in files:
        settings = load_settings(pipeline, platform)
        say(f"deploying pipeline {settings.pipeline.pipeline_id}: topics and Debezium connector")
        asyncio.run(deploy(settings.pipeline, settings.platform, lambda _: None, say))
    workers = [
        WorkerProcess(pipeline, platform, folder / "data", folder / f"{pipeline.stem}.log", web_port=free_port())
        for pipeline, platform in files
    ]
    try:
        for worker in workers:
            worker.start()
            say(f"worker started: its stats page is http://127.0.0.1:{worker.web_port}/stats/, its log {worker.log}")
        snapshot = monotonic()
        wait_for_snapshot(workers, rows)
        say(f"snapshot of {rows:,} rows is in all tables after {monotonic() - snapshot:.1f} s")
        changes = change(workloads, seconds, rate)
        say("comparing every table with its source, row by row")
        verdicts: list[Verdict] = []
        fresh: list[tuple[str, str, Freshness]] = []
        for pipeline, platform in files:
            settings = load_settings(pipeline, platform)
            verdicts += asyncio.run(verify_pipeline(settings.pipeline, settings.platform, say=say)).verdicts
            fresh += freshness(settings.pipeline)
        ok = summary(verdicts, fresh, changes, seconds)
    finally:
        for worker in workers:
            if worker.running():
                worker.terminate()
    return ok


def fill(endpoints: Endpoints, rows: int) -> list[Workload]:
    """The databases with the rows that the connectors' snapshots will read."""
    postgres = PostgresConnection(endpoints["postgres"])
    mariadb = MariaDbConnection(endpoints["mariadb"])
    for connection, ddl in ((postgres, POSTGRES_DDL), (mariadb, MARIADB_DDL)):
        for statement in ddl:
            connection.transaction([(statement, [()])])
    workloads = [Workload(postgres, seed=1), Workload(mariadb, seed=2)]
    threads = [threading.Thread(target=workload.fill, args=(rows // 2,)) for workload in workloads]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    say(f"filled PostgreSQL and MariaDB with {rows:,} rows in three tables each")
    return workloads


def wait_for_snapshot(workers: list[WorkerProcess], rows: int) -> None:
    """Until each sink of each worker has committed its database's half of the rows."""
    last = 0.0
    while True:
        done = [committed_rows(worker) for worker in workers]
        if all(len(sinks) == 2 and min(sinks.values()) >= rows // 2 for sinks in done):
            return
        for worker in workers:
            worker.wait_for(lambda: True, "the snapshot")  # raises if the worker ended
        if monotonic() - last > 5:
            last = monotonic()
            say(
                f"snapshot: {sum(sum(sinks.values()) for sinks in done):,} of {rows * 2:,} rows committed by four sinks"
            )
        threading.Event().wait(0.2)


def committed_rows(worker: WorkerProcess) -> dict[str, int]:
    """Rows that each sink has committed, by the worker's log."""
    rows: dict[str, int] = {}
    for event in worker.events("sink.committed"):
        sink = event["writer"].split(" ")[0]
        rows[sink] = rows.get(sink, 0) + event["rows"]
    return rows


def change(workloads: list[Workload], seconds: float, rate: float) -> int:
    """Change both databases at once; returns how many changes were made."""
    stop = threading.Event()
    share = rate / len(workloads)
    say(f"changing the data for {seconds:.0f} s: inserts, updates, deletes, key changes, an added column")
    failures: list[BaseException] = []

    def work(workload: Workload) -> None:
        try:
            workload.change(seconds, share, stop)
        except BaseException as error:  # carried to the main thread below
            failures.append(error)
            stop.set()

    threads = [threading.Thread(target=work, args=(workload,)) for workload in workloads]
    began = monotonic()
    for thread in threads:
        thread.start()
    while alive := [thread for thread in threads if thread.is_alive()]:
        alive[0].join(10)
        made = sum(workload.changes for workload in workloads)
        say(f"changed {made:,} rows at the sources ({made / (monotonic() - began):,.0f} a second)")
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return sum(workload.changes for workload in workloads)


def summary(verdicts: list[Verdict], fresh: list[tuple[str, str, Freshness]], changes: int, seconds: float) -> bool:
    """The table at the end; True if every table equals its source."""
    by_table = {(sink, table): found for sink, table, found in fresh}
    table = Table(title="source = table?")
    for column in ("sink", "table", "source rows", "sink rows", "differences", "streamed", "freshness p50", "p99"):
        table.add_column(column, justify="left" if column in ("sink", "table") else "right", no_wrap=True)
    for verdict in verdicts:
        found = verdict.comparison
        differences = "could not tell" if found is None else f"{found.differences:,}"
        rows = ("", "") if found is None else (f"{found.source_rows:,}", f"{found.sink_rows:,}")
        age = by_table.get((verdict.sink_id, verdict.table))
        times = ("", "", "") if age is None else (f"{age.rows:,}", f"{age.p50:.1f} s", f"{age.p99:.1f} s")
        table.add_row(verdict.sink_id, verdict.table, *rows, differences, *times)
    Console(width=132, highlight=False).print(table)
    ok = all(verdict.comparison is not None and verdict.comparison.equal for verdict in verdicts)
    for verdict in verdicts:
        if verdict.unclear:
            say(f"{verdict.sink_id} {verdict.table}: {verdict.unclear}")
        for difference in verdict.comparison.examples[:5] if verdict.comparison else ():
            say(f"{verdict.sink_id} {verdict.table}: {difference}")
    say(f"{changes:,} changes in {seconds:.0f} s ({changes / seconds:,.0f} a second), each into two sinks")
    say("every table equals its source" if ok else "THE TABLES DIFFER FROM THE SOURCE")
    return ok


if __name__ == "__main__":
    demo()
