"""Whether a worker gets on: said in the log and by `/readyz` within a minute when it doesn't.

Two ways of standing still: a sink's offset doesn't move though there is something to write (`ProgressWatch`, asked
by a timer), or the event loop itself is blocked so that no timer runs and no page answers (`LoopWatch`, a thread).
"""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import monotonic

import structlog

from app.snapshot import PartitionView
from sources.changes import TopicPartition

log = structlog.get_logger("lakeward.progress")

LOOK_SECONDS = 5.0
PATIENCE_SECONDS = 45.0
"""How long an offset may stand still, beyond the sink's flush interval: said by the next look after it."""

BLOCKED_SECONDS = 20.0
"""How long the event loop may be blocked."""


@dataclass(frozen=True)
class Stall:
    """What stands still: a sink on a Kafka partition, or the group (None); for how long, and what is known of why."""

    sink_id: str | None
    tp: TopicPartition | None
    next_offset: int | None
    log_end: int | None
    seconds: float
    doing: str

    @property
    def text(self) -> str:
        """One sentence."""
        if self.tp is None:
            return f"{self.doing} for {self.seconds:.0f} s"
        return (
            f"{self.sink_id} has stood at offset {self.next_offset} of {self.tp.topic}/{self.tp.partition}, whose log"
            f" ends at {self.log_end}, for {self.seconds:.0f} s: {self.doing}"
        )


class ProgressWatch:
    """Remembers since when each sink has stood where it stands.

    `patience`: seconds by sink id. `is_idle(tp)`: all that the log has of a partition was read and nothing of it is
    under way (what is left is the broker's own records). `doing(sink_id, tp)`: what that sink's writer does.
    """

    def __init__(
        self,
        patience: Callable[[str], float],
        is_idle: Callable[[TopicPartition], bool],
        doing: Callable[[str, TopicPartition], str],
    ) -> None:
        self._patience = patience
        self._is_idle = is_idle
        self._doing = doing
        self._since: dict[tuple[str, TopicPartition], tuple[int | None, float]] = {}
        self._phase: tuple[str, float] | None = None
        self._said: dict[tuple[str | None, TopicPartition | None], float] = {}
        self.stalls: tuple[Stall, ...] = ()
        """What the last look found."""

    def look(self, partitions: Iterable[PartitionView], phase: str | None, now: float | None = None) -> None:
        """Compare with what was seen before, and log what stands still, once a minute. `phase`: what the worker is in
        before it can write anything (a rebalance, say)."""
        now = monotonic() if now is None else now
        self.stalls = (*self._still_in(phase, now), *self._still_at(partitions, now))
        keys = {(stall.sink_id, stall.tp) for stall in self.stalls}
        for sink_id, tp in self._said.keys() - keys:
            del self._said[sink_id, tp]
            log.info("pipeline.goes_on", sink=sink_id, topic=tp and tp.topic, partition=tp and tp.partition)
        for stall in self.stalls:
            if now - self._said.get((stall.sink_id, stall.tp), -60.0 + now) >= 60.0:
                self._said[stall.sink_id, stall.tp] = now
                log.error("pipeline.stalled", sink=stall.sink_id, text=stall.text)

    def _still_in(self, phase: str | None, now: float) -> Iterable[Stall]:
        if phase is None or self._phase is None or self._phase[0] != phase:
            self._phase = None if phase is None else (phase, now)
        elif now - self._phase[1] >= PATIENCE_SECONDS:
            yield Stall(None, None, None, None, now - self._phase[1], phase)

    def _still_at(self, partitions: Iterable[PartitionView], now: float) -> Iterable[Stall]:
        before, self._since = self._since, {}
        for row in partitions:
            tp = TopicPartition(row.topic, row.partition)
            if not row.mine or row.log_end is None or row.log_end <= (row.next_offset or 0) or self._is_idle(tp):
                continue
            offset, since = before.get((row.sink_id, tp), (row.next_offset, now))
            if offset != row.next_offset:
                since = now
            self._since[row.sink_id, tp] = row.next_offset, since
            if now - since >= self._patience(row.sink_id):
                doing = self._doing(row.sink_id, tp)
                yield Stall(row.sink_id, tp, row.next_offset, row.log_end, now - since, doing)


class LoopWatch:
    """A thread that says when the event loop is blocked, and by what."""

    def __init__(self, limit: float = BLOCKED_SECONDS) -> None:
        self._limit = limit
        self._beat = monotonic()
        self._ended = threading.Event()
        self._main = threading.get_ident()
        self._thread = threading.Thread(target=self._watch, name="loop-watch", daemon=True)

    async def run(self) -> None:
        """Beat until cancelled; call it on the loop that is watched."""
        self._main = threading.get_ident()
        self._beat = monotonic()
        self._thread.start()
        try:
            while True:
                self._beat = monotonic()
                await asyncio.sleep(1.0)
        finally:
            self._ended.set()

    def _watch(self) -> None:
        blocked = False
        while not self._ended.wait(min(1.0, self._limit / 4)):
            seconds = monotonic() - self._beat
            if seconds > self._limit and not blocked:
                frame = sys._current_frames().get(self._main)
                stack = "".join(traceback.format_stack(frame)) if frame else ""
                log.critical("worker.blocked", seconds=round(seconds, 1), stack=stack)
            elif blocked and seconds <= self._limit:
                log.error("worker.goes_on")
            blocked = seconds > self._limit
