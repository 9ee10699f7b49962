"""How fresh the tables were: for each streamed row, the time from its commit at the source to the table's commit.

Taken from the tables alone: which commit added a row is in the tables' own history (Iceberg: the snapshot that added
its data file; Delta: the version whose transaction ids passed its offset), and `_cdc_ts` is the source's commit.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from config.pipeline import IcebergConfig, PipelineConfig
from sinks.delta.storage import load, storage_options
from sinks.factory import TablePlan, plan_tables
from sinks.iceberg.catalog import connect
from sources.changes import CDC_OFFSET, CDC_OP, CDC_PARTITION, CDC_TS


@dataclass(frozen=True)
class Freshness:
    """Seconds from source commit to table commit over `rows` streamed rows."""

    rows: int
    p50: float
    p99: float


def freshness(pipeline: PipelineConfig) -> list[tuple[str, str, Freshness]]:
    """(sink id, source table, freshness) of each table that has streamed rows."""
    found = []
    for plan in plan_tables(pipeline):
        ages = _iceberg(plan) if isinstance(plan.settings, IcebergConfig) else _delta(plan)
        table = next(t for t in pipeline.source.tables if pipeline.topic(t) in plan.target.topics)
        if len(ages):
            p50, p99 = np.percentile(ages, [50, 99])
            found.append((plan.target.sink_id, table, Freshness(len(ages), float(p50), float(p99))))
    return found


def _iceberg(plan: TablePlan) -> npt.NDArray[np.float64]:
    """Rows by data file; a file's rows were committed by the snapshot that added it."""
    assert isinstance(plan.settings, IcebergConfig)
    table = connect(plan.settings).load_table(plan.target.name)
    times = {snapshot.snapshot_id: snapshot.timestamp_ms for snapshot in table.snapshots()}
    ages = []
    current = table.current_snapshot()
    for manifest in current.manifests(table.io) if current else ():
        for entry in manifest.fetch_manifest_entry(table.io):
            if entry.data_file.content != 0:
                continue
            with table.io.new_input(entry.data_file.file_path).open() as stream:
                rows = pq.read_table(stream, columns=[CDC_OP, CDC_TS])
            ages.append(_ages(rows, times[entry.snapshot_id or 0]))
    return np.concatenate(ages) if ages else np.empty(0)


def _delta(plan: TablePlan) -> npt.NDArray[np.float64]:
    """Rows by version; a version committed those whose offset its transaction ids passed. Merges rewrite rows."""
    options = storage_options(plan.target.name, plan.settings.storage_options)  # type: ignore[union-attr]
    table = load(plan.target.name, options)
    if table is None:
        return np.empty(0)
    rows = table.to_pyarrow_table(columns=[CDC_OP, CDC_TS, CDC_PARTITION, CDC_OFFSET])
    ends: dict[int, list[tuple[int, int]]] = {}
    prefix = f"lakeward/{plan.target.pipeline_id}/{plan.target.sink_id}/{plan.target.topics[0]}/"
    for version in range(table.version() + 1):
        actions = _actions(table.table_uri, version)
        committed_ms = int(next(a["commitInfo"]["timestamp"] for a in actions if "commitInfo" in a))
        for txn in (action["txn"] for action in actions if "txn" in action):
            partition = txn["appId"].removeprefix(prefix)
            if partition.isdigit():
                ends.setdefault(int(partition), []).append((txn["version"], committed_ms))
    ages = []
    for partition, passed in ends.items():
        part = rows.filter(pc.equal(rows.column(CDC_PARTITION), partition))
        nexts, times = zip(*sorted(passed), strict=True)
        index = np.searchsorted(np.array(nexts), part.column(CDC_OFFSET).to_numpy(), side="right")
        ages.append(_ages(part, np.array(times)[np.minimum(index, len(times) - 1)]))
    return np.concatenate(ages) if ages else np.empty(0)


def _actions(table_uri: str, version: int) -> list[dict[str, Any]]:
    """The actions of one version of a table on local disk."""
    log = Path(urlparse(table_uri).path) / "_delta_log" / f"{version:020}.json"
    return [json.loads(line) for line in log.read_text().splitlines()]


def _ages(rows: pa.Table, committed_ms: int | npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Seconds between source and table commit of the streamed rows."""
    source_ms = rows.column(CDC_TS).cast(pa.int64()).to_numpy() / 1000
    streamed = pc.not_equal(rows.column(CDC_OP), "r").to_numpy()
    ages: npt.NDArray[np.float64] = (committed_ms - source_ms)[streamed] / 1000
    return ages
