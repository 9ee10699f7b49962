"""Lakeward's own runs: the ordinary worker with default settings, timed from its log, its table checked afterwards."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from benchmarks.measure import Watch
from benchmarks.workload import STATUSES, Changes
from stack.worker import WorkerProcess

VECTORS = "delta-vectors"
"""The format of a Delta table that is upserted by deletion vectors."""


@dataclass(frozen=True)
class Services:
    """Where the broker and the registry are."""

    broker: str
    registry: str


@dataclass(frozen=True)
class Timing:
    """One timed stretch of a worker's life: rows per second over wall time, CPU, peak memory, commits."""

    rows: int
    seconds: float
    cpu_s: float
    peak_rss_mb: float
    commits: int


def run_worker(
    services: Services,
    folder: Path,
    *,
    table: str,
    format: str,
    mode: str,
    base_end: Mapping[int, int],
    end: Mapping[int, int],
    rows: int,
    web_port: int,
    timeout: float = 900.0,
) -> Timing:
    """Run a worker until every partition's commit has passed `end`, timed from when all have passed `base_end`.

    `base_end` of zeros times everything from the assignment on. `rows` is how many changes lie between the two.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pipeline, platform = folder / "pipeline.yaml", folder / "platform.yaml"
    pipeline.write_text(yaml.safe_dump(_pipeline(folder, table, format, mode)))
    kafka = {"bootstrap_servers": services.broker, "schema_registry_url": services.registry}
    platform.write_text(yaml.safe_dump({"kafka": {**kafka, "group_id": f"bench-{time.time_ns()}"}}))
    worker = WorkerProcess(pipeline, platform, folder / "data", folder / "worker.log", web_port=web_port)
    worker.start()
    watch = Watch(worker.pid)
    try:
        progress = _Progress(worker)
        began = worker.wait_for(lambda: progress.passed(base_end), "the load of the base", timeout)
        watch.mark()
        commits_before = progress.commits
        ended = worker.wait_for(lambda: progress.passed(end), "the end of the log", timeout)
        cpu, peak = watch.cpu_seconds(), watch.peak_rss_mb()
        already = (
            sum(min(progress.at_mark.get(p, 0), end[p]) - base_end[p] for p in end) if any(base_end.values()) else 0
        )
        share = 1 - already / max(1, sum(end[p] - base_end[p] for p in end))
        return Timing(
            round(rows * share), (ended - began).total_seconds(), cpu, peak, progress.commits - commits_before
        )
    finally:
        worker.terminate()


class _Progress:
    """Follows the worker's log: the next offset of each partition, by committed batches."""

    def __init__(self, worker: WorkerProcess) -> None:
        self._worker = worker
        self.next: dict[int, int] = {}
        self.at_mark: dict[int, int] = {}
        self.commits = 0
        self._assigned: datetime | None = None
        self._last: datetime | None = None
        self._seen = 0

    def passed(self, offsets: Mapping[int, int]) -> datetime | None:
        """When every partition's next offset had reached `offsets`, None before."""
        for number, event in enumerate(self._worker.events()):
            if number < self._seen:
                continue
            self._seen = number + 1
            at = datetime.fromisoformat(event["timestamp"])
            if event["event"] == "pipeline.partitions_assigned":
                self._assigned = at
            elif event["event"] == "sink.committed":
                self.commits += 1
                self._last = at
                for tp, offset in event["next"].items():
                    self.next[int(tp.rsplit("/", 1)[1])] = offset
        if not any(offsets.values()):
            return self._assigned
        if all(self.next.get(p, 0) >= o for p, o in offsets.items()):
            self.at_mark = self.at_mark or dict(self.next)
            return self._last
        return None


def _pipeline(folder: Path, table: str, format: str, mode: str) -> dict[str, Any]:
    if format == "iceberg":
        section = {
            "catalog_uri": f"sqlite:///{folder}/catalog.db",
            "warehouse": f"file://{folder}/warehouse",
            "table_namespace": "bench",
            "table_name": table,
            "write_mode": mode,
        }
    else:
        section = {"table_uri": f"{folder}/{table}", "write_mode": mode}
        if format == VECTORS:
            section["upserts"] = "deletion_vectors"
    kind = format.partition("-")[0]
    return {
        "pipeline_id": "bench",
        "topic_prefix": "bench",
        "source": {"database": "bench", "tables": [f"public.{table}"]},
        "sinks": [{"sink_id": format, "sink_type": kind, kind: section}],
    }


def read_table(folder: Path, table: str, format: str) -> pa.Table:
    """The table's `id`, `balance`, `status` (and CDC position) as an independent reader sees them."""
    columns = ("id", "balance", "status", "_cdc_partition", "_cdc_offset")
    if format == "iceberg":
        from pyiceberg.catalog.sql import SqlCatalog

        catalog = SqlCatalog("default", uri=f"sqlite:///{folder}/catalog.db", warehouse=f"file://{folder}/warehouse")
        return catalog.load_table(f"bench.{table}").scan(selected_fields=columns).to_arrow()
    from deltalake import DeltaTable, QueryBuilder

    query = QueryBuilder().register("t", DeltaTable(f"{folder}/{table}"))
    rows = pa.table(query.execute(f"select {', '.join(columns)} from t").read_all())
    return rows.set_column(2, "status", rows.column("status").cast(pa.string()))


def end_state_ok(found: pa.Table, expected: Changes, mode: str) -> bool:
    """Whether the table holds exactly what the log says."""
    found = found.sort_by("id")
    positions = found.select(["_cdc_partition", "_cdc_offset"])
    if len(positions.group_by(["_cdc_partition", "_cdc_offset"]).aggregate([])) != len(found):
        return False  # a change is there twice
    want = expected.expected() if mode == "upsert" else {
        "id": expected.ids, "cents": expected.cents, "status": expected.statuses
    }  # fmt: skip
    if len(found) != len(want["id"]) or not np.array_equal(found.column("id").to_numpy(), want["id"]):
        return False
    cents = pc.cast(pc.multiply(found.column("balance"), pa.scalar(100, pa.decimal128(3, 0))), pa.int64(), safe=False)
    names = pa.array([status.decode() for status in STATUSES])
    statuses = pc.index_in(pc.cast(found.column("status"), pa.string()), value_set=names)
    return bool(np.array_equal(cents.to_numpy(), want["cents"]) and np.array_equal(statuses.to_numpy(), want["status"]))
