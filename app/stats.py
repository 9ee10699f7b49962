"""What a worker shows of itself and of its group: the data behind the stats page, `/readyz` and `/metrics`.

Put together for each request, from the running pipeline's counters and ledger (this worker's partitions), the tables
`sink_watermarks` and `schema_versions` (everybody's) and the ends of the log. Nothing here is secret; nothing is
decided from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from agents.pipeline import Pipeline
from agents.stats import PipelineStats, SinkProgress
from app.lag import CaughtUp
from app.progress import Stall
from app.snapshot import (
    ErrorView,
    PartitionView,
    SinkStatus,
    SinkView,
    Snapshot,
    StateView,
    SubjectView,
    TopicView,
    TotalsView,
    VersionView,
    WorkerView,
)
from sources.changes import TopicPartition
from tables.schema_versions import parsed
from tables.sink_watermarks import parse_watermark_key

ATTEMPT_SECONDS = 60.0
"""A sink that still fails says so again within its longest wait plus this, the time that an attempt may take."""


@dataclass(frozen=True)
class Feed:
    """A topic that a sink brings into a table. `max_wait_seconds`: the sink's longest wait between two attempts."""

    sink_id: str
    sink_type: str
    topic: str
    table: str
    max_wait_seconds: float


@dataclass(frozen=True)
class Situation:
    """What the snapshot is made of, beside the pipeline: who this is, and what the app and Kafka say."""

    pipeline_id: str
    app_id: str
    worker_id: str
    feeds: tuple[Feed, ...]
    bytes_budget: int
    watermarks: Mapping[str, Mapping[str, Any]]
    schema_versions: Mapping[str, Mapping[str, Any]]
    log_ends: Mapping[TopicPartition, int]
    log_ends_error: str | None
    rebalancing: bool
    recovering: bool
    stopping: bool
    started_at: datetime
    stalls: tuple[Stall, ...] = ()

    @property
    def phase(self) -> tuple[str, str] | None:
        """What the worker is in before it can write anything: a name and a sentence."""
        if self.rebalancing:
            return "rebalancing", "the group is sharing out the partitions"
        if self.recovering:
            return "recovering", "reading the watermarks of the group"
        return None


def assemble(
    pipeline: Pipeline | None,
    situation: Situation,
    caught_up: CaughtUp,
    redact: Callable[[str], str],
    now: datetime | None = None,
) -> Snapshot:
    """The snapshot; `pipeline` is None until the worker has one. `redact` masks secrets in error texts."""
    now = now or datetime.now(UTC)
    stats = pipeline.stats if pipeline is not None else PipelineStats(started_at=situation.started_at)
    mine = frozenset(pipeline.ledger.partitions()) if pipeline is not None else frozenset()
    partitions = tuple(_partitions(pipeline, stats, situation, mine, caught_up, now))
    sinks = tuple(_sinks(stats, situation, partitions, redact, now))
    topics = tuple(_topics(stats, situation, mine))
    totals = _totals(partitions, stats.commits.total())
    worker = WorkerView(
        situation.worker_id,
        stats.started_at,
        max(0.0, (now - stats.started_at).total_seconds()),
        len(mine),
        pipeline.backlog.total if pipeline is not None else 0,
        situation.bytes_budget,
    )
    state = _state(situation, sinks, topics, totals, started=pipeline is not None)
    return Snapshot(
        now,
        situation.pipeline_id,
        situation.app_id,
        state,
        worker,
        totals,
        sinks,
        partitions,
        topics,
        tuple(_schemas(situation)),
        redact(situation.log_ends_error) if situation.log_ends_error else None,
    )


def _partitions(
    pipeline: Pipeline | None,
    stats: PipelineStats,
    situation: Situation,
    mine: frozenset[TopicPartition],
    caught_up: CaughtUp,
    now: datetime,
) -> Iterable[PartitionView]:
    stored = {parse_watermark_key(key): value for key, value in situation.watermarks.items()}
    there = {*mine, *situation.log_ends, *(tp for _, tp in stored)}
    now_ms = int(now.timestamp() * 1000)
    for feed in situation.feeds:
        for tp in sorted(tp for tp in there if tp.topic == feed.topic):
            row = stored.get((feed.sink_id, tp), {})
            end = situation.log_ends.get(tp)
            own = tp in mine
            progress = stats.progress.get((feed.sink_id, tp)) if own else None
            progress = progress or SinkProgress()
            # The destination's own word, where this worker has asked it; else what the owner last wrote down.
            offset = pipeline.ledger.next_offset(feed.sink_id, tp) if own and pipeline else row.get("next_offset")
            lag = _lag(end, offset)
            yield PartitionView(
                feed.sink_id,
                feed.table,
                tp.topic,
                tp.partition,
                own,
                offset,
                end,
                lag,
                caught_up.lag_seconds(feed.sink_id, tp, lag, progress.last_record_ms, now_ms) if own else None,
                str(progress.version) if progress.version is not None else row.get("version"),
                progress.committed_at or _time(row.get("committed_at")),
                progress.rows if own else None,
                round(progress.rate.per_second(), 1) if own else None,
                progress.commits if own else None,
                progress.commit_seconds,
                progress.files,
            )


