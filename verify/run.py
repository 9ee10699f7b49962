"""The whole comparison: each table of each sink is looked at until every difference is gone or stands.

A difference stands if two looks at different moments find it. Each look leaves out what changes under way explain (see
`verify.look`), so the second is there for what no log can show: a transaction that is logged but not yet visible, a
connector that seemed to be done.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from config.errors import LakewardError
from config.pipeline import PipelineConfig
from config.platform import PlatformConfig
from sinks.factory import TablePlan, plan_tables
from sources.debezium.client import DebeziumClient
from sources.kafka.lag import KafkaMonitor
from verify.columns import Column, source_columns
from verify.compare import Differing
from verify.events import Events
from verify.finding import Finding
from verify.look import Differences, Limits, Look, Pair, Wanted, looks
from verify.output import DifferenceFile
from verify.passing import Passing
from verify.progress import Say
from verify.repair import Repair
from verify.report import Report, Unclear, Verdict
from verify.signals import ROWS_AT_ONCE
from verify.source import SourceReader, connect_source, source_table

LOOKS = 3


async def verify_pipeline(
    pipeline: PipelineConfig,
    platform: PlatformConfig,
    *,
    timeout: float = 120.0,
    examples: int = 20,
    say: Say = lambda _: None,
    output: DifferenceFile | None = None,
    repair: bool = False,
) -> Report:
    """Compare every table of every enabled sink with the source, and `repair` what can be.

    `timeout`: seconds to wait, each time, for connector and sinks. `examples`: differences of each kind that the report
    names per table; `output` gets all that stand (before a repair). Raises LakewardError for what can't be reached at
    all, and ConfigurationError if a repair isn't possible.
    """
    mending = Repair(pipeline, timeout, say) if repair else None
    async with _connected(pipeline, platform, timeout, examples, say, output) as run:
        found = await run.findings()
        if mending is not None:
            await mending.mend([one for one in found if isinstance(one, Finding)])
        return Report(tuple(one.verdict() if isinstance(one, Finding) else one for one in found))


@asynccontextmanager
async def _connected(
    pipeline: PipelineConfig,
    platform: PlatformConfig,
    timeout: float,
    examples: int,
    say: Say,
    output: DifferenceFile | None,
) -> AsyncIterator[_Run]:
    source = await connect_source(pipeline.source)
    monitor = KafkaMonitor(platform.kafka)
    # one attempt: it is asked over and over, and a quiet source can do without it
    connect = DebeziumClient(
        platform.connector.connect_url, timeout_seconds=platform.connector.timeout_seconds, retry_max_attempts=1
    )
    try:
        columns = await source_columns(pipeline, platform)
        passing = Passing(pipeline, source, monitor, connect, timeout, say)
        events = await Events.connect(pipeline, platform)
        yield _Run(pipeline, source, columns, passing, events, Limits(examples, ROWS_AT_ONCE), say, output)
    finally:
        await connect.close()
        await monitor.close()
        await source.close()


@dataclass(frozen=True)
class _Run:
    pipeline: PipelineConfig
    source: SourceReader
    columns: Mapping[str, tuple[Column, ...]]
    passing: Passing
    events: Events
    limits: Limits
    say: Say
    output: DifferenceFile | None

    async def findings(self) -> list[Finding | Verdict]:
        """One per table and sink, once what is logged now has been written, or the wait for it is over: a verdict where
        it couldn't be told."""
        places = [(plan, topic) for plan in plan_tables(self.pipeline) for topic in plan.target.topics]
        async with self.source.snapshot() as snapshot:
            position = snapshot.position
        try:
            lost = await self.passing.all_written(places, await self.passing.sent(position))
        except Unclear as unclear:
            lost = {(plan.target.sink_id, topic): str(unclear) for plan, topic in places}
        found: list[Finding | Verdict | Pair] = []
        for plan, topic in places:
            why = lost.get((plan.target.sink_id, topic))
            found.append(await self._pair(plan, topic) if why is None else self._unclear(plan, topic, why))
        settled = iter(await self._settled([one for one in found if isinstance(one, Pair)]))
        return [next(settled) if isinstance(one, Pair) else one for one in found]

    async def _pair(self, plan: TablePlan, topic: str) -> Pair | Verdict:
        try:
            table = await source_table(self.source, self.pipeline, self.columns, self._table(topic))
        except LakewardError as error:
            return self._unclear(plan, topic, str(error))
        return Pair(plan, topic, table, self.source, self.passing, self.events, self.say)

    async def _settled(self, pairs: Sequence[Pair]) -> list[Finding | Verdict]:
        """Look until every difference is gone or stands."""
        settled: dict[int, Finding | Verdict] = {}
        whole: dict[int, Look] = {}
        last: dict[int, Look] = {}
        for number in range(1, LOOKS + 1):
            left = [n for n in range(len(pairs)) if n not in settled]
            # a first look's differences may be none
            wanted = [
                Wanted(pairs[n], last[n], self._writer(pairs[n])) if n in last else Wanted(pairs[n]) for n in left
            ]
            for n, found in zip(left, await looks(wanted, self.limits), strict=True):
                pair = pairs[n]
                if not isinstance(found, Look):
                    settled[n] = self._unclear(pair.plan, pair.topic, str(found))
                    continue
                whole.setdefault(n, found)
                last[n] = found
                if not found.differences or (number > 1 and not found.uncertain):
                    settled[n] = Finding(pair, self.limits, whole[n], found)
                elif number == LOOKS:
                    settled[n] = self._unclear(
                        pair.plan,
                        pair.topic,
                        "records that can't be read (dead letters) arrive all the time;"
                        f" {found.differences:,} rows differ that they may explain. See the dead-letter topic, and run"
                        " it again",
                    )
                else:
                    self.say(f"{pair.name}: {found.differences:,} rows differ, looking at them again")
        return [settled[n] for n in range(len(pairs))]

    def _writer(self, pair: Pair) -> Differences:
        def write(found: Look, differing: Differing) -> None:
            if self.output is not None and not found.uncertain:
                self.output.write(pair.plan.target.sink_id, pair.table.name, differing.rows())

        return write

    def _table(self, topic: str) -> str:
        return next(table for table in self.pipeline.source.tables if self.pipeline.topic(table) == topic)

    def _unclear(self, plan: TablePlan, topic: str, why: str) -> Verdict:
        return Verdict(plan.target.sink_id, self._table(topic), plan.target.name, None, why)
