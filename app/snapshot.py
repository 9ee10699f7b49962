"""What the stats page, `/api/stats`, `/readyz` and `/metrics` show, as `app/stats.py` puts it together."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sinks.base import TableFiles

Level = Literal["ok", "busy", "error"]
SinkStatus = Literal["running", "retrying", "failed", "idle"]


@dataclass(frozen=True)
class WorkerView:
    """This process. `partitions`: how many Kafka partitions it has."""

    id: str
    started_at: datetime
    uptime_seconds: float
    partitions: int
    bytes_under_way: int
    bytes_budget: int


@dataclass(frozen=True)
class StateView:
    """The worker in one word and one sentence."""

    level: Level
    name: str
    text: str


@dataclass(frozen=True)
class PartitionView:
    """One sink on one Kafka partition.

    Rates, counts and seconds are known for this worker's partitions only (`mine`); of the others the watermark is
    what the table `sink_watermarks` holds. Versions are text: an Iceberg snapshot id doesn't fit a JSON number.
    """

    sink_id: str
    table: str
    topic: str
    partition: int
    mine: bool
    next_offset: int | None
    log_end: int | None
    lag_rows: int | None
    lag_seconds: float | None
    version: str | None
    committed_at: datetime | None
    rows: int | None
    rows_per_s: float | None
    commits: int | None
    commit_seconds: float | None
    files: TableFiles | None


@dataclass(frozen=True)
class ErrorView:
    """The last error of a sink. `over`: a commit has landed since; `count`: errors since the worker started."""

    message: str
    cause: str | None
    at: datetime
    over: bool
    count: int


@dataclass(frozen=True)
class TotalsView:
    """Sums over partitions. Lag is the whole group's (the worst one's seconds), rows and rate this worker's."""

    partitions: int
    lag_rows: int
    lag_unknown: int
    lag_seconds: float | None
    rows: int
    rows_per_s: float
    commits: int
    last_commit: datetime | None


@dataclass(frozen=True)
class SinkView:
    """One sink over all of its tables."""

    sink_id: str
    sink_type: str
    tables: tuple[str, ...]
    status: SinkStatus
    totals: TotalsView
    error: ErrorView | None


@dataclass(frozen=True)
class TopicView:
    """A source topic: its partitions in the log (0: not there yet), and what this worker decoded of it."""

    topic: str
    partitions: int
    mine: int
    records: int
    changes: int
    rejected: int
    fallback: int
    skipped: dict[str, int]


@dataclass(frozen=True)
class VersionView:
    """A version of a schema: when a worker met it, and what the registry said of it (None: it was there before)."""

    version: int
    schema_id: int
    seen_at: datetime
    compatible: bool | None


@dataclass(frozen=True)
class SubjectView:
    """The versions that the registry has of a topic's keys or values, the newest first."""

    topic: str
    part: Literal["key", "value"]
    versions: tuple[VersionView, ...]


@dataclass(frozen=True)
class Snapshot:
    """All of it, at one moment."""

    at: datetime
    pipeline_id: str
    app_id: str
    state: StateView
    worker: WorkerView
    totals: TotalsView
    sinks: tuple[SinkView, ...]
    partitions: tuple[PartitionView, ...]
    topics: tuple[TopicView, ...]
    schemas: tuple[SubjectView, ...]
    log_ends_error: str | None
