"""How fresh the tables were: for each streamed row, the time from its commit at the source to the table's commit.

Taken from the tables alone: the offsets in their history (Iceberg: snapshot summaries; Delta: transaction identifiers)
tell which commit brought a row, wherever it was rewritten to since, and `_cdc_ts` is the source's commit.
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

from config.pipeline import IcebergConfig, PipelineConfig
from sinks.delta.storage import load, storage_options
from sinks.factory import TablePlan, plan_tables
from sinks.iceberg.catalog import connect
from sinks.iceberg.state import offsets_key, summary_entries
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


Passed = dict[int, list[tuple[int, int]]]
"""Of each Kafka partition, next offsets and the milliseconds since 1970 at which a commit reached them."""


def _iceberg(plan: TablePlan) -> npt.NDArray[np.float64]:
    assert isinstance(plan.settings, IcebergConfig)
    table = connect(plan.settings).load_table(plan.target.name)
    key = offsets_key(plan.target)
    passed: Passed = {}
    for snapshot in table.snapshots():
        offsets = json.loads(summary_entries(snapshot).get(key, "{}")).get(plan.target.topics[0], {})
        for partition, offset in offsets.items():
            passed.setdefault(int(partition), []).append((offset, snapshot.timestamp_ms))
    return _ages(table.scan(selected_fields=(CDC_OP, CDC_TS, CDC_PARTITION, CDC_OFFSET)).to_arrow(), passed)


def _delta(plan: TablePlan) -> npt.NDArray[np.float64]:
    options = storage_options(plan.target.name, plan.settings.storage_options)  # type: ignore[union-attr]
    table = load(plan.target.name, options)
    if table is None:
        return np.empty(0)
    passed: Passed = {}
    prefix = f"lakeward/{plan.target.pipeline_id}/{plan.target.sink_id}/{plan.target.topics[0]}/"
    for version in range(table.version() + 1):
        actions = _actions(table.table_uri, version)
        committed_ms = int(next(a["commitInfo"]["timestamp"] for a in actions if "commitInfo" in a))
        for txn in (action["txn"] for action in actions if "txn" in action):
            partition = txn["appId"].removeprefix(prefix)
            if partition.isdigit():
                passed.setdefault(int(partition), []).append((txn["version"], committed_ms))
    return _ages(table.to_pyarrow_table(columns=[CDC_OP, CDC_TS, CDC_PARTITION, CDC_OFFSET]), passed)


def _actions(table_uri: str, version: int) -> list[dict[str, Any]]:
    """The actions of one version of a table on local disk."""
    log = Path(urlparse(table_uri).path) / "_delta_log" / f"{version:020}.json"
    return [json.loads(line) for line in log.read_text().splitlines()]


def _ages(rows: pa.Table, passed: Passed) -> npt.NDArray[np.float64]:
    """Seconds between source and table commit of the streamed rows; those older than the history are left out."""
    rows = rows.filter(pc.not_equal(rows.column(CDC_OP), "r"))
    ages: list[npt.NDArray[np.float64]] = []
    for partition, commits in passed.items():
        part = rows.filter(pc.equal(rows.column(CDC_PARTITION), partition))
        nexts, times = (np.array(column) for column in zip(*sorted(commits), strict=True))
        index = np.searchsorted(nexts, part.column(CDC_OFFSET).to_numpy(), side="right")
        known = index > 0
        source_ms = part.column(CDC_TS).cast(pa.int64()).to_numpy() / 1000
        ages.append((times[np.minimum(index, len(times) - 1)] - source_ms)[known] / 1000)
    return np.concatenate(ages) if ages else np.empty(0)
