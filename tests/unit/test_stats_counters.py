"""What a worker counts of its own progress: rates that forget, errors with their causes, counts from many threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pytest

import agents.stats
from agents.stats import RATE_WINDOW_SECONDS, PipelineStats, Rate
from config.errors import OffsetGap, Unavailable
from sources.changes import Chunk, DecodedChunk


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic time, which the test sets."""
    now = [1000.0]
    monkeypatch.setattr(agents.stats, "monotonic", lambda: now[0])
    return now


def test_rate_is_the_mean_over_the_window(clock: list[float]) -> None:
    rate = Rate()
    for _ in range(60):
        clock[0] += 1
        rate.add(500)
    assert rate.per_second() == pytest.approx(500, rel=0.05)
    clock[0] += RATE_WINDOW_SECONDS + 1
    assert rate.per_second() == 0


def test_rate_of_a_young_worker_is_not_diluted_by_time_before_it_started(clock: list[float]) -> None:
    rate = Rate()
    clock[0] += 10
    rate.add(5000)
    assert rate.per_second() == pytest.approx(500)


def test_rate_that_nobody_asks_for_keeps_no_old_events(clock: list[float]) -> None:
    rate = Rate()
    for _ in range(10_000):
        clock[0] += 1
        rate.add(1)
    assert len(rate._events) <= RATE_WINDOW_SECONDS + 1


def test_error_keeps_all_of_its_causes_and_counts_attempts() -> None:
    stats = PipelineStats()
    try:
        try:
            try:
                raise ConnectionRefusedError(111, "Connection refused")
            except OSError as error:
                raise RuntimeError("no connection in pool") from error
        except RuntimeError as error:
            raise Unavailable("s3://lake doesn't answer") from error
    except Unavailable as error:
        stats.on_error("lake", error)
        stats.on_error("lake", error)
    found = stats.errors["lake"]
    assert found.message == "Unavailable: s3://lake doesn't answer"
    assert found.cause == (
        "RuntimeError: no connection in pool; caused by ConnectionRefusedError: [Errno 111] Connection refused"
    )
    assert (found.count, found.retried) == (2, True)
    stats.on_error("lake", OffsetGap("a hole"))
    assert (stats.errors["lake"].cause, stats.errors["lake"].retried) == (None, False)


def test_error_that_is_its_own_cause_is_told_once() -> None:
    stats = PipelineStats()
    first, second = ValueError("a"), ValueError("b")
    first.__context__, second.__context__ = second, first
    stats.on_error("lake", first)
    assert stats.errors["lake"].cause == "ValueError: b"


class Interrupted(Chunk):
    """A chunk that lets another thread run while it is being counted."""

    def __len__(self) -> int:
        Event().wait(0.01)
        return super().__len__()


def test_decoding_threads_lose_no_counts() -> None:
    stats = PipelineStats()
    nothing = np.zeros(3, dtype=np.int64)
    chunk = Interrupted("t", 0, 1, 0, 3, nothing, nothing, [None] * 3, [b""] * 3, [()] * 3, 1)
    decoded = DecodedChunk(())
    decoded.skipped["tombstone"] = 3
    with ThreadPoolExecutor(4) as threads:
        for _ in range(20):
            threads.submit(stats.on_decoded, chunk, decoded)
    assert stats.decoded()["t"].records == 60
    assert stats.decoded()["t"].skipped == {"tombstone": 60}
