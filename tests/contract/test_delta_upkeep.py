"""The upkeep of Delta tables: small files are compacted as part of writing, vacuum is the user's to switch on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, Literal

import pyarrow as pa
import pytest
import structlog
from contract_base import TP0, TP1, committed, inserts, opened, updates, write
from contract_events import ORDERS, batch, changes, folded, log_rows, order
from delta_harness import DeltaHarness
from deltalake import CommitProperties, DeltaTable, Transaction

from config.errors import Unavailable
from sinks.base import Sink
from sinks.delta import upkeep
from sinks.delta.sink import DeltaSink
from sinks.delta.status import delta_status
from sources.changes import ChangeBatch, TableSchema

HOUR = 3600


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Limits of a table of a few rows."""
    monkeypatch.setattr(upkeep, "FAN_IN", 4)
    monkeypatch.setattr(upkeep, "LOOK_EVERY", 2)
    monkeypatch.setattr(upkeep, "SIZES", (20 << 10, 100 << 10, 400 << 10))
    yield


def files(harness: DeltaHarness) -> int:
    return len(DeltaTable(harness.path).file_uris())


def operations(harness: DeltaHarness) -> list[str]:
    return [entry["operation"] for entry in DeltaTable(harness.path).history()]


def maintained(mode: Literal["append", "upsert"], folder: Path, **more: Any) -> DeltaHarness:
    return DeltaHarness(mode, folder, maintenance={"enabled": True, "vacuum_older_than_seconds": HOUR, **more})


def tidy(sink: Sink) -> None:
    """With what goes on beside the writer."""
    assert isinstance(sink, DeltaSink)
    sink.tidy()
    sink._upkeep.close()
    assert not sink._upkeep.is_busy


def commit(sink: Sink, *parts: ChangeBatch) -> None:
    for part in parts:
        sink.write(batch(part))
        tidy(sink)


def test_files_of_an_append_table_stay_few(tmp_path: Path) -> None:
    harness = DeltaHarness("append", tmp_path)
    parts = updates(80, keys=30)
    most = 0
    with closing(opened(harness)) as sink:
        for part in parts:
            commit(sink, part)
            most = max(most, files(harness))
    assert most < 16
    assert harness.rows() == log_rows(*parts)
    assert committed(harness) == {TP0: parts[-1].next}
    feed = pa.table(DeltaTable(harness.path).load_cdf(starting_version=1)).to_pylist()
    assert {row["_change_type"] for row in feed} == {"insert"}
    assert len(feed) == len(log_rows(*parts))


def test_partitions_are_compacted_each_for_itself(tmp_path: Path) -> None:
    harness = DeltaHarness("append", tmp_path, partition_by=("name",))
    names = ["it's %/=?", None, "plain"]
    parts = [changes([order("c", 3 * n + k, name) for k, name in enumerate(names)], 3 * n) for n in range(24)]
    with closing(opened(harness)) as sink:
        commit(sink, *parts)
    assert harness.rows() == log_rows(*parts)
    assert files(harness) < 30


def test_partitioned_upsert_table_is_compacted(tmp_path: Path) -> None:
    harness = DeltaHarness("upsert", tmp_path, partition_by=("name",))
    parts = [changes([order("u", n % 40, f"name {n % 2}")], n) for n in range(60)]
    with closing(opened(harness)) as sink:
        commit(sink, *parts)
    assert harness.rows() == folded(*parts)
    assert files(harness) < 16


