"""The whole comparison: wait until the source is quiet and everything has passed, read both sides, compare.

Each step can only make the answer stricter: what changes while it is looked at is reported as "could not tell".
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import pyarrow as pa

from config.pipeline import PipelineConfig
from config.platform import PlatformConfig
from sinks.factory import TablePlan, plan_tables
from sources.changes import CDC_NAMES, TopicPartition
from sources.kafka.lag import KafkaMonitor
from verify.compare import Comparison, compare, fold
from verify.lake import read_sink_table
from verify.source import SourceReader, connect_source

QUIET_SECONDS = 2.0
POLL_SECONDS = 0.25


@dataclass(frozen=True)
class Verdict:
    """What was found of one table in one sink; `unclear` says why it couldn't be told, if so."""

    sink_id: str
    table: str
    target: str
    comparison: Comparison | None
    unclear: str | None = None


@dataclass(frozen=True)
class Report:
    """All verdicts."""

    verdicts: tuple[Verdict, ...]

    @property
    def exit_status(self) -> int:
        """0 equal, 1 different, 2 could not tell."""
        if any(verdict.unclear for verdict in self.verdicts):
            return 2
        return 0 if all(v.comparison is not None and v.comparison.equal for v in self.verdicts) else 1


async def verify_pipeline(
    pipeline: PipelineConfig,
    platform: PlatformConfig,
    *,
    timeout: float = 120.0,
    examples: int = 20,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Compare every table of every enabled sink with the source. Raises LakewardError for what can't be reached."""
    plans = plan_tables(pipeline)
    pairs = [(plan, topic) for plan in plans for topic in plan.target.topics]
    source = await connect_source(pipeline.source)
    monitor = KafkaMonitor(platform.kafka)
    try:
        ends = await _wait(pipeline, plans, source, monitor, timeout, say)
        if isinstance(ends, str):
            return Report(tuple(_unclear(pipeline, plan, topic, ends) for plan, topic in pairs))
        verdicts = [await _verdict(pipeline, plan, topic, source, examples, say) for plan, topic in pairs]
        different = any(v.comparison is not None and not v.comparison.equal for v in verdicts)
        if different and not await _unmoved(pipeline, source, monitor, ends, timeout):
            verdicts = [_still_changing(verdict) for verdict in verdicts]
        return Report(tuple(verdicts))
    finally:
        await monitor.close()
        await source.close()


async def _wait(
    pipeline: PipelineConfig,
    plans: list[TablePlan],
    source: SourceReader,
    monitor: KafkaMonitor,
    timeout: float,
    say: Callable[[str], None],
) -> dict[TopicPartition, int] | str:
    """The topics' ends once the connector has sent all and the sinks have written all; else why not."""
    deadline = monotonic() + timeout
    ends: dict[TopicPartition, int] = {}
    quiet_since = monotonic()
    said = late = ""
    while True:
        found = await monitor.end_offsets(pipeline.topics)
        if found != ends or not await source.all_sent():
            ends, quiet_since = found, monotonic()
            state = "the connector is still reading the source's log"
        elif monotonic() - quiet_since < QUIET_SECONDS:
            state = "the topics have just grown"
        else:
            late = await asyncio.to_thread(_behind, plans, ends)
            if not late:
                return ends
            state = f"sinks are behind: {late}"
        if state != said:
            say(f"waiting: {state}")
            said = state
        if monotonic() > deadline:
            seen = f"; when last looked at, sinks were behind: {late}" if late and late not in state else ""
            return f"not caught up within {timeout:.0f} s: {state}{seen}"
        await asyncio.sleep(POLL_SECONDS)


async def _unmoved(
    pipeline: PipelineConfig,
    source: SourceReader,
    monitor: KafkaMonitor,
    ends: Mapping[TopicPartition, int],
    timeout: float,
) -> bool:
    """Whether the topics still end there when all that the source has logged until now has been sent.

    The log of a source grows by itself (checkpoints, other databases): that it isn't sent for a moment says nothing.
    """
    deadline = monotonic() + timeout
    sent_since: float | None = None
    while await monitor.end_offsets(pipeline.topics) == ends and monotonic() < deadline:
        if sent_since is None and await source.all_sent():
            sent_since = monotonic()
        if sent_since is not None and monotonic() - sent_since >= QUIET_SECONDS:
            return True
        await asyncio.sleep(POLL_SECONDS)
    return False


def _behind(plans: list[TablePlan], ends: Mapping[TopicPartition, int]) -> str:
    """The first few sinks that haven't written everything, by how much; empty if there is none."""
    late = []
    with tempfile.TemporaryDirectory() as folder:
        for plan in plans:
            wanted = {tp: end for tp, end in ends.items() if tp.topic in plan.target.topics and end}
            sink = plan.create(Path(folder))
            try:
                sink.open()
                committed = sink.committed(wanted)
            finally:
                sink.close()
            rows = sum(max(0, end - committed.get(tp, 0)) for tp, end in wanted.items())
            if rows:
                late.append(f"{plan.target.sink_id} {plan.target.name} by {rows} offsets")
    return "; ".join(late[:3])


async def _verdict(
    pipeline: PipelineConfig,
    plan: TablePlan,
    topic: str,
    source: SourceReader,
    examples: int,
    say: Callable[[str], None],
) -> Verdict:
    table = _table_of(pipeline, topic)
    say(f"comparing {table} with {plan.target.sink_id} → {plan.target.name}")
    key = pipeline.source.key_columns.get(table) or await source.key(table)
    if not key:
        return _unclear(pipeline, plan, topic, "the source table has no primary key to compare rows by")
    found = await asyncio.to_thread(read_sink_table, plan, topic)
    if found is None:
        there = await source.read(table, pa.schema([pa.field(name, pa.string()) for name in key]))
        if len(there):
            empty = there.schema.empty_table()
            return Verdict(plan.target.sink_id, table, plan.target.name, compare(there, empty, key, examples))
        return Verdict(plan.target.sink_id, table, plan.target.name, Comparison(0, 0, 0, 0, 0, ()))
    columns = pa.schema([field for field in found.schema if field.name not in CDC_NAMES])
    rows = found if plan.settings.write_mode == "upsert" else fold(found, key)
    if rows is None:
        return _unclear(
            pipeline, plan, topic, "its log has a truncate and several partitions: nobody knows their order"
        )
    before = await source.read(table, columns)
    comparison = compare(before, rows.select(columns.names), key, examples)
    return Verdict(plan.target.sink_id, table, plan.target.name, comparison)


def _table_of(pipeline: PipelineConfig, topic: str) -> str:
    return next(table for table in pipeline.source.tables if pipeline.topic(table) == topic)


def _unclear(pipeline: PipelineConfig, plan: TablePlan, topic: str, why: str) -> Verdict:
    return Verdict(plan.target.sink_id, _table_of(pipeline, topic), plan.target.name, None, why)


def _still_changing(verdict: Verdict) -> Verdict:
    why = "the source was changed during the comparison, or the connector stopped reading it"
    return Verdict(verdict.sink_id, verdict.table, verdict.target, None, why)
