"""How far the source's log reaches, asked while somebody looks, and since when each sink is behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic

from config.errors import LakewardError
from sources.changes import TopicPartition
from sources.protocols import SourceMonitor

FRESH_SECONDS = 2.0
"""Ends that are younger are shown as they are."""

PATIENCE_SECONDS = 0.5
"""How long a page waits for the broker before it shows the last known ends."""


class LogEnds:
    """The next offset of every source partition's log, for all workers' partitions.

    Asked over a connection of its own: what the consumer knows stands still while a full backlog keeps a partition
    from being fetched, which is when the lag matters.
    """

    def __init__(self, monitor: SourceMonitor, topics: Sequence[str]) -> None:
        self._monitor = monitor
        self._topics = topics
        self._asking: asyncio.Task[dict[TopicPartition, int]] | None = None
        self._asked_at: float | None = None
        self.known: dict[TopicPartition, int] = {}
        self.error: str | None = None
        """Why the ends couldn't be read the last time."""

    async def refresh(self) -> None:
        """Bring `known` up to date if it is old. Returns after `PATIENCE_SECONDS` whatever the broker does."""
        if self._asking is None:
            if self._asked_at is not None and monotonic() - self._asked_at < FRESH_SECONDS:
                return
            self._asked_at = monotonic()
            self._asking = asyncio.create_task(self._monitor.end_offsets(self._topics), name="log ends")
        asking = self._asking
        done, _ = await asyncio.wait([asking], timeout=PATIENCE_SECONDS)
        if done and self._asking is asking:
            self._asking = None
            try:
                self.known, self.error = asking.result(), None
            except LakewardError as error:
                self.error = str(error)

    async def close(self) -> None:
        """Let go of the connection."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])
        await self._monitor.close()


class CaughtUp:
    """Remembers when each sink was last seen at the end of a partition's log.

    What it hasn't written yet arrived after that: without this, the first row after a quiet hour would look like an
    hour of lag.
    """

    def __init__(self) -> None:
        self._at_ms: dict[tuple[str, TopicPartition], int] = {}

    def lag_seconds(
        self, sink_id: str, tp: TopicPartition, lag_rows: int | None, last_record_ms: int | None, now_ms: int
    ) -> float | None:
        """How old the oldest record may be that the sink doesn't have; None while that isn't known.

        `last_record_ms` is the broker's timestamp of the last record that the sink has.
        """
        if lag_rows == 0:
            self._at_ms[sink_id, tp] = now_ms
            return 0.0
        since = [ms for ms in (last_record_ms, self._at_ms.get((sink_id, tp))) if ms is not None]
        if lag_rows is None or not since:
            return None
        return max(0, now_ms - max(since)) / 1000