def test_a_commit_that_takes_files_away_meanwhile_wins(tmp_path: Path) -> None:
    """A MERGE of another worker rewrites what was about to be compacted: the compaction is dropped."""
    harness = DeltaHarness("upsert", tmp_path, partition_by=("name",))
    parts = [changes([order("u", n, "here")], n) for n in range(12)]
    theirs = changes([order("u", 1000 + n, "here") for n in range(5)], 0, partition=1)
    with closing(opened(harness)) as sink:
        for part in parts:
            sink.write(batch(part))

        def intrude() -> None:
            DeltaTable(harness.path).delete("id < 3")
            with closing(harness.new_sink()) as other:
                other.open()
                other.write(batch(theirs))

        sink.tidy()  # the first look comes with the second call
        seen: list[str] = []
        original = DeltaSink._commit

        def late(self: DeltaSink, action: Any) -> bool:
            if self is sink and not seen:
                seen.append("late")

                def raced() -> None:
                    state = action.args[0]
                    intrude()
                    assert state.version < DeltaTable(harness.path).version()
                    action()

                return original(self, raced)
            return original(self, action)

        DeltaSink._commit = late  # type: ignore[method-assign]  # put back below
        try:
            sink.tidy()
        finally:
            DeltaSink._commit = original  # type: ignore[method-assign]  # as above
    assert seen
    want = [row for row in folded(*parts, theirs) if row["id"] > 2]
    assert harness.rows() == want
    assert "OPTIMIZE" not in operations(harness)


def test_appends_of_others_do_not_matter_to_a_compaction(tmp_path: Path) -> None:
    harness = DeltaHarness("append", tmp_path)
    ours, theirs = updates(30), updates(30, partition=1)
    with closing(opened(harness)) as one, closing(opened(harness)) as two:
        for a, b in zip(ours, theirs, strict=True):
            one.write(batch(a))
            harness.hooks = (partial(write, two, batch(b)), None)  # before the next commit: maybe a compaction
            tidy(one)
            if harness.hooks is not None:
                harness.hooks = None
                two.write(batch(b))
    assert harness.rows() == log_rows(*ours, *theirs)
    assert committed(harness) == {TP0: ours[-1].next, TP1: theirs[-1].next}
    assert operations(harness).count("OPTIMIZE") > 3


def test_nothing_is_done_while_another_writer_has_its_turn(tmp_path: Path) -> None:
    harness = DeltaHarness("upsert", tmp_path, partition_by=("name",))
    with closing(opened(harness)) as sink:
        for n in range(12):
            sink.write(batch(changes([order("u", n, "here")], n)))
        table = DeltaTable(harness.path)
        turn = Transaction("lakeward/contract/lake/turn", int((time.time() + 60) * 1e6))
        properties = CommitProperties(app_transactions=[turn])
        table.create_write_transaction([], "append", table.schema(), commit_properties=properties)
        for _ in range(4):
            sink.tidy()
    assert "OPTIMIZE" not in operations(harness)


def test_an_append_table_is_written_while_it_is_compacted(tmp_path: Path) -> None:
    harness = DeltaHarness("append", tmp_path)
    parts = updates(12)
    go_on = Event()
    with closing(opened(harness)) as sink:
        for part in parts[:4]:
            sink.write(batch(part))
        sink.tidy()
        harness.hooks = (lambda: assert_set(go_on), None)
        sink.tidy()
        assert isinstance(sink, DeltaSink)
        assert sink._upkeep.is_busy
        for part in parts[4:]:
            sink.write(batch(part))
            sink.tidy()
        assert "OPTIMIZE" not in operations(harness)
        go_on.set()
        sink._upkeep.close()
        assert operations(harness)[0] == "OPTIMIZE"
    assert files(harness) == 9
    assert harness.rows() == log_rows(*parts)
    assert committed(harness) == {TP0: parts[-1].next}


def assert_set(event: Event) -> None:
    assert event.wait(20)


def test_a_compaction_that_the_store_refuses_keeps_nobody_from_writing(tmp_path: Path) -> None:
    harness = DeltaHarness("append", tmp_path)
    parts = updates(12)

    def away() -> None:
        raise Unavailable("the store is away")

    with closing(opened(harness)) as sink, structlog.testing.capture_logs() as logs:
        for part in parts[:4]:
            sink.write(batch(part))
        sink.tidy()
        harness.hooks = (away, None)
        tidy(sink)
        commit(sink, *parts[4:])
    assert [entry["reason"] for entry in logs if entry["event"] == "delta.not_compacted"] == ["the store is away"]
    assert "OPTIMIZE" in operations(harness)
    assert harness.rows() == log_rows(*parts)


