"""Looks at several tables share snapshots, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from config.errors import Unavailable
from verify import look as module
from verify.look import BEGINNINGS, Limits, Look, Wanted, look, looks
from verify.report import ColumnsChanged, Unclear

LIMITS = Limits(20, 20)


class Source:
    """Counts its snapshots, one at a time; the first `away` of them can't be had."""

    def __init__(self, away: int = 0) -> None:
        self.snapshots = 0
        self.open = False
        self._away = away

    async def unseen(self, table: str) -> frozenset[str]:
        assert not self.open
        return frozenset({f"a writer of {table} before snapshot {self.snapshots + 1}"})

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[int]:
        if self._away:
            self._away -= 1
            raise Unavailable("the source is away")
        assert not self.open
        self.open = True
        self.snapshots += 1
        yield self.snapshots
        self.open = False


class Passing:
    async def ends(self, topics: Any) -> dict[Any, int]:
        return {}


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Which tables are begun in which snapshot. A look fails with what the table names in turn, if that is an error."""
    beginnings: list[tuple[str, int]] = []

    def turn(wanted: Wanted, when: str) -> None:
        pair: Any = wanted.pair
        errors = getattr(pair, when, [])
        if errors and (error := errors.pop(0)):
            raise error

    async def begin(wanted: Wanted, snapshot: int, _ends: Any, unseen: frozenset[str]) -> tuple[Wanted, int]:
        beginnings.append((wanted.pair.topic, snapshot))
        assert unseen == {f"a writer of {wanted.pair.table.name} before snapshot {snapshot}"}
        turn(wanted, "beginning")
        return wanted, snapshot

    async def finish(beginning: tuple[Wanted, int], _limits: Limits) -> Look:
        wanted, snapshot = beginning
        assert wanted.pair.source.open  # type: ignore[attr-defined]  # the one above
        turn(wanted, "finish")
        return Look(f"{wanted.pair.topic} in {snapshot}", ())

    monkeypatch.setattr(module, "_begin", begin)
    monkeypatch.setattr(module, "_finish", finish)
    return beginnings


def wanted(source: Source, topic: str, **errors: list[Exception | None]) -> Wanted:
    pair: Any = SimpleNamespace(
        source=source, passing=Passing(), topic=topic, table=SimpleNamespace(name=f"public.{topic}"), **errors
    )
    return Wanted(pair)


def told(found: list[Any]) -> list[str]:
    return [one.position if isinstance(one, Look) else str(one) for one in found]


async def test_all_of_them_are_in_one_snapshot(begun: list[tuple[str, int]]) -> None:
    source = Source()
    found = await looks([wanted(source, name) for name in "abc"], LIMITS)
    assert told(found) == ["a in 1", "b in 1", "c in 1"]
    assert begun == [("a", 1), ("b", 1), ("c", 1)]
    assert await looks([], LIMITS) == []


async def test_a_snapshot_takes_in_so_many_tables(
    begun: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARED_TABLES", 2)
    assert told(await looks([wanted(Source(), "z")], LIMITS)) == ["z in 1"]
    source = Source()
    assert told(await looks([wanted(source, name) for name in "abc"], LIMITS)) == ["a in 1", "b in 1", "c in 2"]
    monkeypatch.setattr(module, "SHARED_SECONDS", -1.0)
    source = Source()
    assert told(await looks([wanted(source, name) for name in "abc"], LIMITS)) == ["a in 1", "b in 2", "c in 3"]
    assert len(begun) == 7


async def test_what_keeps_one_table_from_being_told_is_its_own(begun: list[tuple[str, int]]) -> None:
    source = Source()
    some = [
        wanted(source, "a", beginning=[Unavailable("a is away")]),
        wanted(source, "b"),
        wanted(source, "c", finish=[Unclear("c is behind")]),
        wanted(source, "d"),
    ]
    assert told(await looks(some, LIMITS)) == ["a is away", "b in 1", "c is behind", "d in 1"]
    assert source.snapshots == 1
    assert len(begun) == 4


async def test_a_table_whose_columns_change_is_begun_anew(begun: list[tuple[str, int]]) -> None:
    source = Source()
    change = ColumnsChanged("its columns changed")
    some = [wanted(source, "a", finish=[change]), wanted(source, "b"), wanted(source, "c", beginning=[change] * 9)]
    assert told(await looks(some, LIMITS)) == ["a in 2", "b in 1", "its columns changed"]
    assert [at for name, at in begun if name == "c"] == list(range(1, BEGINNINGS + 1))


async def test_a_snapshot_that_cannot_be_had_costs_one_table(begun: list[tuple[str, int]]) -> None:
    source = Source(away=1)
    some = [wanted(source, name) for name in "ab"]
    assert told(await looks(some, LIMITS)) == ["the source is away", "b in 1"]
    with pytest.raises(Unavailable, match="away"):
        await look(wanted(Source(away=1), "a"), LIMITS)
    assert begun == [("b", 1)]
