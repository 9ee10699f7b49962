"""`make bench-long`: an upsert table through thousands of commits. Does it stay as fast to write and to read?

Each scenario writes `keys` rows and then `commits` commits of `changes` changes through the sink that a worker uses.
At checkpoints PyIceberg, DuckDB and Spark read the whole table, each in a process of its own, and all rows are compared
with what the commits should have made. Writes `benchmarks/results/long.json`, `docs/benchmarks.md` and its plot.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import psutil
import pyarrow as pa
import structlog
from pydantic import TypeAdapter
from pyiceberg.table import Table
from rich.console import Console

from benchmarks import long_report
from benchmarks.readers import READERS, Scan, read_in_process
from config.pipeline import IcebergConfig
from sinks.base import Batch, OffsetRange, Sink, Target
from sinks.iceberg.catalog import connect
from sinks.iceberg.sink import IcebergSink
from sources.changes import CDC_OFFSET, CDC_OP, CDC_TS, ChangeBatch, TableSchema
from stack.manager import running_stack
from stack.places import in_catalog
from tables.key_index import KeyIndex

TOPIC, PARTITIONS = "bench.public.accounts", 4
CHECKPOINTS = (10, 100, 200, 300, 400, 500, 1_000, 2_500)
LAST_CHECKPOINTS = (400, 300, 200, 100, 0)
"""Scans of the whole table after so many commits, and before so many are left: deletes gather and are worked off, so
that one scan says little of what readers pay."""
FLAT = 1.5
STATUSES = np.array(["new", "active", "on hold", "closed"])
COLUMNS = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        ("owner", pa.string()),
        ("balance", pa.decimal128(12, 2)),
        ("status", pa.string()),
        ("updated", pa.timestamp("us", tz="UTC")),
        ("version", pa.int64()),
        ("note", pa.string()),
    ]
)
console = Console(width=None if sys.stdout.isatty() else 120)


@dataclass(frozen=True)
class Scenario:
    """One table: how keys are drawn, how it is partitioned, where it lies, and how many rows it begins with."""

    draw: str
    partition_by: tuple[str, ...]
    store: str
    keys: int

    @property
    def name(self) -> str:
        """As printed."""
        layout = ", ".join(self.partition_by) or "unpartitioned"
        return f"{self.keys / 1e6:g}M rows, {self.draw}, {layout}, {self.store}"


@dataclass
class Checkpoint:
    """What was measured of the commits since the last checkpoint, and of the table after them. Seconds and bytes."""

    commit: int
    commit_p50_s: float
    commit_p95_s: float
    commit_max_s: float
    commit_cpu_s: float
    bytes_per_commit: float
    data_files: int
    delete_files: int
    table_bytes: int
    manifests: int
    metadata_bytes: int
    index_bytes: int
    rss_mb: float
    scans: dict[str, Scan] = field(default_factory=dict)


@dataclass
class Result:
    """A scenario's checkpoints, the CPU seconds of its first load and of each commit, the changes of a commit; seconds
    and CPU seconds of one more commit by a worker that has lost its key index; when (ISO 8601) and where it began."""

    scenario: Scenario
    changes: int
    load_cpu_s: float
    cpu_s: list[float]
    checkpoints: list[Checkpoint]
    lost_index_s: float = 0.0
    lost_index_cpu_s: float = 0.0
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    machine: str = field(default_factory=long_report.machine)

    @classmethod
    def load(cls, content: Mapping[str, Any]) -> Result:
        """From the results file."""
        result: Result = TypeAdapter(cls).validate_python(content)
        return result


class Accounts:
    """The rows that should be there, and the changes that lead from one state to the next."""

    def __init__(self, scenario: Scenario, seed: int = 7) -> None:
        self._rng = np.random.default_rng(seed)
        self._keys = scenario.keys
        self._zipf = scenario.draw == "zipf"
        self._offsets = [0] * PARTITIONS
        self._version = 0
        self._order = self._rng.permutation(scenario.keys)
        self.versions = np.full(scenario.keys, -1, dtype=np.int64)

    def load(self, first: int, count: int) -> Batch:
        """Rows `first` and following."""
        return self._batch(np.arange(first, first + count), np.full(count, "c"))

    def changes(self, count: int) -> Batch:
        """Changes of distinct keys: a tenth deletes, the rest updates (or the return of a deleted key)."""
        if self._zipf:
            drawn = np.exp(self._rng.random(2 * count) * np.log(self._keys)).astype(np.int64) - 1
        else:
            drawn = self._rng.integers(0, self._keys, 2 * count)
        ids = self._order[np.clip(drawn, 0, self._keys - 1)]
        ids = self._rng.permutation(np.unique(ids))[:count]
        return self._batch(ids, np.where(self._rng.random(len(ids)) < 0.1, "d", "u"))

    def checks(self) -> tuple[int, int, int]:
        """Rows, and the sums of ids and versions."""
        there = self.versions >= 0
        return int(there.sum()), int(np.flatnonzero(there).sum()), int(self.versions[there].sum())

    def _batch(self, ids: npt.NDArray[np.int64], ops: npt.NDArray[np.str_]) -> Batch:
        parts = []
        for partition in range(PARTITIONS):
            mine = ids % PARTITIONS == partition
            if mine.any():
                parts.append(self._part(partition, ids[mine], ops[mine]))
        ranges = {part.tp: OffsetRange(part.first, part.next) for part in parts}
        return Batch(ranges, parts, {TOPIC: PARTITIONS})

    def _part(self, partition: int, ids: npt.NDArray[np.int64], ops: npt.NDArray[np.str_]) -> ChangeBatch:
        count, first = len(ids), self._offsets[partition]
        self._offsets[partition] += count
        versions = np.arange(self._version, self._version + count)
        self._version += count
        gone = ops == "d"
        self.versions[ids] = np.where(gone, -1, versions)
        cents = pa.array(versions % 1_000_000, pa.int64(), mask=gone)
        rows = pa.table(
            {
                "id": ids,
                "owner": pa.array([f"owner {n:08d}" for n in ids.tolist()], mask=gone),
                "balance": cents.cast(pa.decimal128(19, 0)).cast(pa.decimal128(21, 2)).cast(COLUMNS.field(2).type),
                "status": pa.array(STATUSES[versions % 4], mask=gone),
                "updated": pa.array(1_780_000_000_000_000 + versions * 1_000, mask=gone).cast(COLUMNS.field(4).type),
                "version": pa.array(versions, mask=gone),
                "note": pa.array([f"note of change {n}" for n in versions.tolist()], mask=gone),
                CDC_OFFSET: np.arange(first, first + count),
                CDC_OP: ops,
                CDC_TS: pa.array(1_780_000_000_000_000 + versions, pa.timestamp("us", tz="UTC")),
            }
        )
        return ChangeBatch(TOPIC, partition, first, first + count, TableSchema(COLUMNS, ("id",), 1), rows)


@contextmanager
def place(scenario: Scenario, folder: Path) -> Iterator[dict[str, Any]]:
    """The sink's settings for where the scenario's table lies."""
    if scenario.store == "disk":
        yield {"catalog_uri": f"sqlite:///{folder}/catalog.db", "warehouse": f"file://{folder}/lake"}
        return
    with running_stack({"s3", "catalog"}) as stack:
        yield in_catalog(stack["catalog"], stack["s3"])


def run(scenario: Scenario, commits: int, changes: int, readers: Sequence[str], folder: Path) -> Result:
    """One scenario from its empty table to its last commit. Raises if a reader's rows aren't those of the commits."""
    with place(scenario, folder) as where:
        config = IcebergConfig.model_validate(
            {**where, "table_namespace": f"bench{os.getpid()}", "table_name": "accounts", "write_mode": "upsert",
             "partition_by": list(scenario.partition_by)}
        )  # fmt: skip
        target = Target("bench", "lake", (TOPIC,), f"{config.table_namespace}.accounts")
        accounts = Accounts(scenario)
        index = KeyIndex.shared(folder / "index")
        with closing(IcebergSink(config, target, index)) as sink:
            sink.open()
            result = _run(scenario, config, sink, index, accounts, commits, changes, readers)
        with closing(IcebergSink(config, target, KeyIndex.shared(folder / "another"))) as sink:
            sink.open()
            batch = accounts.changes(changes)
            wall, cpu = time.monotonic(), time.process_time()
            sink.write(batch)
            result.lost_index_s, result.lost_index_cpu_s = time.monotonic() - wall, time.process_time() - cpu
        return result


def _run(
    scenario: Scenario, config: IcebergConfig, sink: IcebergSink, index: KeyIndex, accounts: Accounts, commits: int,
    changes: int, readers: Sequence[str],
) -> Result:  # fmt: skip
    began = time.process_time()
    for first in range(0, scenario.keys, 100_000):
        sink.write(accounts.load(first, min(100_000, scenario.keys - first)))
        sink.tidy()
    settle(sink, lambda: connect(config).load_table(sink.target.name).metadata.current_snapshot_id)
    result = Result(scenario, changes, time.process_time() - began, [], [])
    seconds: list[float] = []
    for number in range(1, commits + 1):
        batch = accounts.changes(changes)
        wall, cpu = time.monotonic(), time.process_time()
        sink.write(batch)
        sink.tidy()
        seconds.append(time.monotonic() - wall)
        result.cpu_s.append(round(time.process_time() - cpu, 4))
        if number in CHECKPOINTS or commits - number in LAST_CHECKPOINTS:
            index.flush()
            since = result.checkpoints[-1].commit if result.checkpoints else 0
            table = connect(config).load_table(sink.target.name)
            checkpoint = measure(table, index, number, seconds[since:], result.cpu_s[since:])
            for reader in readers:
                scan = read_in_process(reader, table, config)
                if (scan.rows, scan.ids, scan.versions) != accounts.checks():
                    raise SystemExit(f"{scenario.name}, commit {number}: {reader} reads wrong rows: {scan}")
                checkpoint.scans[reader] = scan
            result.checkpoints.append(checkpoint)
            console.print(long_report.line(scenario.name, checkpoint))
    return result


def settle(sink: Sink, version: Callable[[], int | None]) -> None:
    """Tidy what the first load left, until the table's version stays: it is no cost of the commits after it."""
    before = None
    while (now := version()) != before:
        before = now
        sink.tidy()


