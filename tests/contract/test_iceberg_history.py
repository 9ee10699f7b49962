"""The history of Iceberg tables: it stays short, what it drops is removed in time, and nothing that is needed is."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from contract_base import commit, committed, expected, inserts, opened
from contract_events import batch, changes, order
from iceberg_harness import IcebergHarness, around_next_catalog_commit
from iceberg_upkeep import needed, on_disk, present
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation

from config.errors import Unavailable
from sinks.iceberg import history
from sinks.iceberg.state import lineage
from sources.changes import ChangeBatch

MODES = pytest.mark.parametrize("mode", ["append", "upsert"])


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "KEEP", 5)
    monkeypatch.setattr(history, "GROUP", 3)


def make(
    mode: Any, folder: Path, grace: float = 0, properties: Mapping[str, str] = MappingProxyType({})
) -> IcebergHarness:
    return IcebergHarness(mode, folder, table_properties={"lakeward.reader-grace-seconds": str(grace), **properties})


def parts(count: int, start: int = 0) -> list[ChangeBatch]:
    """One update or insert each of seven keys."""
    return [changes([order("u" if n >= 7 else "c", n % 7, f"v{n}")], n) for n in range(start, start + count)]


def left(table: Table) -> set[str]:
    """What may be on disk: what is needed, and what the lists that wait for their time tell."""
    head = table.metadata.properties.get("lakeward.retired.contract.lake")
    waiting = [path for retired in history.lists(table.io, head) for path in (retired.path, *retired.files)]
    return needed(table) | {path.removeprefix("file://") for path in waiting}


def lists(folder: Path) -> set[str]:
    return {path for path in on_disk(folder) if "lw-retired-" in path}


@MODES
def test_history_stays_short_and_only_what_it_needs_stays_on_disk(mode: Any, tmp_path: Path) -> None:
    harness = make(mode, tmp_path)
    with closing(opened(harness)) as sink:
        commit(sink, *parts(60))
    table = present(harness)
    assert 5 <= len(table.snapshots()) <= 5 + 3
    assert on_disk(tmp_path) == needed(table)
    assert harness.rows() == expected(harness, *parts(60))
    for snapshot in table.snapshots():
        assert table.scan(snapshot_id=snapshot.snapshot_id).to_arrow().num_rows > 0


def test_files_stay_for_readers_until_their_time_is_over_and_another_worker_removes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = make("upsert", tmp_path, grace=600)
    with closing(opened(harness)) as sink:
        commit(sink, *parts(4))
        old = present(harness)  # a reader that has begun
        commit(sink, *parts(20, 4))
    table = present(harness)
    assert old.metadata.current_snapshot_id not in {s.snapshot_id for s in table.snapshots()}
    assert old.scan().to_arrow().num_rows == 4
    assert len(lists(tmp_path)) > 2
    waiting = lists(tmp_path)
    assert on_disk(tmp_path) == left(table)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 601)
    with closing(opened(harness)) as other:  # the lists are found through the table, each through the next
        commit(other, *parts(4, 24))
    assert not waiting & on_disk(tmp_path)
    assert on_disk(tmp_path) == left(present(harness))
    assert harness.rows() == expected(harness, *parts(28))


def test_a_tag_holds_its_snapshot_and_all_of_its_files_until_it_is_gone(tmp_path: Path) -> None:
    harness = make("upsert", tmp_path)
    with closing(opened(harness)) as sink:
        commit(sink, *parts(10))
        tagged = present(harness)
        assert tagged.metadata.current_snapshot_id is not None
        tagged.manage_snapshots().create_tag(tagged.metadata.current_snapshot_id, "release").commit()
        before = tagged.scan().to_arrow().sort_by("id")
        commit(sink, *parts(40, 10))
        table = present(harness)
        release = table.metadata.refs["release"].snapshot_id
        assert table.scan(snapshot_id=release).to_arrow().sort_by("id").equals(before)
        assert len(table.snapshots()) <= 5 + 3 + 1
        assert lists(tmp_path)
        table.manage_snapshots().remove_tag("release").commit()
        commit(sink, *parts(12, 50))
    table = present(harness)
    assert release not in {s.snapshot_id for s in table.snapshots()}
    assert on_disk(tmp_path) == needed(table)
    assert harness.rows() == expected(harness, *parts(62))


def test_a_rolled_back_table_goes_on_and_forgets_the_undone_snapshots(tmp_path: Path) -> None:
    harness = make("upsert", tmp_path)
    with closing(opened(harness)) as sink:
        commit(sink, *parts(12))
    table = present(harness)
    back = list(lineage(table.metadata, table.metadata.current_snapshot_id))[3]
    undone = {s.snapshot_id for s in table.snapshots() if s.timestamp_ms > back.timestamp_ms}
    table.manage_snapshots().rollback_to_snapshot(back.snapshot_id).commit()
    with closing(opened(harness)) as sink:
        (offset,) = committed(harness).values()
        assert offset == 9  # what the rollback undid is read again
        commit(sink, *parts(40, offset))
    table = present(harness)
    assert not undone & {s.snapshot_id for s in table.snapshots()}
    assert needed(table) <= on_disk(tmp_path)
    assert lists(tmp_path) == set()
    assert harness.rows() == expected(harness, *parts(49))


@MODES
def test_a_removal_that_is_cut_short_anywhere_is_taken_up(mode: Any, tmp_path: Path, request: Any) -> None:
    for cut in range(0, 12, 2):
        folder = tmp_path / str(cut)
        folder.mkdir()
        harness = make(mode, folder)
        with closing(opened(harness)) as sink:
            commit(sink, *parts(4))
            with cut_short(cut) as happened:
                for part in parts(20, 4):
                    sink.write(batch(part))
                    try:
                        sink.tidy()
                    except Unavailable:
                        assert happened
                        break
        with closing(opened(harness)) as sink:
            offset = next(iter(committed(harness).values()))
            commit(sink, *parts(30 - offset, offset))
        assert on_disk(folder) == needed(present(harness))
        assert harness.rows() == expected(harness, *parts(30))


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time for more than three files a commit."""
    monkeypatch.setattr(history, "CLEAN_SECONDS", 0)
    monkeypatch.setattr(history, "FILES_AT_LEAST", 3)


