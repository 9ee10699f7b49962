"""Removing the files that no version within the readers' grace time needs, and those that were never committed.

What the log's tombstones say went less than the table's `delta.deletedFileRetentionDuration` ago stays: readers of
older versions and of the change data feed have that long. All else below the table's folder that carries the name of a
Kafka partition of ours, and that the table doesn't name, goes: old files, and what a crash left behind.

A file that is about to be committed isn't named yet, either. But one that was written before a commit of ours moved the
offsets of its Kafka partition can't be committed any more: whoever wrote it is fenced by that. So only files are
removed that are older than our last commit of their partition, by the grace time.

With `delta.maintenance` on, files that other writers left go, too, once they are as old as a vacuum would have them.
(delta-rs' own vacuum is a commit that can't land beside ours, which take files away all the time.)
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping

import structlog

from config.lake_sinks import DeltaMaintenanceConfig
from sinks.delta.actions import Snapshot
from sinks.delta.folder import Folder, StoredFile
from sinks.delta.vectors import vector_owner
from sinks.owners import Owner, owner_of

log = structlog.get_logger("lakeward.delta")

EVERY_SECONDS = 900.0
"""Time between two looks at the table's folder; less if the grace time is shorter."""

RETENTION_PROPERTY = "delta.deletedFileRetentionDuration"
_DEFAULT_SECONDS = 7 * 86400.0
_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 7 * 86400}
_PART = re.compile(r"(\d+)\s+(second|minute|hour|day|week)s?")


def grace_seconds(properties: Mapping[str, str]) -> float:
    """How long removed files stay; Delta's default (a week) where the table doesn't say it in a way that is known."""
    found = _PART.findall(properties.get(RETENTION_PROPERTY, "").lower())
    return float(sum(int(count) * _UNITS[unit] for count, unit in found)) if found else _DEFAULT_SECONDS


class Cleaner:
    """The files of one table, as one sink looks after them."""

    def __init__(self, name: str, folder: Folder, maintenance: DeltaMaintenanceConfig) -> None:
        self._name = name
        self._folder = folder
        self._maintenance = maintenance
        self._looked_at = 0.0

    def is_time_to_look(self, table: Snapshot) -> bool:
        """To be asked after each commit."""
        return time.time() - self._looked_at >= min(EVERY_SECONDS, grace_seconds(table.properties))

    def clean(self, table: Snapshot, landed: Mapping[Owner, float]) -> int:
        """Remove what isn't needed of these Kafka partitions; returns how many files. `landed` says when a commit of
        ours moved their offsets last (seconds since 1970)."""
        self._looked_at = time.time()
        grace = grace_seconds(table.properties)
        latest = (self._looked_at - grace) * 1000
        for location in [location for location, at in table.given_up.items() if at <= latest]:
            del table.given_up[location]
        needed = table.locations | table.given_up.keys()
        latest_foreign = -math.inf
        if self._maintenance.enabled:
            latest_foreign = self._looked_at - max(grace, self._maintenance.vacuum_older_than_seconds)

        def is_over(file: StoredFile) -> bool:
            owner = vector_owner(file.path) or owner_of(file.path)
            if owner is None:
                return _is_foreign(file.path) and file.modified.timestamp() < latest_foreign
            return owner in landed and file.modified.timestamp() < landed[owner] - grace

        gone = [file.path for file in self._folder.files() if file.path not in needed and is_over(file)]
        self._folder.delete(gone)
        if gone:
            log.info("delta.files_removed", table=self._name, files=len(gone))
        return len(gone)


def waiting(table: Snapshot) -> int:
    """How many files wait for their removal, as far as the log tells."""
    return len(table.given_up.keys() - table.locations)


def _is_foreign(path: str) -> bool:
    """Whether this is a file with rows, changes or vectors that another writer may have left: not the log, nor anything
    else in folders that readers don't look into."""
    *folders, name = path.split("/")
    hidden = any(folder[:1] in "_." and "=" not in folder and folder != "_change_data" for folder in folders)
    return not hidden and (name.endswith(".parquet") or name.startswith("deletion_vector_"))