def measure(table: Table, index: KeyIndex, number: int, seconds: Sequence[float], cpu: Sequence[float]) -> Checkpoint:
    """The commits so far, and the table as it is."""
    snapshot = table.current_snapshot()
    assert snapshot is not None
    assert snapshot.summary is not None
    manifests = snapshot.manifests(table.io)
    size = len(table.io.new_input(table.metadata_location)) + len(table.io.new_input(snapshot.manifest_list))
    summary = snapshot.summary
    return Checkpoint(
        commit=number,
        commit_p50_s=float(np.percentile(seconds, 50)),
        commit_p95_s=float(np.percentile(seconds, 95)),
        commit_max_s=max(seconds),
        commit_cpu_s=float(np.mean(cpu)),
        bytes_per_commit=_bytes_per_commit(table),
        data_files=int(summary["total-data-files"] or 0),
        delete_files=int(summary["total-delete-files"] or 0),
        table_bytes=int(summary["total-files-size"] or 0),
        manifests=len(manifests),
        metadata_bytes=size + sum(manifest.manifest_length for manifest in manifests),
        index_bytes=index.disk_bytes(),
        rss_mb=psutil.Process().memory_info().rss / 1e6,
    )


def _bytes_per_commit(table: Table) -> float:
    """Bytes of data, deletes, manifests and lists that the kept snapshots wrote, per batch (not per snapshot)."""
    total = batches = 0
    for snapshot in table.snapshots():
        summary = snapshot.summary
        assert summary is not None
        total += int(summary["added-files-size"] or 0)
        manifests = snapshot.manifests(table.io)
        total += sum(m.manifest_length for m in manifests if m.added_snapshot_id == snapshot.snapshot_id)
        batches += summary.operation.value != "replace"
    return total / max(1, batches)


