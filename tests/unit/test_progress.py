"""What stands still is said within a minute, and nothing else is."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.progress import LOOK_SECONDS, PATIENCE_SECONDS, LoopWatch, ProgressWatch
from app.snapshot import PartitionView
from sources.changes import TopicPartition

TP = TopicPartition("cdc.public.orders", 0)
FLUSH = 5.0


class Watched:
    """A watch that is asked every few seconds, of one sink on one partition."""

    def __init__(self) -> None:
        self.now = 0.0
        self.idle = False
        self.watch = ProgressWatch(
            lambda _: PATIENCE_SECONDS + FLUSH, lambda _: self.idle, lambda *_: "`write` has been under way"
        )

    def run(
        self, seconds: float, next_offset: int | None, log_end: int | None, *, mine: bool = True, phase: Any = None
    ) -> list[dict[str, Any]]:
        """Look for so long at the same; returns what was logged."""
        row = PartitionView("lake", "orders", *TP, mine, next_offset, log_end, *(None,) * 8, None)
        with capture_logs() as lines:
            for _ in range(int(seconds / LOOK_SECONDS)):
                self.now += LOOK_SECONDS
                self.watch.look([row], phase, self.now)
        return [dict(line) for line in lines]


def test_an_offset_that_stands_still_before_the_logs_end_is_said_within_a_minute_and_then_each_minute() -> None:
    watched = Watched()
    (line,) = watched.run(60, 7, 9)
    assert line["event"] == "pipeline.stalled"
    assert line["log_level"] == "error"
    assert "lake has stood at offset 7 of cdc.public.orders/0, whose log ends at 9, for 50 s" in line["text"]
    assert "`write` has been under way" in line["text"]
    assert watched.watch.stalls[0].text.startswith("lake has stood at offset 7")
    assert len(watched.run(180, 7, 9)) == 3


def test_a_sink_that_has_never_written_anything_stands_still_too() -> None:
    assert len(Watched().run(60, None, 9)) == 1


@pytest.mark.parametrize(
    ("next_offset", "log_end", "mine"), [(9, 9, True), (None, 0, True), (7, None, True), (7, 9, False)]
)
def test_nothing_to_write_an_unknown_end_or_another_workers_partition_is_no_stall(
    next_offset: int | None, log_end: int | None, mine: bool
) -> None:
    assert Watched().run(300, next_offset, log_end, mine=mine) == []


def test_a_log_that_ends_with_the_brokers_own_records_is_no_stall() -> None:
    watched = Watched()
    watched.idle = True
    assert watched.run(300, 7, 9) == []


def test_progress_begins_the_time_anew_and_is_said_once_after_a_stall() -> None:
    watched = Watched()
    assert watched.run(40, 7, 9) == []
    assert watched.run(40, 8, 9) == []
    assert [line["event"] for line in watched.run(30, 8, 9)] == ["pipeline.stalled"]
    assert [line["event"] for line in watched.run(40, 9, 9)] == ["pipeline.goes_on"]
    assert watched.watch.stalls == ()


def test_a_rebalance_that_never_ends_is_said() -> None:
    watched = Watched()
    (line,) = watched.run(60, None, None, phase="the group is sharing out the partitions")
    assert line["text"] == "the group is sharing out the partitions for 45 s"
    assert watched.run(30, None, None, phase="reading the watermarks of the group")[0]["event"] == "pipeline.goes_on"


async def test_a_blocked_event_loop_is_said_with_what_blocks_it() -> None:
    with capture_logs() as lines:
        watching = asyncio.create_task(LoopWatch(limit=0.2).run())
        await asyncio.sleep(0.05)
        blocking_call()
        while len(lines) < 2:  # noqa: ASYNC110 - a thread writes them
            await asyncio.sleep(0.02)
        watching.cancel()
    assert [line["event"] for line in lines] == ["worker.blocked", "worker.goes_on"]
    assert "blocking_call" in lines[0]["stack"]


def blocking_call() -> None:
    time.sleep(1.0)
