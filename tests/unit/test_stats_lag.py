"""Lag: asked of Kafka without making pages wait, and counted in seconds without inventing any."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

import app.lag
from app.lag import CaughtUp, LogEnds
from config.errors import Unavailable
from sources.changes import TopicPartition
from sources.protocols import PartitionLag

TP = TopicPartition("t", 0)
SECOND = 1000


def test_lag_is_as_old_as_the_last_written_record() -> None:
    lag = CaughtUp()
    assert lag.lag_seconds("s", TP, 5, 10 * SECOND, now_ms=25 * SECOND) == 15
    assert lag.lag_seconds("s", TP, 0, 10 * SECOND, now_ms=25 * SECOND) == 0


def test_first_row_after_a_quiet_hour_is_no_hour_of_lag() -> None:
    lag = CaughtUp()
    lag.lag_seconds("s", TP, 0, 0, now_ms=3600 * SECOND)
    assert lag.lag_seconds("s", TP, 1, 0, now_ms=3602 * SECOND) == 2
    assert lag.lag_seconds("another", TP, 1, 0, now_ms=3602 * SECOND) == 3602


def test_lag_that_is_not_known_is_not_zero() -> None:
    assert CaughtUp().lag_seconds("s", TP, None, 5, now_ms=10) is None
    assert CaughtUp().lag_seconds("s", TP, 7, None, now_ms=10) is None


def test_broker_clock_ahead_of_ours_gives_no_negative_lag() -> None:
    assert CaughtUp().lag_seconds("s", TP, 7, 20 * SECOND, now_ms=10 * SECOND) == 0


class Broker:
    """A monitor whose answers the test gives."""

    def __init__(self) -> None:
        self.asked = 0
        self.answers: asyncio.Queue[dict[TopicPartition, int] | Exception] = asyncio.Queue()
        self.closed = False

    async def end_offsets(self, topics: Sequence[str]) -> dict[TopicPartition, int]:
        self.asked += 1
        answer = await self.answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def lag(self, positions: Mapping[TopicPartition, int]) -> tuple[PartitionLag, ...]:
        raise NotImplementedError

    async def close(self) -> None:
        self.closed = True


async def test_slow_broker_delays_no_page_and_its_answer_is_taken_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.lag, "PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr(app.lag, "FRESH_SECONDS", 0.0)
    broker = Broker()
    ends = LogEnds(broker, ["t"])
    await ends.refresh()
    await ends.refresh()
    assert (ends.known, broker.asked) == ({}, 1), "one question at a time"
    broker.answers.put_nowait({TP: 7})
    await ends.refresh()
    assert ends.known == {TP: 7}
    broker.answers.put_nowait(Unavailable("Kafka at b:9092: away"))
    await ends.refresh()
    assert ends.known == {TP: 7}, "the last known ends stay"
    told = ends.error
    assert told == "Kafka at b:9092: away"
    broker.answers.put_nowait({TP: 8})
    await ends.refresh()
    assert (ends.known, ends.error) == ({TP: 8}, None)
    await ends.refresh()
    await ends.close()
    assert broker.closed


async def test_many_readers_ask_once(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Broker()
    ends = LogEnds(broker, ["t"])
    broker.answers.put_nowait({TP: 7})
    await asyncio.gather(*(ends.refresh() for _ in range(20)))
    await ends.refresh()
    assert (ends.known, broker.asked) == ({TP: 7}, 1)