@click.command()
@click.option("--commits", default=5_000, show_default=True)
@click.option("--changes", default=2_000, show_default=True, help="Changes of one commit.")
@click.option("--keys", default=1_000_000, show_default=True, help="Rows of each table at the beginning.")
@click.option("--draw", type=click.Choice(["zipf", "uniform"]), multiple=True, default=("zipf", "uniform"))
@click.option("--layout", type=click.Choice(["plain", "bucketed"]), multiple=True, default=("plain", "bucketed"))
@click.option("--store", type=click.Choice(["disk", "s3"]), multiple=True, default=("disk", "s3"))
@click.option("--sizes/--no-sizes", default=True, help="Also tables of 10 and 30 times as many rows, 300 commits each.")
@click.option("--reader", type=click.Choice(list(READERS)), multiple=True, default=tuple(READERS))
def bench_long(
    commits: int, changes: int, keys: int, draw: Sequence[str], layout: Sequence[str], store: Sequence[str],
    sizes: bool, reader: Sequence[str],
) -> None:  # fmt: skip
    """Run the scenarios one after the other, and write the report."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    buckets = {"plain": (), "bucketed": ("bucket(8, id)",)}
    scenarios = [Scenario(d, buckets[p], s, keys) for s in store for p in layout for d in draw]
    plan = [(scenario, commits) for scenario in scenarios]
    if sizes:
        plan += [(Scenario("uniform", (), "disk", keys * times), 300) for times in (1, 10, 30)]
    results = {(result.scenario, len(result.cpu_s)): result for result in map(Result.load, long_report.read())}
    done = []
    for scenario, count in plan:
        with tempfile.TemporaryDirectory(prefix="lakeward-long-") as folder:
            done.append(run(scenario, count, changes, reader, Path(folder)))
        results[scenario, count] = done[-1]
        long_report.write(list(results.values()))
    long_report.show(done, console)
    if not all(long_report.is_flat(result, FLAT) for result in done):
        raise SystemExit(1)


if __name__ == "__main__":
    bench_long()
