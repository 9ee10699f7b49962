"""The key index of an Iceberg table is believed only while it is true: otherwise it is rebuilt, and nothing doubles."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from contract_base import committed, damage, expected, inserts, opened
from contract_events import TOPIC, batch, changes, empty_batch, folded, order
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from iceberg_harness import IcebergHarness
from iceberg_upkeep import delete_by_position, present
from structlog.testing import capture_logs

from sinks.iceberg import upsert
from sources.changes import ChangeBatch, TopicPartition


def updates(first: int, *keys: int, name: str = "new", partition: int = 0) -> ChangeBatch:
    return changes([order("u", key, name) for key in keys], first, partition=partition)


@contextmanager
def told() -> Iterator[list[tuple[int, int, int]]]:
    """Of each rebuild inside: files read, files that stayed, rows read."""
    found: list[tuple[int, int, int]] = []
    with capture_logs() as logs:
        yield found
    found += [(e["files"], e["kept"], e["rows"]) for e in logs if e["event"] == "index.rebuilt"]


def put_back(tmp_path: Path, saved: str) -> None:
    shutil.rmtree(tmp_path / "index-0")
    shutil.copytree(tmp_path / saved, tmp_path / "index-0")


def test_only_files_that_changed_since_are_read(tmp_path: Path) -> None:
    harness = IcebergHarness("upsert", tmp_path)
    parts = [inserts(3 * n, 3) for n in range(10)]
    late = changes([order("u", 90, "new"), order("d", 100), order("c", 7)], 30)
    last = updates(33, 0, 90, 110, 7, name="last")
    with closing(opened(harness)) as sink:
        for part in parts:
            sink.write(batch(part))
    shutil.copytree(tmp_path / "index-0", tmp_path / "old")
    with closing(opened(harness)) as sink:
        sink.write(batch(late))
    put_back(tmp_path, "old")
    with told() as found, closing(opened(harness)) as sink:
        sink.write(batch(last))
    assert found == [(2, 9, 1 + 2)]  # the file of 90, 100 and 110, and the one that came
    assert harness.rows() == folded(*parts, late, last)
    with told() as found, closing(opened(harness)) as sink:
        sink.write(batch(updates(37, 110, 7, 0, name="once more")))
    assert found == []
    assert harness.rows() == folded(*parts, late, last, updates(37, 110, 7, 0, name="once more"))


def test_all_files_are_read_after_a_rollback_behind_the_index(tmp_path: Path) -> None:
    harness = IcebergHarness("upsert", tmp_path)
    parts = [inserts(3 * n, 3) for n in range(6)]
    with closing(opened(harness)) as sink:
        for part in parts:
            sink.write(batch(part))
        back = present(harness).metadata.snapshots[-2].snapshot_id
        sink.write(batch(updates(18, 0, 10)))
    present(harness).manage_snapshots().rollback_to_snapshot(back).commit()
    again = changes([order("u", 150, "again")], 15)
    with told() as found, closing(opened(harness)) as sink:
        sink.write(batch(again))
    assert found == [(5, 0, 15)]
    assert harness.rows() == folded(*parts[:5], again)


def test_killed_worker_reads_what_came_since_the_last_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upsert, "FLUSH_EVERY", 4)
    harness = IcebergHarness("upsert", tmp_path)
    parts = [inserts(3 * n, 3) for n in range(10)]
    with closing(opened(harness)) as sink:
        for part in parts:
            sink.write(batch(part))
        shutil.copytree(tmp_path / "index-0", tmp_path / "as-killed")
    put_back(tmp_path, "as-killed")
    with told() as found, closing(opened(harness)) as sink:
        sink.write(batch(updates(30, 0, 290, name="new")))
    assert found == [(2, 8, 6)]
    assert harness.rows() == folded(*parts, updates(30, 0, 290, name="new"))


def test_rows_that_others_deleted_are_forgotten_with_their_file_only(tmp_path: Path) -> None:
    harness = IcebergHarness("upsert", tmp_path)
    parts = [inserts(3 * n, 3) for n in range(5)]
    with closing(opened(harness)) as sink:
        for part in parts:
            sink.write(batch(part))
        assert delete_by_position(harness, 40) == 1
        with told() as found:
            sink.write(batch(updates(15, 40, 50, name="new")))
    assert found == [(1, 4, 2)]
    assert harness.rows() == folded(*parts, updates(15, 40, 50, name="new"))


def test_rows_that_another_engine_rewrote_are_still_found(tmp_path: Path) -> None:
    """An overwrite stands for a compaction: other files, without position deletes, with names of their own."""
    harness = IcebergHarness("upsert", tmp_path)
    parts = [inserts(0, 4), updates(4, 0), inserts(0, 3, partition=1)]
    with closing(opened(harness)) as sink:
        sink.write(batch(parts[0]))
        sink.write(batch(parts[1], parts[2]))
        table = present(harness)
        rows = table.scan().to_arrow()
        table.overwrite(rows)
        assert harness.rows() == folded(*parts)
        later = [updates(5, 0, 10), changes([order("d", 1), order("u", 11, "n")], 3, partition=1)]
        sink.write(batch(*later))
        assert harness.rows() == folded(*parts, *later)
        last = [updates(7, 0, 30)]
        sink.write(batch(*last))
    assert harness.rows() == folded(*parts, *later, *last)


def test_row_that_another_engine_deleted_can_come_back(tmp_path: Path) -> None:
    harness = IcebergHarness("upsert", tmp_path)
    with closing(opened(harness)) as sink:
        sink.write(batch(inserts(0, 3)))
        present(harness).delete("id = 10")
        sink.write(batch(updates(3, 10, 20)))
    assert harness.rows() == folded(inserts(0, 3), updates(3, 10, 20))


def test_rolled_back_table_is_written_again_from_there(tmp_path: Path) -> None:
    harness = IcebergHarness("upsert", tmp_path)
    parts = inserts(0, 3), updates(3, 0, 10), updates(5, 0, 20)
    with closing(opened(harness)) as sink:
        first = sink.write(batch(parts[0])).version
        sink.write(batch(parts[1]))
    assert first is not None
    with present(harness).manage_snapshots() as snapshots:
        snapshots.rollback_to_snapshot(first)
    assert committed(harness) == {TopicPartition(TOPIC, 0): 3}
    with closing(opened(harness)) as sink:
        sink.write(batch(*parts[1:]))
    assert harness.rows() == folded(*parts)


Step = tuple[str, int, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["write", "write", "write", "write", "back", "restart", "lose", "damage", "rewrite", "empty"]),
        st.integers(0, 1),
        st.integers(1, 6),
    ),
    min_size=4,
    max_size=12,
)
LOG = st.lists(st.tuples(st.sampled_from("cuud"), st.integers(0, 5), st.sampled_from("xyz")), min_size=60, max_size=60)


@pytest.mark.parametrize("partition_by", [(), ("name",), ("bucket(3, id)", "name")], ids=str)
def test_any_history_of_writers_restarts_and_losses_ends_as_the_fold(partition_by: tuple[str, ...]) -> None:
    """Two writers take any partition at any time, restart, lose or damage their index; another engine rewrites the
    table in between. With `partition_by`, rows move between table partitions as their name changes."""

    @settings(
        max_examples=5,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        phases=[Phase.explicit, Phase.generate],
    )
    @given(STEPS, st.tuples(LOG, LOG))
    def run(steps: list[Step], logs: tuple[list[tuple[str, int, str]], ...]) -> None:
        with TemporaryDirectory() as folder:
            _play(IcebergHarness("upsert", Path(folder), partition_by=partition_by), steps, logs)

    run()


def _play(harness: IcebergHarness, steps: list[Step], logs: tuple[list[tuple[str, int, str]], ...]) -> None:
    rows = [[order(op, 2 * key + p, name) for op, key, name in log] for p, log in enumerate(logs)]
    done = [0, 0]
    sinks = [opened(harness), opened(harness)]
    for number, (what, which, size) in enumerate([*steps, ("write", 0, 2), ("write", 1, 2)]):
        tp = (which + number) % 2
        if what in ("restart", "lose", "damage"):
            sinks[which].close()
            if what != "restart":
                folder = harness.free[-1]
                (shutil.rmtree if what == "lose" else damage)(folder)
            sinks[which] = opened(harness)
        elif what == "rewrite":
            table = harness.table()
            if table is not None and table.current_snapshot() is not None:
                table.overwrite(table.scan().to_arrow())
        elif what == "empty":
            sinks[which].write(empty_batch(done[tp], done[tp] + size, partition=tp))
            rows[tp][done[tp] : done[tp]] = [("skip", {})] * size
            done[tp] += size
        else:
            first = max(0, done[tp] - (size if what == "back" else 0))
            while first and rows[tp][first][0] == "skip":
                first += 1
            sinks[which].write(batch(_part(rows, tp, first, max(first + size, done[tp]))))
            done[tp] = max(first + size, done[tp])
    for sink in sinks:
        sink.close()
    assert harness.rows() == expected(harness, *(_part(rows, tp, 0, done[tp]) for tp in (0, 1)))


def _part(rows: list[list[tuple[str, Any]]], tp: int, first: int, end: int) -> ChangeBatch:
    there = [n for n in range(first, end) if rows[tp][n][0] != "skip"]
    return changes([rows[tp][n] for n in there], first, partition=tp, offsets=there, end=end)
