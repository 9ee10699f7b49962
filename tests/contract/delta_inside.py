"""What a Delta table's folder holds: its log's actions, the files that are there and those that are needed."""

from __future__ import annotations

import json
from typing import Any

from delta_harness import DeltaHarness
from deltalake import DeltaTable

from sinks.delta.folder import Folder
from sinks.delta.log import TableLog

NO_GRACE = {"delta.deletedFileRetentionDuration": "interval 0 seconds"}


def actions(harness: DeltaHarness, version: int) -> list[dict[str, Any]]:
    lines = (harness.path / "_delta_log" / f"{version:020d}.json").read_text().splitlines()
    return [json.loads(line) for line in lines]


def kinds(harness: DeltaHarness, version: int, kind: str) -> list[dict[str, Any]]:
    return [action[kind] for action in actions(harness, version) if kind in action]


def operations(harness: DeltaHarness) -> list[str]:
    return [kinds(harness, n, "commitInfo")[0]["operation"] for n in range(version(harness) + 1)]


def version(harness: DeltaHarness) -> int:
    return int(DeltaTable(harness.path).version())


def on_disk(harness: DeltaHarness) -> set[str]:
    """Data and vector files, by their paths below the table's folder."""
    found = [*harness.path.rglob("*.parquet"), *harness.path.rglob("*.bin")]
    return {path for file in found if not (path := str(file.relative_to(harness.path))).startswith("_delta_log")}


def needed(harness: DeltaHarness) -> set[str]:
    table = TableLog(Folder(str(harness.path), {}), harness.new_sink().target).look()
    assert table is not None
    files = table.files.values()
    return {file.location for file in files} | {str(file.vector.path) for file in files if file.vector}


def void(_: object) -> None:
    """For a hook."""
