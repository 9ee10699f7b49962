"""When a sink's table holds all changes up to a source position."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from config.errors import Unavailable
from sources.changes import TopicPartition
from verify import passing
from verify.passing import Passing
from verify.report import Unclear
from verify.source import Position

TP = TopicPartition("shop.public.orders", 0)
HERE = Position((100,), "LSN 0/64")


class Source:
    """Says in turn whether all has been sent; the last answer stays."""

    def __init__(self, *answers: bool) -> None:
        self._answers = list(answers)

    def answer(self, *, sent: bool) -> None:
        self._answers = [sent]

    async def all_sent(self, position: Position) -> bool:
        assert position == HERE
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]

    def stored(self, offset: Mapping[str, Any]) -> Position | None:
        return Position((offset["lsn"],), "") if "lsn" in offset else None


class Monitor:
    """Tells the topic's end in turn; the last one stays."""

    def __init__(self, *ends: int) -> None:
        self._ends = list(ends)

    async def end_offsets(self, topics: Any) -> dict[TopicPartition, int]:
        return {TP: self._ends.pop(0) if len(self._ends) > 1 else self._ends[0]}


class Connect:
    """Tells the connector's offsets in turn; an error in place of some is raised."""

    def __init__(self, *offsets: Any) -> None:
        self._offsets = list(offsets)

    async def offsets(self, name: str) -> tuple[dict[str, Any], ...]:
        found = self._offsets.pop(0) if len(self._offsets) > 1 else self._offsets[0]
        if isinstance(found, Exception):
            raise found
        return tuple(found)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passing, "POLL_SECONDS", 0.001)
    monkeypatch.setattr(passing, "QUIET_SECONDS", 0.05)


def waiting(source: Source, monitor: Monitor, connect: Connect, timeout: float = 0.4, said: Any = None) -> Passing:
    pipeline: Any = SimpleNamespace(topics=(TP.topic,), pipeline_id="p")
    parts: tuple[Any, Any, Any] = (source, monitor, connect)
    return Passing(pipeline, *parts, timeout, said.append if said is not None else lambda _: None)


QUIET = Connect([{"lsn": 5}])
SNAPSHOT = [{"snapshot": "INITIAL", "snapshot_completed": False}]
NO_POSITION = "the connector has kept no position yet, so its first snapshot isn't over"


@pytest.mark.parametrize(
    ("source", "monitor", "connect", "end"),
    [
        # the connector's own position tells, however fast the topics grow
        (Source(False), Monitor(*range(7, 900)), Connect([{"lsn": 99}], [{"lsn": 100}]), 9),
        (Source(False), Monitor(7), Connect([{"lsn": 101}]), 7),
        # a quiet source, whose connector has nothing to keep
        (Source(True), Monitor(7), QUIET, 7),
        (Source(True), Monitor(7), Connect(Unavailable("away")), 7),
        # a change that the connector had received and not yet produced
        (Source(True), Monitor(7, 7, 7, 8), QUIET, 8),
        (Source(False, False, True), Monitor(7), QUIET, 7),
        # a first snapshot that begins, is under way and ends, while the database has nothing more to send
        (Source(True), Monitor(*[0] * 5, *[3] * 5, 7), Connect(*[()] * 5, *[SNAPSHOT] * 5, [{"lsn": 5}]), 7),
    ],
)
async def test_what_is_sent_is_known(source: Source, monitor: Monitor, connect: Connect, end: int) -> None:
    assert await waiting(source, monitor, connect).sent(HERE) == {TP: end}


async def test_a_position_that_is_known_to_have_passed_is_not_waited_for_again() -> None:
    asked = Source(True)
    wait = waiting(asked, Monitor(7), Connect([{"lsn": 5}]))
    assert await wait.sent(HERE) == {TP: 7}
    asked.answer(sent=False)
    assert await wait.sent(Position((99,), "before")) == await wait.sent(HERE) == {TP: 7}
    with pytest.raises(AssertionError):  # a later one is asked for
        await wait.sent(Position((101,), "later"))

    kept = waiting(Source(False), Monitor(7), Connect([{"lsn": 150}], Unavailable("away")))
    for lsn in (100, 120, 150):
        assert await kept.sent(Position((lsn,), "")) == {TP: 7}


@pytest.mark.parametrize(
    ("source", "monitor", "connect", "why"),
    [
        (Source(False), Monitor(7), QUIET, "the connector is still reading the source's log"),  # it is down
        (Source(False), Monitor(7), Connect([{"lsn": 99}]), "the connector is .*; it has kept .* of LSN 0/64"),
        (Source(True), Monitor(*range(1, 99_999)), QUIET, "the connector is still reading"),
        (Source(True), Monitor(0), Connect(()), NO_POSITION),
        (Source(True), Monitor(7), Connect(SNAPSHOT), NO_POSITION),
        # a first snapshot is under way in one part of the source
        (Source(True), Monitor(7), Connect([{"lsn": 200}, {}]), NO_POSITION),
    ],
)
async def test_what_is_not_sent_in_time_is_told(source: Source, monitor: Monitor, connect: Connect, why: str) -> None:
    with pytest.raises(Unclear, match=rf"not caught up within 0 s: {why}"):
        await waiting(source, monitor, connect).sent(HERE)


async def test_sinks_that_stay_behind_are_named_and_do_not_keep_others_from_being_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def plan(name: str) -> Any:
        return SimpleNamespace(target=SimpleNamespace(sink_id=name, name=f"shop.{name}"))

    late: dict[str, list[Any]] = {"good": [5, 0], "slow": [9], "gone": [Unavailable("the store is away")]}

    def look(plan: Any, topic: str, ends: Any) -> tuple[None, int]:
        answers = late[plan.target.sink_id]
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(found, Exception):
            raise found
        assert isinstance(found, int)
        return None, found

    monkeypatch.setattr(passing, "_look", look)
    said: list[str] = []
    pairs = [(plan(name), TP.topic) for name in late]
    found = await waiting(Source(True), Monitor(7), Connect(()), said=said).all_written(pairs, {TP: 7})
    assert found == {
        ("slow", TP.topic): "not caught up within 0 s: sinks are behind: slow shop.slow by 9 offsets",
        ("gone", TP.topic): "the store is away",
    }
    assert said == [
        "waiting: sinks are behind: good shop.good by 5 offsets; slow shop.slow by 9 offsets",
        "waiting: sinks are behind: slow shop.slow by 9 offsets",
    ]
