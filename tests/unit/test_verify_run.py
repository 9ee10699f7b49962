"""`cdc verify` decides whether the source stood still during a comparison."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sources.changes import TopicPartition
from verify import run

TP = TopicPartition("shop.public.orders", 0)


class Source:
    """Says in turn whether all has been sent; the last answer stays."""

    def __init__(self, *answers: bool) -> None:
        self._answers = list(answers)

    async def all_sent(self) -> bool:
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


class Monitor:
    """Tells the topic's end in turn; the last one stays."""

    def __init__(self, *ends: int) -> None:
        self._ends: Iterator[int] = iter(ends)
        self._last = ends[0]

    async def end_offsets(self, topics: Any) -> dict[TopicPartition, int]:
        self._last = next(self._ends, self._last)
        return {TP: self._last}


class Pipeline:
    topics = (TP.topic,)


@pytest.mark.parametrize(
    ("source", "monitor", "unmoved"),
    [
        (Source(True), Monitor(7), True),
        (Source(False, False, False, True), Monitor(7), True),  # the log grew without a change of these tables
        (Source(False, False, True), Monitor(7, 7, 8), False),
        (Source(True), Monitor(7, 7, 7, 8), False),  # a change that the connector had received and not yet produced
        (Source(False), Monitor(7), False),  # the connector is down: nobody knows
    ],
)
async def test_source_that_only_logged_stood_still(
    monkeypatch: pytest.MonkeyPatch, source: Source, monitor: Monitor, unmoved: bool
) -> None:
    monkeypatch.setattr(run, "POLL_SECONDS", 0.001)
    monkeypatch.setattr(run, "QUIET_SECONDS", 0.05)
    found = await run._unmoved(Pipeline(), source, monitor, {TP: 7}, timeout=0.3)  # type: ignore[arg-type]  # fakes
    assert found is unmoved


async def test_deadline_tells_which_sinks_were_behind_even_if_the_source_has_just_logged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run, "POLL_SECONDS", 0.001)
    monkeypatch.setattr(run, "QUIET_SECONDS", 0.05)
    looked = []

    def behind(*_: Any) -> str:
        looked.append(True)
        return "lake shop.orders by 3 offsets"

    class LogsOnceLookedAt(Source):
        async def all_sent(self) -> bool:
            return not looked

    monkeypatch.setattr(run, "_behind", behind)
    found = await run._wait(Pipeline(), [], LogsOnceLookedAt(), Monitor(7), 0.2, lambda _: None)  # type: ignore[arg-type]  # fakes
    assert found == (
        "not caught up within 0 s: the connector is still reading the source's log; "
        "when last looked at, sinks were behind: lake shop.orders by 3 offsets"
    )
