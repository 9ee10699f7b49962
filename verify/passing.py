"""As of a source position: when does a sink's table hold all changes up to it, while changes go on?

A snapshot of the source has a position. All changes up to it are in Kafka once the connector's own kept offset is
behind it; or, for a quiet source (whose connector has nothing new to keep), once the database has sent everything up
to it and the topics have stopped growing. A connector that has kept no position yet, or that of a snapshot which isn't
over, is waited for: it still has to read the tables. They are in a table once its offsets have reached the topic's end
of then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any

from config.errors import LakewardError, Unavailable
from config.pipeline import PipelineConfig
from sinks.factory import TablePlan
from sources.changes import TopicPartition
from sources.debezium.client import DebeziumClient
from sources.debezium.connect_errors import ConnectError
from sources.protocols import SourceMonitor
from verify.lake import LakeVersion, open_lake
from verify.progress import Say
from verify.report import Unclear
from verify.source import Position, SourceReader

QUIET_SECONDS = 2.0
POLL_SECONDS = 0.25

Ends = Mapping[TopicPartition, int]
"""End offsets."""


class Passing:
    """Waits, each time for `timeout` seconds at most; then raises Unclear with what it was waiting for."""

    def __init__(
        self,
        pipeline: PipelineConfig,
        source: SourceReader,
        monitor: SourceMonitor,
        connect: DebeziumClient,
        timeout: float,
        say: Say,
    ) -> None:
        self._pipeline = pipeline
        self._source = source
        self._monitor = monitor
        self._connect = connect
        self._timeout = timeout
        self._say = say
        self._passed: Position | None = None
        """Up to where all changes are known to be in Kafka."""

    async def ends(self, topics: Sequence[str]) -> Ends:
        """The topics' ends as they are now."""
        return await self._monitor.end_offsets(topics)

    async def sent(self, position: Position) -> Ends:
        """End offsets of the pipeline's topics before which all changes up to `position` lie."""
        if self._passed is None or self._passed < position:
            self._passed = await self._passing(position)
        return await self.ends(self._pipeline.topics)

    async def _passing(self, position: Position) -> Position:
        """Wait until all changes up to `position` are in Kafka; up to where they are."""
        wait = _Wait(self._timeout, self._say)
        topics = self._pipeline.topics
        ends = await self.ends(topics)
        still_since = monotonic()
        while True:
            offsets = await self._offsets()
            stored = self._stored(offsets or ())
            if stored is not None and stored >= position:
                return stored
            found = await self.ends(topics)
            if offsets is not None and stored is None:
                # the database may have sent its whole log to a connector that is still to read the tables
                ends, still_since = found, monotonic()
                await wait.on("the connector has kept no position yet, so its first snapshot isn't over")
            elif found != ends or not await self._source.all_sent(position):
                ends, still_since = found, monotonic()
                kept = f"; it has kept {stored.text} of {position.text}" if stored else ""
                await wait.on(f"the connector is still reading the source's log{kept}")
            elif monotonic() - still_since >= QUIET_SECONDS:
                return position
            else:
                await wait.on("the topics have just grown")

    async def written(self, plan: TablePlan, topic: str, ends: Ends) -> LakeVersion | None:
        """A version of the sink's table that holds the topic up to `ends`; None if both are empty."""
        wait = _Wait(self._timeout, self._say)
        while True:
            lake, late = await asyncio.to_thread(_look, plan, topic, ends)
            if not late:
                return lake
            await wait.on(f"sinks are behind: {behind(plan, late)}")

    async def all_written(self, pairs: Sequence[tuple[TablePlan, str]], ends: Ends) -> dict[tuple[str, str], str]:
        """Waits for all tables at once; why it can't be told of which (sink, topic): still behind, or out of reach."""
        wait = _Wait(self._timeout, self._say)
        left = list(pairs)
        lost: dict[tuple[str, str], str] = {}
        while left:
            late: dict[tuple[str, str], str] = {}
            for plan, topic in left:
                name = plan.target.sink_id, topic
                try:
                    _, offsets = await asyncio.to_thread(_look, plan, topic, ends)
                except LakewardError as error:
                    lost[name] = str(error)
                else:
                    if offsets:
                        late[name] = behind(plan, offsets)
            left = [pair for pair in left if (pair[0].target.sink_id, pair[1]) in late]
            if left:
                try:
                    await wait.on(f"sinks are behind: {'; '.join(list(late.values())[:3])}")
                except Unclear as unclear:
                    return {**lost, **dict.fromkeys(late, str(unclear))}
        return lost

    async def _offsets(self) -> Sequence[Mapping[str, Any]] | None:
        """What Connect keeps for the connector, empty before the first position; None if Connect doesn't say."""
        try:
            return await self._connect.offsets(self._pipeline.pipeline_id)
        except (ConnectError, Unavailable):
            return None

    def _stored(self, offsets: Sequence[Mapping[str, Any]]) -> Position | None:
        """Up to where Kafka has acknowledged what the connector sent; None if a part of the source hasn't one yet."""
        found = [self._source.stored(offset) for offset in offsets]
        known = [position for position in found if position is not None]
        return min(known) if known and len(known) == len(found) else None


class _Wait:
    """Says what is waited for when that changes, and gives up in time."""

    def __init__(self, timeout: float, say: Say) -> None:
        self._timeout = timeout
        self._deadline = monotonic() + timeout
        self._say = say
        self._said = ""

    async def on(self, state: str) -> None:
        """Sleep a moment. Raises Unclear at the deadline."""
        kind = state.split(";")[0].split(" by ")[0]
        if kind != self._said:
            self._say(f"waiting: {state}")
            self._said = kind
        if monotonic() > self._deadline:
            raise Unclear(f"not caught up within {self._timeout:.0f} s: {state}")
        await asyncio.sleep(POLL_SECONDS)


def behind(plan: TablePlan, offsets: int) -> str:
    """For people: which table is behind, and by how much."""
    return f"{plan.target.sink_id} {plan.target.name} by {offsets} offsets"


def _look(plan: TablePlan, topic: str, ends: Ends) -> tuple[LakeVersion | None, int]:
    """The table's newest version, and by how many offsets it is behind."""
    wanted = {tp: end for tp, end in ends.items() if tp.topic == topic and end}
    lake = open_lake(plan, topic, tuple(wanted))
    have = lake.offsets if lake is not None else {}
    return lake, sum(max(0, end - have.get(tp, 0)) for tp, end in wanted.items())
