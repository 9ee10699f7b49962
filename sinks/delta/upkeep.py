"""The upkeep of a Delta table: small files are compacted as part of writing, unneeded ones removed if the user says so.

Each append adds a data file. So every few commits the writer looks at the table's files, and where `FAN_IN` small ones
have gathered in a partition, delta-rs compacts that partition up to the next of `SIZES`: a row is written a few times
in its life, and a step takes a few seconds at most, in append mode in a thread beside the writer. A compaction changes
no rows (its actions say so, and the change data feed shows nothing). If it meets a commit that took one of its files
away it is dropped, and looked at again later. MERGE writes whole files anew, so in upsert mode only the smallest are
compacted: larger files would make it dearer.

With `delta.maintenance` on, what the fan-in leaves is compacted at each `optimize_interval_seconds`, too, and vacuum
removes data and change files that no version within `vacuum_older_than_seconds` needs, in a thread beside the writer.
Which worker's turn it is, and when it was done last, is told by transaction identifiers in the table's log:

    lakeward/{pipeline_id}/{sink_id}/optimized, …/vacuumed    version = when, in microseconds since 1970

`delta.checkpointInterval` (see `commit.create`) makes delta-rs write log checkpoints by itself.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Thread
from typing import Any

import pyarrow as pa
import structlog
from deltalake import Transaction
from deltalake.exceptions import DeltaError

from config.errors import ConfigurationError, LakewardError
from config.pipeline import DeltaConfig
from sinks.base import TableFiles, Target
from sinks.delta import commit
from sinks.delta.state import LoadedTable, TableState
from sinks.delta.storage import load, store_errors

log = structlog.get_logger("lakeward.delta")

FAN_IN = 16
"""Small files of one partition that are worth a compaction."""

SIZES = (512 << 10, 8 << 20, 64 << 20)
"""Bytes up to which files are compacted, one after the other. What is over half of one is left to the next."""

STEP_BYTES = 256 << 20
"""Bytes of small files in one partition over which a compaction would keep the writer from writing for too long."""

LOOK_EVERY = 8
"""Commits between two looks at the table's files."""

CLOSING_SECONDS = 5.0
"""How long a writer that ends waits for its compaction."""

PATIENCE = 4
"""How many times as many files may gather, and commits pass between two looks, while rows are waiting."""


Partition = tuple[tuple[str, str], ...]
"""A partition's columns and values, as delta-rs wants them in a filter."""

PartitionSizes = Mapping[Partition, Sequence[int]]
"""Bytes of the data files of each partition."""


@dataclass(frozen=True)
class Compaction:
    """Small files of one partition that are to be brought together: the bytes up to which files are filled, and how
    many small files there are."""

    partition: Partition
    target_bytes: int
    files: int

    @property
    def filters(self) -> list[tuple[str, str, str]] | None:
        """For delta-rs; None is the whole of an unpartitioned table."""
        return [(name, "=", value) for name, value in self.partition] or None


@dataclass(frozen=True)
class Job:
    """Maintenance that is due: what, the identifier by which one worker takes it on, and what it does once that
    landed."""

    what: str
    claim: Transaction
    begin: Callable[[], None]


