"""Tidying of append tables: small files are merged, the log of changes stays what it is."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from contract_base import commit, inserts, opened, updates
from contract_events import ORDERS_WITH_NOTE, batch, changes, log_rows, order
from iceberg_harness import IcebergHarness
from iceberg_kills import tidied_under_kills
from iceberg_upkeep import (
    between_rewrite_and_commit,
    counts,
    delete_by_position,
    needed,
    on_disk,
    present,
)
from pyiceberg.table.snapshots import Operation

from sinks.iceberg.sink import IcebergSink
from sources.changes import ChangeBatch

pytestmark = pytest.mark.usefixtures("small_tiers")


def make(folder: Path, **settings: Any) -> IcebergHarness:
    return IcebergHarness("append", folder, table_properties={"lakeward.reader-grace-seconds": "0"}, **settings)


def replaced(harness: IcebergHarness) -> int:
    """Snapshots of tidying that the table still has."""
    found = [s.summary.operation for s in present(harness).snapshots() if s.summary]
    return found.count(Operation.REPLACE)


def test_files_stay_few_and_old_ones_go_over_many_commits(tmp_path: Path) -> None:
    harness = make(tmp_path)
    parts = [inserts(0, 40), *updates(120, keys=30, start=40)]
    most = 0
    with closing(opened(harness)) as sink:
        for part in parts:
            commit(sink, part)
            most = max(most, counts(present(harness))[0])
    assert most < 12
    assert replaced(harness)
    assert harness.rows() == log_rows(*parts)
    assert on_disk(tmp_path) == needed(present(harness))


def test_small_files_of_earlier_runs_are_merged(tmp_path: Path) -> None:
    harness = make(tmp_path)
    parts = updates(12)
    with closing(opened(harness)) as sink:
        for part in parts[:10]:
            sink.write(batch(part))  # nobody tidied
    with closing(opened(harness)) as sink:
        commit(sink, *parts[10:])
    assert counts(present(harness))[0] < 6
    assert harness.rows() == log_rows(*parts)


def test_merged_rows_are_in_the_order_of_kafka(tmp_path: Path) -> None:
    harness = make(tmp_path)
    ours, theirs = updates(20), updates(20, partition=1)
    with closing(opened(harness)) as sink:
        for a, b in zip(ours, theirs, strict=True):
            sink.write(batch(b, a))
            sink.tidy()
    table = present(harness)
    for task in table.scan().plan_files():
        with table.io.new_input(task.file.file_path).open() as stream:
            import pyarrow.parquet as pq

            found = pq.read_table(stream, columns=["_cdc_partition", "_cdc_offset"]).to_pylist()
        if task.file.record_count > 12:
            assert [tuple(row.values()) for row in found] == sorted(tuple(row.values()) for row in found)
    assert harness.rows() == log_rows(*ours, *theirs)


@pytest.mark.parametrize("partition_by", [["bucket(3, id)"], ["day(at)"], ["truncate(6, name)"]])
def test_partitioned_tables_are_tidied_within_their_partitions(partition_by: list[str], tmp_path: Path) -> None:
    harness = make(tmp_path, partition_by=partition_by)
    parts = updates(60)
    with closing(opened(harness)) as sink:
        commit(sink, *parts)
    assert harness.rows() == log_rows(*parts)
    assert replaced(harness)


def test_a_column_that_came_meanwhile(tmp_path: Path) -> None:
    harness = make(tmp_path)
    old = updates(21)
    start = old[-1].next
    new = [
        changes([order("u", n % 7, f"n{n}", note=f"note {n}")], start + n, schema=ORDERS_WITH_NOTE) for n in range(30)
    ]
    with closing(opened(harness)) as sink:
        commit(sink, *old, *new)
    assert harness.rows() == log_rows(*old, *new)


def test_two_workers_of_one_table(tmp_path: Path) -> None:
    """Each commits in the middle of the other's steps, and they trade their partitions half-way."""
    harness = make(tmp_path)
    ours, theirs = updates(60), updates(60, partition=1)
    with closing(opened(harness)) as one, closing(opened(harness)) as two:
        for n, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            first, second = (one, two) if n < 30 else (two, one)
            first.write(batch(a))

            def intrude(sink: Any = second, part: ChangeBatch = b) -> None:
                sink.write(batch(part))

            with between_rewrite_and_commit(first, intrude) as happened:
                first.tidy()
            if not happened:
                intrude()
            second.tidy()
    assert harness.rows() == log_rows(*ours, *theirs)
    assert counts(present(harness))[0] < 16


def test_rows_that_others_deleted_by_position_do_not_come_back(tmp_path: Path) -> None:
    """Before a step, and in its middle."""
    harness = make(tmp_path)
    parts = [inserts(0, 8), *updates(2, keys=6, start=8)]
    more = updates(30, keys=6, seed=5, start=parts[-1].next)
    gone = 0
    with closing(opened(harness)) as sink:
        commit(sink, *parts)
        gone += delete_by_position(harness, 70)
        commit(sink, *more[:10])
        late: list[object] = []
        for part in more[10:]:
            sink.write(batch(part))
            if late:
                sink.tidy()
                continue
            with between_rewrite_and_commit(sink, lambda: delete_by_position(harness, 60)) as late:
                sink.tidy()
    assert gone == 1
    assert late == [1]
    assert harness.rows() == [row for row in log_rows(*parts, *more) if row["id"] not in (60, 70)]


def test_killed_at_each_step(tmp_path: Path) -> None:
    parts = updates(16)
    steps = tidied_under_kills(tmp_path, make, [], parts[:9], parts[9:])
    assert len(steps) > 8  # data file, manifest, list, metadata, catalog


def test_deletes_that_only_other_engines_can_apply_leave_old_files_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equality deletes of Flink, say: what is there stays as it is, what comes later is tidied."""
    from pyiceberg.manifest import DataFile, DataFileContent

    harness = make(tmp_path)
    parts = updates(40)
    with closing(opened(harness)) as sink:
        for part in parts[:7]:
            sink.write(batch(part))
    before = {task.file.file_path for task in present(harness).scan().plan_files()}
    with closing(opened(harness)) as sink, monkeypatch.context() as patch:
        content = DataFile.content.fget  # type: ignore[attr-defined]  # a property
        equality = {min(before)}
        patch.setattr(
            DataFile,
            "content",
            property(lambda f: DataFileContent.EQUALITY_DELETES if f.file_path in equality else content(f)),
        )
        assert isinstance(sink, IcebergSink)
        for part in parts[7:]:
            sink.write(batch(part))
            sink.tidy()
    after = {task.file.file_path for task in present(harness).scan().plan_files()}
    assert before < after
    assert len(after) < len(before) + 10
    assert harness.rows() == log_rows(*parts)
