"""Which lists of retired files are due: those that no snapshot of the table needs, however long its history is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.lake_sinks import IcebergMaintenanceConfig
from sinks.base import Target
from sinks.iceberg.history import History, Retired


@dataclass
class Snapshot:
    """One of a table's, which counts how often it is asked for its parent."""

    snapshot_id: int
    parent: int | None
    asked: int = 0

    @property
    def parent_snapshot_id(self) -> int | None:
        self.asked += 1
        return self.parent


@dataclass
class Metadata:
    snapshots: list[Snapshot] = field(default_factory=list)


def unneeded(metadata: Metadata, *pending: Retired) -> list[str]:
    history = History(Target("shop", "lake", ("orders",), "lake.orders"), IcebergMaintenanceConfig())
    history._pending = list(pending)
    found: Any = metadata
    return [retired.path for retired in history._unneeded(found)]


def retired(path: str, *kept: int, continues: bool = True) -> Retired:
    return Retired(path, 0.0, frozenset(kept), continues, ())


def line(*ids: int) -> list[Snapshot]:
    """Snapshots one after the other; the first one's parent has been dropped."""
    return [Snapshot(id, parent) for parent, id in zip((ids[0] - 1, *ids), ids, strict=False)]


@pytest.mark.parametrize(
    ("snapshots", "due"),
    [
        pytest.param(line(5, 6, 7, 8), ["old", "new"], id="what the newest list kept"),
        pytest.param(line(7, 8, 9), ["old", "new"], id="some of what it kept, and what came since"),
        pytest.param([*line(5, 6, 7), Snapshot(20, 6)], ["old", "new"], id="a branch of what was kept"),
        pytest.param([Snapshot(9, 7), Snapshot(7, None)], ["old", "new"], id="in any order"),
        pytest.param([Snapshot(3, 2), *line(5, 6, 7)], ["old"], id="a tag that the older list kept"),
        pytest.param([Snapshot(1, 0), *line(5, 6, 7)], [], id="a tag from before"),
        pytest.param([*line(5, 6, 7), Snapshot(20, 2)], [], id="a branch whose parent was dropped"),
        pytest.param([], ["old", "new"], id="a table without snapshots"),
    ],
)
def test_lists_are_due_once_all_snapshots_descend_from_those_that_were_kept(
    snapshots: list[Snapshot], due: list[str]
) -> None:
    metadata = Metadata(snapshots)
    assert unneeded(metadata, retired("old", 3, 4, 5, 6), retired("new", 5, 6, 7, 8)) == due


def test_a_list_that_does_not_continue_the_one_before_says_nothing_of_it() -> None:
    metadata = Metadata(line(8, 9))
    lists = retired("old", 3, 4), retired("new", 7, 8, continues=False)
    assert unneeded(metadata, *lists) == ["new"]


IDS = st.integers(1, 12)


@st.composite
def histories(draw: st.DrawFn) -> Metadata:
    """Trees of snapshots, some of whose parents aren't there any more, in any order."""
    ids = draw(st.lists(IDS, unique=True))
    parents = [draw(st.none() | st.sampled_from([*ids[:n], 90 + n])) for n in range(len(ids))]
    return Metadata(draw(st.permutations([Snapshot(*pair) for pair in zip(ids, parents, strict=True)])))


LISTS = st.lists(st.tuples(st.sets(IDS), st.booleans()), max_size=4)


@given(histories(), LISTS)
def test_random_histories(metadata: Metadata, lists: list[tuple[set[int], bool]]) -> None:
    pending = [retired(str(n), *kept, continues=continues) for n, (kept, continues) in enumerate(lists)]
    parents = {snapshot.snapshot_id: snapshot.parent for snapshot in metadata.snapshots}

    def descends(id: int | None, kept: frozenset[int]) -> bool:
        return id in parents and (id in kept or descends(parents[id], kept))

    due: list[str] = []
    newer: Retired | None = None
    for older in reversed(pending):
        follows = newer is not None and newer.path in due and newer.continues
        if follows or all(descends(id, older.kept) for id in parents):
            due.insert(0, older.path)
        newer = older
    assert unneeded(metadata, *pending) == due


def test_a_long_history_is_looked_at_once_for_all_lists() -> None:
    """With `maintenance` on it has a day's commits, and each commit looks."""
    ids = range(1, 501)
    metadata = Metadata([*line(*ids), Snapshot(1000, 999)])  # a tag that holds all lists
    assert unneeded(metadata, *(retired(str(n), *ids) for n in range(20))) == []
    assert max(snapshot.asked for snapshot in metadata.snapshots) <= 1