@pytest.mark.usefixtures("hurry")
def test_no_commit_waits_long_for_removals_and_all_come_to_an_end(tmp_path: Path) -> None:
    harness = make("upsert", tmp_path)
    sizes = []
    with closing(opened(harness)) as sink:
        for part in parts(40):
            sink.write(batch(part))
            before = on_disk(tmp_path)
            sink.tidy()
            gone = before - on_disk(tmp_path)
            sizes.append(sum(not path.endswith(".metadata.json") for path in gone))
        assert max(sizes) <= 3 + 1  # and a list that was worked off
        for _ in range(100):
            sink.tidy()
    assert on_disk(tmp_path) == needed(present(harness))
    assert harness.rows() == expected(harness, *parts(40))


@pytest.mark.usefixtures("hurry")
def test_removals_that_were_begun_are_ended_by_whoever_comes_next(tmp_path: Path) -> None:
    harness = make("upsert", tmp_path)
    for start in range(0, 40, 4):
        with closing(opened(harness)) as sink:
            commit(sink, *parts(4, start))
    with closing(opened(harness)) as first, closing(opened(harness)) as second:
        commit(first, *parts(1, 40))
        commit(second, *parts(1, 41))
        for _ in range(100):
            first.tidy()
            second.tidy()
        commit(first, *parts(1, 42))
    assert lists(tmp_path) == set()
    assert needed(present(harness)) <= on_disk(tmp_path)
    assert harness.rows() == expected(harness, *parts(43))


def test_each_list_is_read_once_while_it_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour of commits has hundreds of them."""
    opens: list[str] = []
    open_ = PyArrowFileIO.new_input

    def counted(io: PyArrowFileIO, location: str) -> Any:
        opens.append(location)
        return open_(io, location)

    monkeypatch.setattr(PyArrowFileIO, "new_input", counted)
    harness = make("append", tmp_path, grace=600)
    with closing(opened(harness)) as sink:
        commit(sink, *parts(60))
    waiting = lists(tmp_path)
    assert len(waiting) > 10
    reads = Counter(path for path in opens if "lw-retired-" in path)
    assert sum(reads.values()) <= 3 * len(waiting)


class cut_short:  # noqa: N801 - used like a function
    """Deletions fail after the first `count`, as those of a killed worker."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.happened: list[str] = []

    def __enter__(self) -> list[str]:
        self._delete: Callable[..., None] = PyArrowFileIO.delete

        def delete(io: PyArrowFileIO, location: Any) -> None:
            if "lw-retired" not in str(location) and self.count <= 0:
                self.happened.append(str(location))
                raise OSError("the worker is gone")
            self.count -= 1
            self._delete(io, location)

        PyArrowFileIO.delete = delete  # type: ignore[method-assign, assignment]  # put back below
        return self.happened

    def __exit__(self, *_: Any) -> None:
        PyArrowFileIO.delete = self._delete  # type: ignore[method-assign]  # as above