@pytest.mark.parametrize("hours", [0, 1])
def test_vacuum_removes_what_no_version_within_its_time_needs(hours: int, tmp_path: Path) -> None:
    """Once per interval, whoever does it; all that it removes here was given up just now."""
    harness = maintained("upsert", tmp_path)
    shorter = harness.config.maintenance.model_copy(update={"vacuum_older_than_seconds": hours * HOUR})
    harness.config = harness.config.model_copy(update={"maintenance": shorter})
    parts = [inserts(0, 4), *(changes([order("u", 10, f"v{n}")], 4 + n) for n in range(12))]
    with closing(opened(harness)) as sink:
        for part in parts:
            sink.write(batch(part))
        assert isinstance(sink, DeltaSink)
        sink.tidy()
        sink.tidy()
        vacuum = sink._upkeep._vacuum
        assert vacuum is not None
        vacuum.join(20)
        assert not vacuum.is_alive()
    live = {Path(uri) for uri in DeltaTable(harness.path).file_uris()}
    found = _data_files(harness.path)
    assert live <= found
    assert (
        len(found - live) == 0 if hours == 0 else len(found - live) >= 24
    )  # 12 updates: a data and a change file each
    assert harness.rows() == folded(*parts)
    assert committed(harness) == {TP0: 16}
    more = [changes([order("u", 20, f"later {n}")], 16 + n) for n in range(6)]
    with closing(opened(harness)) as sink:  # another worker, or this one after a restart
        commit(sink, *more)
        assert isinstance(sink, DeltaSink)
        assert sink._upkeep._vacuum is None
    assert harness.rows() == folded(*parts, *more)


def test_what_the_fan_in_leaves_is_compacted_by_maintenance(tmp_path: Path) -> None:
    harness = maintained("append", tmp_path)
    parts = updates(9)
    with closing(opened(harness)) as sink:
        for part in parts[:3]:
            sink.write(batch(part))
        for _ in range(6):
            tidy(sink)
        assert files(harness) == 1
        for part in parts[3:5]:
            commit(sink, part)
        assert files(harness) == 3  # until the interval is over
    assert harness.rows() == log_rows(*parts[:5])


def test_status_names_the_maintenance_that_is_due(tmp_path: Path) -> None:
    harness = maintained("append", tmp_path)
    with closing(opened(harness)) as sink:
        sink.write(batch(inserts(0, 3)))
        status = delta_status(harness.config, sink.target)
    assert status is not None
    assert [upkeep.what for upkeep in status.upkeep][-2:] == ["optimize", "vacuum"]


def _data_files(path: Path) -> set[Path]:
    return set(path.glob("*.parquet")) | set(path.glob("_change_data/*.parquet"))


def test_merge_rewrites_only_files_whose_key_ranges_it_meets(tmp_path: Path) -> None:
    harness = DeltaHarness("upsert", tmp_path)
    parts = [changes([order("c", 10_000 * n + k) for k in range(5)], 5 * n) for n in range(4)]
    with closing(opened(harness)) as sink:
        for part in parts:
            sink.write(batch(part))
        before = set(DeltaTable(harness.path).file_uris())
        change = changes([order("u", 20_001, "new"), order("d", 20_002), order("c", 20_009)], 20)
        sink.write(batch(change))
    after = set(DeltaTable(harness.path).file_uris())
    assert len(before) == 4
    assert len(before - after) == 1
    assert harness.rows() == folded(*parts, change)


def test_merge_of_a_table_partitioned_by_a_part_of_its_key_stays_in_the_partitions_it_meets(tmp_path: Path) -> None:
    harness = DeltaHarness("upsert", tmp_path, partition_by=("name",))
    schema = TableSchema(ORDERS.columns, ("name", "id"), 1)
    parts = [changes([order("c", n, name) for n in range(5)], 5 * at, schema=schema) for at, name in enumerate("abcd")]
    change = changes([order("u", 2, "b"), order("u", 7, "b")], 20, schema=schema)
    with closing(opened(harness)) as sink:
        for part in parts:
            sink.write(batch(part))
        before = set(DeltaTable(harness.path).file_uris())
        sink.write(batch(change))
    gone = before - set(DeltaTable(harness.path).file_uris())
    assert len(before) == 4
    assert [uri.count("name=b") for uri in gone] == [1]
    assert len(harness.rows()) == 21