def _lag(end: int | None, offset: int | None) -> int | None:
    if end == 0:
        return 0  # nothing was ever there, so the sink has no offset of it either
    return max(0, end - offset) if end is not None and offset is not None else None


def _totals(partitions: Iterable[PartitionView], commits: int) -> TotalsView:
    found = list(partitions)
    seconds = [p.lag_seconds for p in found if p.lag_seconds is not None]
    return TotalsView(
        partitions=len(found),
        lag_rows=sum(p.lag_rows or 0 for p in found),
        lag_unknown=sum(p.lag_rows is None for p in found),
        lag_seconds=max(seconds) if seconds else None,
        rows=sum(p.rows or 0 for p in found),
        rows_per_s=round(sum(p.rows_per_s or 0.0 for p in found), 1),
        commits=commits,
        last_commit=max((p.committed_at for p in found if p.committed_at is not None), default=None),
    )


def _sinks(
    stats: PipelineStats,
    situation: Situation,
    partitions: tuple[PartitionView, ...],
    redact: Callable[[str], str],
    now: datetime,
) -> Iterable[SinkView]:
    for sink_id in dict.fromkeys(feed.sink_id for feed in situation.feeds):
        feeds = [feed for feed in situation.feeds if feed.sink_id == sink_id]
        rows = [p for p in partitions if p.sink_id == sink_id]
        error = stats.errors.get(sink_id)
        landed = max((p.committed_at for p in rows if p.mine and p.committed_at is not None), default=None)
        over = error is not None and landed is not None and landed > error.at
        status: SinkStatus = "running" if any(p.mine for p in rows) else "idle"
        if error is not None and not error.retried:
            status = "failed"
        elif error is not None and not over:
            patience = timedelta(seconds=feeds[0].max_wait_seconds + ATTEMPT_SECONDS)
            status = "retrying" if now - error.at < patience else status
        yield SinkView(
            sink_id,
            feeds[0].sink_type,
            tuple(dict.fromkeys(feed.table for feed in feeds)),
            status,
            _totals(rows, stats.commits[sink_id]),
            None
            if error is None
            else ErrorView(
                redact(error.message), redact(error.cause) if error.cause else None, error.at, over, error.count
            ),
        )


def _topics(stats: PipelineStats, situation: Situation, mine: frozenset[TopicPartition]) -> Iterable[TopicView]:
    decoded = stats.decoded()
    for topic in dict.fromkeys(feed.topic for feed in situation.feeds):
        counters = decoded.get(topic)
        own = sum(tp.topic == topic for tp in mine)
        yield TopicView(
            topic,
            max(own, sum(tp.topic == topic for tp in situation.log_ends)),
            own,
            counters.records if counters else 0,
            counters.changes if counters else 0,
            counters.rejected if counters else 0,
            counters.fallback if counters else 0,
            dict(counters.skipped) if counters else {},
        )


def _schemas(situation: Situation) -> Iterable[SubjectView]:
    parts: tuple[Literal["value", "key"], ...] = ("value", "key")
    for topic in dict.fromkeys(feed.topic for feed in situation.feeds):
        for part in parts:
            seen = parsed(situation.schema_versions.get(f"{topic}-{part}"))
            if seen:
                versions = [
                    VersionView(v.version, v.schema_id, datetime.fromisoformat(v.seen_at), v.compatible)
                    for v in reversed(seen)
                ]
                yield SubjectView(topic, part, tuple(versions))


def _state(
    situation: Situation,
    sinks: tuple[SinkView, ...],
    topics: tuple[TopicView, ...],
    totals: TotalsView,
    *,
    started: bool,
) -> StateView:
    failed = [sink.sink_id for sink in sinks if sink.status == "failed"]
    retrying = [sink.sink_id for sink in sinks if sink.status == "retrying"]
    missing = [topic.topic for topic in topics if not topic.partitions]
    mine = sum(topic.mine for topic in topics)
    waiting = f"; waiting for {len(missing)} topic{'s' * (len(missing) > 1)} not there yet" if missing else ""
    if situation.stopping:
        return StateView("busy", "stopping", "the worker is stopping")
    if failed:
        return StateView("error", "failed", f"stopped by an error: {', '.join(failed)}")
    if retrying:
        return StateView("error", "retrying", f"the destination can't be written, trying again: {', '.join(retrying)}")
    if not started:
        return StateView("busy", "starting", "reaching the broker and the destinations")
    if situation.stalls:
        more = f" (and {len(situation.stalls) - 1} more)" if len(situation.stalls) > 1 else ""
        return StateView("error", "stalled", f"{situation.stalls[0].text}{more}")
    if situation.phase is not None:
        return StateView("busy", *situation.phase)
    if situation.log_ends_error:
        return StateView("error", "broker away", f"Kafka can't be asked; lag is as last known{waiting}")
    if not mine and missing:
        return StateView("busy", "waiting", f"no partition yet{waiting}")
    if not mine:
        return StateView("busy", "idle", "no partition is assigned to this worker: the others have all of them")
    if totals.lag_rows:
        return StateView("ok", "running", f"{totals.lag_rows:,} rows to write{waiting}")
    return StateView("ok", "running", f"all changes are in the tables{waiting}")


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