class Upkeep:
    """What one writer of a table does for it. Raises as the sink's verbs do."""

    def __init__(self, config: DeltaConfig, options: Mapping[str, str], target: Target) -> None:
        self._config = config
        self._options = options
        self._target = target
        self._sizes = SIZES[:2] if config.write_mode == "upsert" else SIZES
        self._commits = 0
        self.files: TableFiles | None = None
        self._in_vain: dict[tuple[Partition, int], int] = {}
        self._leftovers = False
        self._compaction: Thread | None = None
        self._vacuum: Thread | None = None

    def is_time_to_look(self, *, hurried: bool) -> bool:
        """To be asked after each commit."""
        self._commits += 1
        if self._commits < LOOK_EVERY * (PATIENCE if hurried else 1) and not self._leftovers:
            return False
        self._commits = 0
        return True

    def due(self, sizes: PartitionSizes, *, hurried: bool) -> Compaction | None:
        """The next compaction, None if it can wait."""
        fan_in = FAN_IN * (PATIENCE if hurried else 1)
        self.files = TableFiles(sum(map(len, sizes.values())), 0, sum(map(sum, sizes.values())))
        found = self._due(sizes, fan_in)
        if found is None and self._leftovers and not hurried:
            found = self._due(sizes, 2)
            self._leftovers = found is not None
        return found

    def _due(self, sizes: PartitionSizes, fan_in: int) -> Compaction | None:
        for target in self._sizes:
            for partition, files in sizes.items():
                small = [size for size in files if size <= target // 2]
                # delta-rs brings neighbours together only, so some may stay: until as many have come again
                expected = self._in_vain.get((partition, target), 0)
                if len(small) - expected >= fan_in and sum(small) <= STEP_BYTES:
                    return Compaction(partition, target, len(small))
        return None

    def compact(self, state: LoadedTable, compaction: Compaction) -> None:
        """One compaction. Raises CommitFailedError if another writer has taken one of its files away meanwhile."""
        started = time.monotonic()
        try:
            metrics = commit.compact(state.table, compaction.filters, compaction.target_bytes)
        except ConfigurationError as error:  # it can wait for ever, writing goes on
            self._in_vain[compaction.partition, compaction.target_bytes] = compaction.files
            log.warning("delta.not_compacted", table=self._target.name, reason=str(error))
            return
        left = compaction.files - metrics["numFilesRemoved"]
        self._in_vain[compaction.partition, compaction.target_bytes] = max(0, left)
        log.info("delta.compacted", table=self._target.name, partition=dict(compaction.partition),
                 removed=metrics["numFilesRemoved"], added=metrics["numFilesAdded"],
                 seconds=round(time.monotonic() - started, 3))  # fmt: skip

    @property
    def is_busy(self) -> bool:
        """Whether a compaction is under way."""
        return self._compaction is not None and self._compaction.is_alive()

    def beside(self, compact: Callable[[], None]) -> None:
        """Compact in a thread, beside the writer."""

        def run() -> None:
            try:
                compact()
            except (LakewardError, DeltaError) as error:
                log.warning("delta.not_compacted", table=self._target.name, reason=str(error))

        self._compaction = Thread(target=run, name=f"compaction {self._target.name}", daemon=True)
        self._compaction.start()

    def close(self) -> None:
        """Wait a little for what is under way."""
        if self._compaction is not None:
            self._compaction.join(CLOSING_SECONDS)

    # -- maintenance, if the user wants it

    def jobs(self, state: TableState) -> list[Job]:
        """What maintenance is due."""
        maintenance = self._config.maintenance
        if not maintenance.enabled:
            return []
        kinds: list[tuple[str, str, float, Callable[[], None]]] = [
            ("optimize", "optimized", maintenance.optimize_interval_seconds, self._begin_leftovers),
            ("vacuum", "vacuumed", maintenance.vacuum_interval_seconds, self._begin_vacuum),
        ]
        now = time.time()
        due = []
        for what, name, interval, begin in kinds:
            app_id = f"lakeward/{self._target.pipeline_id}/{self._target.sink_id}/{name}"
            last = (state.transaction(app_id) or 0) / 1e6
            if now - last >= interval:
                due.append(Job(what, Transaction(app_id, int(now * 1e6)), begin))
        return due

    def _begin_leftovers(self) -> None:
        self._leftovers = True
        self._in_vain.clear()

    def _begin_vacuum(self) -> None:
        if self._vacuum is None or not self._vacuum.is_alive():
            # a daemon: it may be cut short, what it didn't remove is removed the next time
            self._vacuum = Thread(target=self._run_vacuum, name=f"vacuum {self._target.name}", daemon=True)
            self._vacuum.start()

    def _run_vacuum(self) -> None:
        hours = math.ceil(self._config.maintenance.vacuum_older_than_seconds / 3600)
        try:
            table = load(self._target.name, self._options)
            with store_errors(self._target.name):
                removed = (
                    table.vacuum(hours, dry_run=False, enforce_retention_duration=False, full=True) if table else []
                )
        except (LakewardError, DeltaError) as error:
            log.warning("delta.not_vacuumed", table=self._target.name, error=str(error))
        else:
            log.info("delta.vacuumed", table=self._target.name, files=len(removed), older_than_hours=hours)


def partition_sizes(state: LoadedTable) -> PartitionSizes:
    with store_errors(state.target.name):
        actions = pa.table(state.table.get_add_actions(flatten=True))
    names = state.partition_columns
    sizes: dict[Partition, list[int]] = defaultdict(list)
    columns = [actions.column("size_bytes").to_pylist(), *(_texts(actions.column(f"partition.{n}")) for n in names)]
    for size, *values in zip(*columns, strict=True):
        sizes[tuple(zip(names, values, strict=True))].append(size)
    return sizes


def _texts(column: pa.ChunkedArray) -> list[str]:
    """Partition values as delta-rs compares them with a filter's; a null is the empty text."""
    return ["" if value is None else _text(value) for value in column.to_pylist()]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)
