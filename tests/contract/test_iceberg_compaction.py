"""Maintenance of an Iceberg table that the user asked for: larger files, and a history by age and interval."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from contract_base import commit, expected, inserts, opened, updates
from contract_events import batch, changes, order
from iceberg_harness import IcebergHarness
from iceberg_kills import tidied_under_kills
from iceberg_upkeep import needed, on_disk, present

from sinks.iceberg import compaction, history
from sinks.iceberg.status import iceberg_status
from sinks.owners import owner_of

MODES = pytest.mark.parametrize("mode", ["append", "upsert"])
INTERVAL = 7_200.0


def make(mode: Any, folder: Path, **more: Any) -> IcebergHarness:
    maintenance = {
        "enabled": True,
        "expire_snapshots_older_than_seconds": 0,
        "compaction_file_threshold": 3,
        "compaction_max_rows_per_batch": 100,
        **more,
    }
    grace = {"lakeward.reader-grace-seconds": "0"}
    return IcebergHarness(mode, folder, maintenance=maintenance, table_properties=grace)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that maintenance believes to have passed: a worker that begins looks at once, and then rests."""
    now = [0.0]
    monkeypatch.setattr(compaction, "monotonic", lambda: now[0])
    monkeypatch.setattr(history, "monotonic", lambda: now[0])
    return now


def data_files(harness: IcebergHarness, partition: int = 0) -> list[int]:
    """The rows of each data file that the Kafka partition owns."""
    tasks = present(harness).scan().plan_files()
    owners = [(owner_of(task.file.file_path), task.file.record_count) for task in tasks]
    return sorted(rows for owner, rows in owners if owner is not None and owner[1] == partition)


@MODES
def test_small_files_are_brought_together_at_each_interval(mode: Any, tmp_path: Path, clock: list[float]) -> None:
    harness = make(mode, tmp_path)
    parts = [inserts(10 * n, 10) for n in range(12)]
    with closing(opened(harness)) as sink:
        commit(sink, *parts[:2])
        clock[0] += INTERVAL
        commit(sink, parts[2])
        assert data_files(harness) == [30]
        commit(sink, *parts[3:7])
        assert data_files(harness) == [10, 10, 10, 10, 30]
        clock[0] += INTERVAL
        commit(sink, parts[7])
        assert data_files(harness) == [80]
        commit(sink, *parts[8:])
        clock[0] += INTERVAL
        commit(sink, *updates(1, start=120))
        assert len(data_files(harness)) == 2  # one is large now
    assert harness.rows() == expected(harness, *parts, *updates(1, start=120))
    assert on_disk(tmp_path) >= needed(present(harness))


@MODES
def test_no_file_gets_more_rows_than_one_rewrite_may_hold(mode: Any, tmp_path: Path, clock: list[float]) -> None:
    harness = make(mode, tmp_path, compaction_file_threshold=10)
    parts = [inserts(30 * n, 30) for n in range(10)]
    with closing(opened(harness)) as sink:
        commit(sink, *parts[:9])
        clock[0] += INTERVAL
        commit(sink, parts[9])
        found = data_files(harness)
        clock[0] += INTERVAL
        sink.tidy()
    assert found == [30, 90, 90, 90]
    assert data_files(harness) == found
    assert harness.rows() == expected(harness, *parts)


def test_kafka_partitions_are_compacted_apart(tmp_path: Path, clock: list[float]) -> None:
    harness = make("upsert", tmp_path)
    ours, theirs = [inserts(n, 1) for n in range(4)], [inserts(n, 1, partition=1) for n in range(2)]
    with closing(opened(harness)) as sink:
        commit(sink, *theirs, *ours[:3])
        clock[0] += INTERVAL
        commit(sink, ours[3])
    assert (data_files(harness), data_files(harness, 1)) == ([4], [1, 1])
    assert harness.rows() == expected(harness, *ours, *theirs)


def test_rows_that_change_after_a_compaction_are_found(tmp_path: Path, clock: list[float]) -> None:
    harness = make("upsert", tmp_path)
    created = [changes([order("c", n) for n in range(10 * at, 10 * at + 10)], 10 * at) for at in range(3)]
    changed = changes([order("u", 4, "new"), order("d", 25)], 30)
    with closing(opened(harness)) as sink:
        commit(sink, *created[:2])
        clock[0] += INTERVAL
        commit(sink, created[2])
        assert data_files(harness) == [30]
        commit(sink, changed)
    assert harness.rows() == expected(harness, *created, changed)


@MODES
def test_killed_at_each_change_of_a_compaction(mode: Any, tmp_path: Path) -> None:
    before, after = [inserts(10 * n, 10) for n in range(5)], [inserts(50, 10)]

    steps = tidied_under_kills(tmp_path, lambda folder: make(mode, folder), [], before, after, small=False)
    assert len(steps) > 8  # data file, manifests, list, metadata, catalog


def test_old_snapshots_are_dropped_at_each_interval(
    tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "KEEP", 5)
    harness = make("upsert", tmp_path, expire_snapshots_interval_seconds=600, compaction_file_threshold=1000)
    parts = [inserts(n, 1) for n in range(12)]
    with closing(opened(harness)) as sink:
        commit(sink, *parts[:6])
        assert len(present(harness).snapshots()) == 6
        commit(sink, parts[6])  # a worker that begins drops what there is at once
        assert len(present(harness).snapshots()) == 6
        commit(sink, *parts[7:11])
        assert len(present(harness).snapshots()) == 10
        clock[0] += 600
        commit(sink, parts[11])
        assert len(present(harness).snapshots()) == 6
    assert harness.rows() == expected(harness, *parts)


def test_status_names_the_compaction_that_is_due(tmp_path: Path) -> None:
    harness = make("append", tmp_path)
    with closing(opened(harness)) as sink:
        for n in range(4):
            sink.write(batch(inserts(n, 1)))
        status = iceberg_status(harness.config, sink.target)
    assert status is not None
    assert "compact 4 data files" in [upkeep.what for upkeep in status.upkeep]
