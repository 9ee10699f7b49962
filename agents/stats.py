"""What a worker knows about its own progress: counted in memory, shown by the stats page and `/api/stats`.

Nothing is decided from these numbers; a restart begins anew. The watermarks beside them come from the table
`sink_watermarks`, which survives restarts.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from threading import Lock
from time import monotonic

from agents.writer import Commit
from config.errors import Unavailable
from sinks.base import TableFiles
from sources.changes import Chunk, DecodedChunk, Rejected, TopicPartition

RATE_WINDOW_SECONDS = 30.0

SHORTEST_WINDOW_SECONDS = 5.0
"""A first commit brings rows of several seconds at once: dividing them by less would show a rate that never was."""


@dataclass
class Rate:
    """Rows per second over the last `RATE_WINDOW_SECONDS`, or since this was made if that is shorter."""

    _born: float = field(default_factory=lambda: monotonic())
    _events: deque[tuple[float, int]] = field(default_factory=deque)
    _sum: int = 0

    def add(self, rows: int) -> None:
        """Count `rows` now."""
        self._forget()  # here too: where nobody asks for the rate, the events would pile up for ever
        self._events.append((monotonic(), rows))
        self._sum += rows

    def per_second(self) -> float:
        """The mean over the window."""
        self._forget()
        return self._sum / min(RATE_WINDOW_SECONDS, max(SHORTEST_WINDOW_SECONDS, monotonic() - self._born))

    def _forget(self) -> None:
        horizon = monotonic() - RATE_WINDOW_SECONDS
        while self._events and self._events[0][0] <= horizon:
            self._sum -= self._events.popleft()[1]


@dataclass
class SinkProgress:
    """One sink's progress on one Kafka partition since this worker started."""

    rows: int = 0
    commits: int = 0
    next_offset: int | None = None
    version: int | None = None
    committed_at: datetime | None = None
    last_record_ms: int | None = None
    commit_seconds: float | None = None
    files: TableFiles | None = None
    rate: Rate = field(default_factory=Rate)


@dataclass
class TopicDecoding:
    """What decoding a topic brought since this worker started; `fallback` counts records on the per-record path."""

    records: int = 0
    changes: int = 0
    rejected: int = 0
    fallback: int = 0
    skipped: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class SinkError:
    """The last error of a sink, what caused it (outermost first), when (UTC), whether the sink tries again, and how
    many errors it has had since this worker started."""

    message: str
    cause: str | None
    at: datetime
    retried: bool
    count: int


@dataclass
class PipelineStats:
    """All of it, by (sink, partition), by topic and by sink."""

    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    progress: dict[tuple[str, TopicPartition], SinkProgress] = field(default_factory=dict)
    decoding: dict[str, TopicDecoding] = field(default_factory=dict)
    errors: dict[str, SinkError] = field(default_factory=dict)
    commits: Counter[str] = field(default_factory=Counter)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def on_decoded(self, chunk: Chunk, decoded: DecodedChunk) -> None:
        """Count a decoded chunk (once, however many sinks read it). Called in the decoding threads."""
        changes = sum(change.rows.num_rows for change in decoded.changes)
        with self._lock:
            topic = self.decoding.setdefault(chunk.topic, TopicDecoding())
            topic.records += len(chunk)
            topic.changes += changes
            topic.rejected += len(decoded.rejected)
            topic.fallback += decoded.fallback_rows
            topic.skipped.update(decoded.skipped)

    def on_refused(self, chunk: Chunk, rejected: Sequence[Rejected]) -> None:
        """Count records that a sink couldn't apply."""
        with self._lock:
            self.decoding.setdefault(chunk.topic, TopicDecoding()).rejected += len(rejected)

    def on_read_again(self, topic: str, rows: int) -> None:
        """Count rows that the source was asked to send again, for a sink that lacks values of their records."""
        with self._lock:
            self.decoding.setdefault(topic, TopicDecoding()).skipped["reread"] += rows

    def decoded(self) -> dict[str, TopicDecoding]:
        """The decoding counters by topic, as they are now."""
        with self._lock:
            return {
                topic: replace(counters, skipped=Counter(counters.skipped)) for topic, counters in self.decoding.items()
            }

    def on_commit(self, sink_id: str, commit: Commit) -> None:
        """Count a landed commit."""
        self.commits[sink_id] += 1
        for tp in commit.ranges:
            progress = self.progress.setdefault((sink_id, tp), SinkProgress())
            progress.rows += commit.rows.get(tp, 0)
            progress.rate.add(commit.rows.get(tp, 0))
            progress.commits += 1
            progress.next_offset = commit.receipt.next_offsets.get(tp, progress.next_offset)
            progress.version = commit.receipt.version if commit.receipt.version is not None else progress.version
            progress.committed_at = commit.receipt.committed_at
            progress.last_record_ms = commit.timestamps.get(tp, progress.last_record_ms)
            progress.commit_seconds = commit.seconds
            progress.files = commit.receipt.files or progress.files

    def on_error(self, sink_id: str, error: BaseException) -> None:
        """Remember a sink's last error with its cause."""
        before = self.errors.get(sink_id)
        self.errors[sink_id] = SinkError(
            _readable(error),
            _causes(error),
            datetime.now(UTC),
            retried=isinstance(error, Unavailable),
            count=before.count + 1 if before is not None else 1,
        )


def _readable(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _causes(error: BaseException) -> str | None:
    """What an error came from, down to the first one."""
    found: list[str] = []
    seen = {id(error)}
    cause = error.__cause__ or error.__context__
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        found.append(_readable(cause))
        cause = cause.__cause__ or cause.__context__
    return "; caused by ".join(found) or None
