"""The key index finds what it was told, survives restarts whole or not at all, and is never believed when damaged."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tables.index_database import FORMAT_KEY, INFO_LOG_BYTES, MANIFEST_BYTES
from tables.key_index import UNUSED_DAYS, FileKeys, IndexState, KeyIndex, PartitionIndex, PlacedRows, fingerprint


def keys(*ids: int) -> pa.Table:
    return pa.table({"id": pa.array(ids, pa.int64())})


def apply(
    part: PartitionIndex,
    placed: list[tuple[str, pa.Table]],
    removed: pa.Table | None,
    next_offset: int,
    files: int,
    replaced: dict[int, int] | None = None,
    dropped: Sequence[int] = (),
) -> None:
    rows = [PlacedRows(path, table) for path, table in placed]
    part.apply(rows, removed, replaced or {}, dropped, IndexState(next_offset, files))


@contextmanager
def opened(path: Path) -> Iterator[KeyIndex]:
    index = KeyIndex.shared(path)
    try:
        yield index
    finally:
        index.close()


def found(part: PartitionIndex, *ids: int) -> dict[int, tuple[str, int]]:
    """Per id that has a row: its file and position, asked one by one."""
    answers = {}
    for one in ids:
        positions = part.look_up(keys(one))
        if len(positions.rows):
            [file_id], [row] = positions.file_ids, positions.rows
            answers[one] = (part.files[int(file_id)].path, int(row))
    return answers


def test_commit_is_found_with_file_and_position(tmp_path: Path) -> None:
    with opened(tmp_path / "index") as index:
        part = index.partition("t", "orders", 0)
        assert part.state is None
        apply(part, [("a.parquet", keys(7, 5, 9))], None, 3, 42)
        apply(part, [("b.parquet", keys(5, 1))], keys(9), 6, 43)
        assert found(part, 1, 5, 7, 9, 11) == {1: ("b.parquet", 1), 5: ("b.parquet", 0), 7: ("a.parquet", 0)}
        assert part.state == IndexState(6, 43)


def test_batch_look_up_leaves_absent_keys_out(tmp_path: Path) -> None:
    with opened(tmp_path / "index") as index:
        part = index.partition("t", "orders", 0)
        apply(part, [("a.parquet", keys(*range(1000)))], None, 3, 42)
        positions = part.look_up(keys(*range(999, -1000, -1)))
        assert sorted(positions.rows.tolist()) == list(range(1000))
        assert len(part.look_up(keys()).rows) == 0


def test_dead_rows_are_counted_and_files_that_were_written_anew_are_forgotten(tmp_path: Path) -> None:
    with opened(tmp_path / "index") as index:
        part = index.partition("t", "orders", 0)
        apply(part, [("a.parquet", keys(1, 2, 3)), ("b.parquet", keys(4, 5))], None, 5, 42)
        a, b = part.files
        apply(part, [("c.parquet", keys(1, 4))], keys(2), 8, 43, replaced={a: 2, b: 1})
        apply(part, [("d.parquet", keys(3, 5))], None, 8, 44, dropped=[a, b])
    with opened(tmp_path / "index") as index:
        part = index.partition("t", "orders", 0)
        assert [(file.path, file.rows, file.dead) for file in part.files.values()] == [
            ("c.parquet", 2, 0), ("d.parquet", 2, 0)
        ]  # fmt: skip
        assert found(part, 1, 2, 3, 4, 5) == {
            1: ("c.parquet", 0), 3: ("d.parquet", 0), 4: ("c.parquet", 1), 5: ("d.parquet", 1)
        }  # fmt: skip


def test_partitions_topics_and_tables_are_kept_apart(tmp_path: Path) -> None:
    names = [("t", "orders", 0), ("t", "orders", 1), ("t", "lines", 0), ("u", "orders", 0)]
    with opened(tmp_path / "index") as index:
        for n, name in enumerate(names):
            apply(index.partition(*name), [(f"{n}.parquet", keys(1))], None, n, n)
        index.partition(*names[0]).clear()
        assert [found(index.partition(*name), 1) for name in names] == [
            {},
            *({1: (f"{n}.parquet", 0)} for n in (1, 2, 3)),
        ]


def test_restart_finds_entries_files_and_state(tmp_path: Path) -> None:
    with opened(tmp_path / "index") as index:
        apply(index.partition("t", "orders", 0), [("a.parquet", keys(1, 2))], None, 2, 7)
    with opened(tmp_path / "index") as index:
        part = index.partition("t", "orders", 0)
        assert part.state == IndexState(2, 7)
        apply(part, [("b.parquet", keys(3))], keys(1), 4, 8)
        assert found(part, 1, 2, 3) == {2: ("a.parquet", 1), 3: ("b.parquet", 0)}
        other = index.partition("t", "orders", 1)
        assert found(other, 2) == {}


def test_rebuild_takes_the_place_of_everything_before(tmp_path: Path) -> None:
    with opened(tmp_path / "index") as index:
        part = index.partition("t", "orders", 0)
        apply(part, [("a.parquet", keys(1, 2, 3))], None, 3, 7)
        live = [
            FileKeys("c.parquet", 10, keys(2, 9), np.array([5, 8], "u4")),
            FileKeys("d.parquet", 1, keys(4), np.array([0], "u4")),
            FileKeys("e.parquet", 3, keys(), np.array([], "u4")),
        ]
        assert part.rebuild(live, IndexState(9, 11)) == 3
        assert found(part, 1, 2, 3, 4, 9) == {2: ("c.parquet", 5), 4: ("d.parquet", 0), 9: ("c.parquet", 8)}
        assert part.state == IndexState(9, 11)
    with opened(tmp_path / "index") as index:
        part = index.partition("t", "orders", 0)
        assert part.state == IndexState(9, 11)
        assert [(file.path, file.rows, file.dead) for file in part.files.values()] == [
            ("c.parquet", 10, 8), ("d.parquet", 1, 0), ("e.parquet", 3, 3)
        ]  # fmt: skip


def test_rebuild_that_is_cut_short_is_not_believed(tmp_path: Path) -> None:
    def cut() -> Iterator[FileKeys]:
        yield FileKeys("c.parquet", 1, keys(2), np.array([0], "u4"))
        raise OSError("the store went away")

    with opened(tmp_path / "index") as index:
        part = index.partition("t", "orders", 0)
        apply(part, [("a.parquet", keys(1))], None, 3, 7)
        with pytest.raises(OSError, match="went away"):
            part.rebuild(cut(), IndexState(9, 11))
        assert part.state is None
        assert index.partition("t", "orders", 0).state is None


@pytest.mark.parametrize("failing", ["the store", "writing", "ingesting"])
def test_rebuild_that_is_cut_short_leaves_no_files(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failed(*_: object) -> None:
        raise OSError("no luck")

    def files() -> Iterator[FileKeys]:
        for n in range(3):
            yield FileKeys(f"{n}.parquet", 2, keys(2 * n, 2 * n + 1), np.array([0, 1], "u4"))
        if failing == "the store":
            failed()

    monkeypatch.setattr("tables.key_index.RUN_ROWS", 2)
    with opened(tmp_path / "index") as index:
        part = index.partition("t", "orders", 0)
        with monkeypatch.context() as patch:
            if failing == "writing":
                patch.setattr("tables.index_database.SstFileWriter", _FailingWriter)
            elif failing == "ingesting":
                patch.setattr(index._database, "ingest", failed)
            for _ in range(2):
                with pytest.raises(OSError, match="no luck"):
                    part.rebuild(files(), IndexState(9, 11))
        assert list((tmp_path / "index" / "runs").iterdir()) == []
        failing = "nothing"
        assert part.rebuild(files(), IndexState(9, 11)) == 6
        assert found(part, 5) == {5: ("2.parquet", 1)}
        assert list((tmp_path / "index" / "runs").iterdir()) == []


class _FailingWriter(dict[bytes, bytes]):
    """Fails with a file that is begun."""

    def __init__(self, _: object) -> None:
        super().__init__()

    def open(self, path: str) -> None:
        Path(path).write_bytes(b"begun")

    def finish(self) -> None:
        raise OSError("no luck")


def test_commit_that_could_not_be_kept_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    with opened(tmp_path / "index") as index:
        part = index.partition("t", "orders", 0)
        apply(part, [("a.parquet", keys(1))], None, 3, 7)
        with monkeypatch.context() as patch, pytest.raises(OSError, match="no space"):
            patch.setattr(index._database, "write", full)
            apply(part, [("b.parquet", keys(2))], None, 5, 8)
        assert part.state != IndexState(5, 8)


_KILLED = """
import os, signal, sys
from pathlib import Path
import pyarrow as pa
from tables.key_index import IndexState, KeyIndex, PlacedRows
part = KeyIndex.shared(Path(sys.argv[1])).partition("t", "orders", 0)
start = part.state.next_offset if part.state else 0
for n in range(start, start + int(sys.argv[2])):
    ids = pa.array(range(n * 1000, n * 1000 + 1000), pa.int64())
    part.apply([PlacedRows(f"{n}.parquet", pa.table({"id": ids}))], None, {}, (), IndexState(n + 1, n + 1))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_kill_leaves_a_state_that_matches_its_entries(tmp_path: Path) -> None:
    path = tmp_path / "index"
    for commits in (40, 700, 40):
        subprocess.run([sys.executable, "-c", _KILLED, str(path), str(commits)], check=False)
        with opened(path) as index:
            part = index.partition("t", "orders", 0)
            done = part.state.next_offset if part.state else 0
            some = [n for n in (0, 1, done // 2, done - 1) if 0 <= n < done]
            expected = {n * 1000 + n % 1000: (f"{n}.parquet", n % 1000) for n in some}
            assert found(part, *expected) == expected
            assert found(part, done * 1000, done * 1000 + 5000) == {}


@pytest.mark.parametrize("name", ["CURRENT", "MANIFEST", "sst"])
def test_damaged_database_is_made_anew_or_says_so(name: str, tmp_path: Path) -> None:
    path = tmp_path / "index"
    with opened(path) as index:
        apply(index.partition("t", "orders", 0), [("a.parquet", keys(*range(100_000)))], None, 3, 7)
    for file in path.iterdir():
        if name in file.name:
            file.write_bytes(b"\xff" * file.stat().st_size)
    with opened(path) as index:
        part = index.partition("t", "orders", 0)
        assert part.state is None
        apply(part, [("b.parquet", keys(1))], None, 1, 1)
        assert found(part, 1, 2) == {1: ("b.parquet", 0)}


def test_entries_of_another_format_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "index"
    with opened(path) as index:
        apply(index.partition("t", "orders", 0), [("a.parquet", keys(1))], None, 3, 7)
        assert index._database._db is not None
        index._database._db.put(FORMAT_KEY, b"1")
    for _ in range(2):
        with opened(path) as index:
            part = index.partition("t", "orders", 0)
            assert part.state is None
            assert not part.files


def test_what_nobody_used_for_a_month_is_forgotten_when_the_index_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "index"
    day = 20_000
    monkeypatch.setattr("tables.key_index._today", lambda: day)

    def entries() -> int:
        with opened(path) as index:
            return len(list(index._database._opened().items()))

    with opened(path) as index:
        for table in ("moved", "used", "anew"):
            apply(index.partition(table, "orders", 0), [(f"{table}.parquet", keys(*range(100)))], None, 3, 7)
    before = entries()
    day += UNUSED_DAYS
    with opened(path) as index:
        apply(index.partition("used", "orders", 0), [("more.parquet", keys(100))], None, 4, 8)
        assert found(index.partition("moved", "orders", 0), 1) == {1: ("moved.parquet", 1)}
    assert entries() == before + 2
    day += 1
    assert entries() == before + 2 - 2 * 102  # of each, its keys, a file, and the state
    with opened(path) as index:
        used, anew = index.partition("used", "orders", 0), index.partition("anew", "orders", 0)
        assert found(used, 99, 100) == {99: ("used.parquet", 99), 100: ("more.parquet", 0)}
        assert anew.state is None
        apply(anew, [("later.parquet", keys(5))], None, 9, 9)
        assert found(anew, 1, 5) == {5: ("later.parquet", 0)}


def test_the_limits_of_its_own_news_reach_rocksdb(tmp_path: Path) -> None:
    with opened(tmp_path / "index"):
        (written,) = (tmp_path / "index").glob("OPTIONS-*")
        options = {line.strip() for line in written.read_text().splitlines()}
        assert {f"max_log_file_size={INFO_LOG_BYTES}", "keep_log_file_num=2"} <= options
        assert f"max_manifest_file_size={MANIFEST_BYTES}" in options


def test_index_is_shared_within_a_process_until_its_last_user_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "index"
    first, second = KeyIndex.shared(path), KeyIndex.shared(path)
    assert first is second
    apply(first.partition("t", "orders", 0), [("a.parquet", keys(1))], None, 3, 7)
    first.close()
    assert found(second.partition("t", "orders", 0), 1) == {1: ("a.parquet", 0)}
    second.close()
    with opened(path) as again:
        assert again is not first


def test_tables_of_one_worker_write_at_once(tmp_path: Path) -> None:
    def run(index: KeyIndex, table: str) -> None:
        part = index.partition(table, "orders", 0)
        for n in range(20):
            apply(part, [(f"{table}-{n}", keys(*range(n * 50, n * 50 + 50)))], None, n, n)

    with opened(tmp_path / "index") as index:
        threads = [threading.Thread(target=run, args=(index, f"t{n}")) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for n in range(4):
            part = index.partition(f"t{n}", "orders", 0)
            assert found(part, 0, 999) == {0: (f"t{n}-0", 0), 999: (f"t{n}-19", 49)}
        assert index.disk_bytes() > 0


@given(st.lists(st.text(max_size=8), unique=True, max_size=20), st.randoms(use_true_random=False))
def test_fingerprint_forgets_order_and_notices_each_file(paths: list[str], random: object) -> None:
    shuffled = list(paths)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    whole = fingerprint(paths)
    assert fingerprint(shuffled) == whole
    assert fingerprint(paths[:3], fingerprint(paths[3:])) == whole
    assert fingerprint((), whole, paths[:3]) == fingerprint(paths[3:])
    assert all(fingerprint(set(paths) - {path}) != whole for path in paths)


THEN = st.sampled_from(["go on", "restart", "flush", "compact", "rebuild"])
STEPS = st.lists(
    st.tuples(st.dictionaries(st.integers(0, 30), st.booleans(), max_size=12), st.booleans(), THEN), max_size=12
)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS)
def test_random_commits_truncates_and_restarts_end_as_a_dictionary(
    steps: list[tuple[dict[int, bool], bool, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("index")
    model: dict[int, tuple[str, int]] = {}
    index = KeyIndex.shared(path)
    part = index.partition("t", "orders", 0)
    beside = index.partition("t", "orders", 1)  # its keys are the next ones behind those of `part`
    apply(beside, [("beside.parquet", keys(0, 30))], None, 1, 1)
    for n, (touched, emptied, then) in enumerate(steps):
        there = [key for key, keep in touched.items() if keep]
        gone = [key for key, keep in touched.items() if not keep]
        placed = [(f"{n}.parquet", keys(*there))] if there else []
        apply(part, placed, keys(*gone) if gone else None, n, n, dropped=list(part.files) if emptied else ())
        if emptied:
            model.clear()
        model |= {key: (f"{n}.parquet", row) for row, key in enumerate(there)}
        for key in gone:
            model.pop(key, None)
        assert found(part, *range(31)) == model
        if then == "restart":
            index.close()
            index = KeyIndex.shared(path)
            part, beside = index.partition("t", "orders", 0), index.partition("t", "orders", 1)
            assert part.state == IndexState(n, n)
        elif then == "flush":
            index.flush()
        elif then == "compact":
            compact(index)
        elif then == "rebuild":
            part.rebuild(
                [FileKeys(f, 31, keys(key), np.array([row], "u4")) for key, (f, row) in model.items()],
                IndexState(n, n),
            )
        assert found(part, *range(31)) == model
    assert found(beside, 0, 15, 30) == {0: ("beside.parquet", 0), 30: ("beside.parquet", 1)}
    index.close()


def compact(index: KeyIndex) -> None:
    """Make all files one, as RocksDB does in its own time."""
    index.flush()
    assert index._database._db is not None
    index._database._db.compact_range(None, None)


def entries(index: KeyIndex) -> int:
    """How many keys have one, whether it counts or not."""
    return len(index._database.scan(b"K", index._database.generation))


def test_keys_of_an_emptied_partition_take_no_room(tmp_path: Path) -> None:
    with opened(tmp_path / "index") as index:
        part, beside = index.partition("t", "orders", 0), index.partition("t", "orders", 1)
        apply(beside, [("beside.parquet", keys(1))], None, 1, 1)
        for load in range(5):
            ids = range(load * 990, load * 990 + 1000)  # some of them were in the load before, too
            apply(part, [(f"{load}.parquet", keys(*ids))], keys(load), load, load, dropped=list(part.files))
            index.flush()
            assert entries(index) == 1001
        assert found(part, 2970, 3959, 3960, 4959) == {3960: ("4.parquet", 0), 4959: ("4.parquet", 999)}
        compact(index)
        assert entries(index) == 1001
        apply(part, [], None, 6, 6, dropped=list(part.files))
        compact(index)
        assert entries(index) == 1
        assert found(beside, 1) == {1: ("beside.parquet", 0)}


def test_keys_of_files_that_stay_are_kept(tmp_path: Path) -> None:
    with opened(tmp_path / "index") as index:
        part = index.partition("t", "orders", 0)
        apply(part, [("a.parquet", keys(1, 2)), ("b.parquet", keys(3))], None, 3, 3)
        a, _ = part.files
        apply(part, [("c.parquet", keys(1))], None, 4, 4, dropped=[a])
        assert found(part, 1, 2, 3) == {1: ("c.parquet", 0), 3: ("b.parquet", 0)}
        apply(part, [], None, 5, 5)
        assert found(part, 1, 2, 3) == {1: ("c.parquet", 0), 3: ("b.parquet", 0)}