def test_the_list_of_a_commit_that_came_second_is_removed(tmp_path: Path) -> None:
    harness = make("append", tmp_path, grace=600)
    lost: list[int] = []

    with closing(opened(harness)) as sink, closing(opened(harness)) as other:

        def lose() -> None:
            if len(lists(tmp_path)) == 1 and not lost:
                lost.append(1)
                other.write(batch(inserts(0, 1, partition=1)))

        for part in parts(12):
            with around_next_catalog_commit(before=lose):
                sink.write(batch(part))
    assert lost
    table = present(harness)
    assert on_disk(tmp_path) == left(table)


@MODES
def test_commit_that_landed_and_left_the_history_before_it_was_refused(mode: Any, tmp_path: Path) -> None:
    """Its manifests are those of later snapshots, too."""
    harness = make(mode, tmp_path, grace=600)
    theirs = [inserts(n, 1, partition=1) for n in range(12)]
    with closing(opened(harness)) as sink, closing(opened(harness)) as other:
        commit(sink, inserts(0, 2))
        ours: list[int | None] = []

        def overtaken() -> None:
            ours.append(present(harness).metadata.current_snapshot_id)
            commit(other, *theirs)
            raise CommitFailedException("Requirement failed: branch main has changed")

        with around_next_catalog_commit(after=overtaken):
            receipt = sink.write(batch(inserts(2, 2)))
        assert set(receipt.next_offsets.values()) == {4}
        table = present(harness)
        assert not {*ours} & {snapshot.snapshot_id for snapshot in table.snapshots()}
        commit(sink, inserts(4, 2))
    assert needed(present(harness)) <= on_disk(tmp_path)
    assert harness.rows() == expected(harness, inserts(0, 6), *theirs)


def test_a_table_whose_files_belong_to_somebody_else_loses_none(tmp_path: Path) -> None:
    harness = make("upsert", tmp_path, properties={"gc.enabled": "false"})
    with closing(opened(harness)) as sink:
        commit(sink, *parts(6))
        early = {path for path in on_disk(tmp_path) if not path.endswith(".metadata.json")}
        commit(sink, *parts(30, 6))
    assert early - lists(tmp_path) <= on_disk(tmp_path)
    assert len(present(harness).snapshots()) <= 8


def test_users_may_keep_more(tmp_path: Path) -> None:
    harness = make("append", tmp_path, properties={"history.expire.min-snapshots-to-keep": "20"})
    with closing(opened(harness)) as sink:
        commit(sink, *parts(40))
    assert 20 <= len(present(harness).snapshots()) <= 23
    (tmp_path / "day").mkdir()
    harness = IcebergHarness("append", tmp_path / "day", maintenance={"enabled": True})  # a day, by default
    with closing(opened(harness)) as sink:
        commit(sink, *parts(20))
    snapshots = present(harness).snapshots()
    appended = [s for s in snapshots if s.summary and s.summary.operation == Operation.APPEND]
    assert len(appended) == 20  # beside those of tidying


def test_two_workers_keep_one_history(tmp_path: Path) -> None:
    harness = make("upsert", tmp_path)
    ours = [inserts(n, 1) for n in range(25)]
    theirs = [inserts(n, 1, partition=1) for n in range(25)]
    with closing(opened(harness)) as one, closing(opened(harness)) as two:
        for a, b in zip(ours, theirs, strict=True):
            commit(one, a)
            commit(two, b)
    table = present(harness)
    assert len(table.snapshots()) <= 8
    assert on_disk(tmp_path) == needed(table)
    assert harness.rows() == expected(harness, *ours, *theirs)
