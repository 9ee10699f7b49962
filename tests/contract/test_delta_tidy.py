"""Tidying, checkpoints and the removal of files of Delta tables that are upserted by deletion vectors."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
from contract_base import TP0, commit, committed, inserts, opened, updates
from contract_events import ORDERS_WITH_NOTE, batch, changes, folded, order
from delta_harness import DeltaHarness, vector_harness
from delta_inside import NO_GRACE, kinds, needed, on_disk, operations, version, void
from delta_kills import written_under_kills
from deltalake import DeltaTable, QueryBuilder
from rocksdict import WriteBatch
from structlog.testing import capture_logs

from config.errors import Unavailable
from sinks.delta.vector_sink import VectorSink

pytestmark = pytest.mark.usefixtures("small_tiers")


def test_files_and_dead_rows_stay_few(tmp_path: Path) -> None:
    harness = vector_harness(tmp_path)
    parts = updates(80, keys=30)
    most = 0
    with closing(opened(harness)) as sink:
        for part in parts:
            commit(sink, part)
            most = max(most, len(DeltaTable(harness.path).file_uris()))
    assert most < 24
    assert harness.rows() == folded(*parts)
    assert committed(harness) == {TP0: parts[-1].next}


def test_tidying_changes_no_rows_and_says_so(tmp_path: Path) -> None:
    harness = vector_harness(tmp_path)
    parts = updates(12)
    with closing(opened(harness)) as sink:
        for part in parts:
            sink.write(batch(part))
        before = version(harness)
        sink.tidy()
    assert version(harness) == before + 1
    moved = [*kinds(harness, before + 1, "add"), *kinds(harness, before + 1, "remove")]
    assert moved
    assert not any(action["dataChange"] for action in moved)
    assert not kinds(harness, before + 1, "txn")
    assert harness.rows() == folded(*parts)


def test_foreign_delete_in_the_middle_of_tidying_wins(tmp_path: Path) -> None:
    harness = vector_harness(tmp_path)
    parts = updates(12)
    with closing(opened(harness)) as sink:
        for part in parts:
            sink.write(batch(part))
        some = folded(*parts)[0]["id"]
        with harness.around_next_commit(before=lambda: void(DeltaTable(harness.path).delete(f"id = {some}"))):
            sink.tidy()
        want = [row for row in folded(*parts) if row["id"] != some]
        assert harness.rows() == want
        more = changes([order("u", some, "back")], parts[-1].next)
        commit(sink, more)
    assert harness.rows() == folded(*parts, more)


def test_commits_of_other_partitions_do_not_matter_to_tidying(tmp_path: Path) -> None:
    harness = vector_harness(tmp_path)
    ours, theirs = updates(30), updates(30, partition=1)
    with closing(opened(harness)) as one, closing(opened(harness)) as two:
        for mine, yours in zip(ours, theirs, strict=True):
            one.write(batch(mine))
            harness.hooks = (lambda part=yours: void(two.write(batch(part))), None)  # before the next commit: a step?
            one.tidy()
            if harness.hooks is not None:
                harness.hooks = None
                two.write(batch(yours))
    assert harness.rows() == folded(*ours, *theirs)
    assert operations(harness).count("OPTIMIZE") > 3


def test_checkpoints_are_written_and_the_log_is_readable_from_them_alone(tmp_path: Path) -> None:
    harness = vector_harness(tmp_path)
    parts = updates(50)
    with closing(opened(harness)) as sink:
        commit(sink, *parts[:45])
    log = harness.path / "_delta_log"
    last = json.loads((log / "_last_checkpoint").read_text())["version"]
    assert last >= 40
    for file in log.glob("*.json"):
        if int(file.stem) <= last:
            file.unlink()
    shutil.rmtree(tmp_path / "index-0")
    assert harness.rows() == folded(*parts[:45])
    with closing(opened(harness)) as sink:
        commit(sink, *parts[45:])
    assert harness.rows() == folded(*parts)
    (log / "_last_checkpoint").unlink()
    assert committed(harness) == {TP0: parts[-1].next}


def test_metadata_that_a_checkpoint_told_is_written_as_other_readers_expect_it(tmp_path: Path) -> None:
    """Parquet's maps come as lists: a column that is added by a writer that began at a checkpoint."""
    harness = vector_harness(tmp_path)
    parts = updates(45)
    with closing(opened(harness)) as sink:
        commit(sink, *parts)
    DeltaTable(harness.path).create_checkpoint()
    before = version(harness)
    noted = changes([order("c", 999, note="new")], parts[-1].next, schema=ORDERS_WITH_NOTE)
    with closing(opened(harness)) as sink:
        sink.write(batch(noted))
    (metadata,) = kinds(harness, before + 1, "metaData")
    told = {name: value for name, value in metadata.items() if value is not None}
    assert told == kinds(harness, 0, "metaData")[0] | {
        "schemaString": metadata["schemaString"],
        "configuration": dict(DeltaTable(harness.path).metadata().configuration),
    }
    assert [row for row in harness.rows() if row.get("note")] == folded(noted)


def test_writer_that_slept_while_its_log_was_cleaned_up_reads_it_anew(tmp_path: Path) -> None:
    harness = vector_harness(tmp_path)
    mine, more = inserts(0, 3), inserts(3, 1)
    theirs = updates(45, partition=1)
    with closing(opened(harness)) as sleeper, closing(opened(harness)) as busy:
        sleeper.write(batch(mine))
        commit(busy, *theirs)
        log = harness.path / "_delta_log"
        last = json.loads((log / "_last_checkpoint").read_text())["version"]
        for file in log.glob("*.json"):
            if int(file.stem) <= last:
                file.unlink()
        sleeper.write(batch(more))
    assert harness.rows() == folded(mine, more, *theirs)
    assert min(int(file.stem) for file in log.glob("*.json")) > last


def test_writer_that_slept_between_its_look_and_its_commit_looks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version that it would put may have been there, and be cleaned up: a put if absent would succeed."""
    harness = vector_harness(tmp_path)
    theirs = updates(45, partition=1)
    with closing(opened(harness)) as sleeper, closing(opened(harness)) as busy:
        sleeper.write(batch(inserts(0, 3)))

        def sleep() -> None:
            commit(busy, *theirs)
            log = harness.path / "_delta_log"
            last = json.loads((log / "_last_checkpoint").read_text())["version"]
            for file in log.glob("*.json"):
                if int(file.stem) <= last:
                    file.unlink()
            monkeypatch.setattr("sinks.delta.log.LOOK_SECONDS", -1.0)
            harness.hooks = (lambda: monkeypatch.setattr("sinks.delta.log.LOOK_SECONDS", 600.0), None)

        with harness.around_next_commit(before=sleep):
            sleeper.write(batch(inserts(3, 1)))
    assert harness.rows() == folded(inserts(0, 4), *theirs)


def test_files_that_nobody_needs_are_removed(tmp_path: Path) -> None:
    harness = vector_harness(tmp_path, table_properties=NO_GRACE)
    parts = updates(40)
    with closing(opened(harness)) as sink:
        commit(sink, *parts)
        sink.write(batch(inserts(parts[-1].next, 1)))
        sink.tidy()
    assert on_disk(harness) == needed(harness)
    assert harness.rows() == folded(*parts, inserts(parts[-1].next, 1))


def test_files_stay_for_the_grace_time(tmp_path: Path) -> None:
    harness = vector_harness(tmp_path)
    parts = updates(40)
    with closing(opened(harness)) as sink:
        assert isinstance(sink, VectorSink)
        commit(sink, *parts)
        first = {Path(kinds(harness, 1, "add")[0]["path"]).name}
        table = sink._log.look()
        assert table is not None
        assert sink._cleaner.clean(table, sink._landed) == 0
    assert first < on_disk(harness)
    old = QueryBuilder().register("t", DeltaTable(harness.path, version=1)).execute("SELECT * FROM t").read_all()
    assert pa.table(old).num_rows == len(folded(parts[0]))


def test_log_whose_newest_commits_are_hidden_for_a_moment_costs_no_file(tmp_path: Path) -> None:
    """A store that doesn't show at once what it was given: by the older version that it shows, the files of the newest
    commits would belong to nobody."""
    harness = vector_harness(tmp_path, table_properties=NO_GRACE)
    parts = updates(20)
    with closing(opened(harness)) as sink:
        commit(sink, *parts[:-1])
        sink.write(batch(parts[-1]))
        newest = harness.path / "_delta_log" / f"{version(harness):020d}.json"
        hidden = newest.rename(tmp_path / "hidden.json")
        with pytest.raises(Unavailable, match="log is shown up to version"):
            sink.tidy()
        with pytest.raises(Unavailable, match="log is shown up to version"):
            sink.write(batch(inserts(parts[-1].next, 1)))
        hidden.rename(newest)
        assert needed(harness) <= on_disk(harness)
        sink.write(batch(inserts(parts[-1].next, 1)))
        sink.tidy()
    assert on_disk(harness) == needed(harness)
    assert harness.rows() == folded(*parts, inserts(parts[-1].next, 1))


def test_files_of_others_are_left_to_them(tmp_path: Path) -> None:
    harness = vector_harness(tmp_path, table_properties=NO_GRACE)
    parts = updates(10)
    with closing(opened(harness)) as sink:
        sink.write(batch(parts[0]))
        strange = ["notes.txt", "part-0001.parquet", f"lw-{'0' * 16}-3-abc.parquet", "_dv/x/deletion_vector.bin"]
        for name in strange:
            (harness.path / name).parent.mkdir(exist_ok=True, parents=True)
            (harness.path / name).write_bytes(b"x")
        commit(sink, *parts[1:])
    assert all((harness.path / name).exists() for name in strange)


def test_maintenance_removes_what_other_writers_left(tmp_path: Path) -> None:
    """Once it is old enough, and nothing of what the table needs, or what isn't the table's."""
    maintenance = {"enabled": True, "vacuum_older_than_seconds": 3600}
    harness = vector_harness(tmp_path, maintenance=maintenance)
    parts = updates(12)
    left = ["part-00000.parquet", "_change_data/cdc-0.parquet", "name=x/part-1.parquet", "ab/deletion_vector_0.bin"]
    kept = ["notes.txt", "_mine/part-0.parquet", ".hidden/part-0.parquet", "young.parquet"]
    with closing(opened(harness)) as sink:
        sink.write(batch(parts[0]))
        for name in left + kept:
            (harness.path / name).parent.mkdir(exist_ok=True)
            (harness.path / name).write_bytes(b"x")
            if name != "young.parquet":
                os.utime(harness.path / name, (0, 0))
        DeltaTable(harness.path).optimize.compact()
        for path in harness.path.glob("*.parquet"):
            if path.name != "young.parquet":
                os.utime(path, (0, 0))
        commit(sink, *parts[1:])
    assert not any((harness.path / name).exists() for name in left)
    assert all((harness.path / name).exists() for name in kept)
    assert harness.rows() == folded(*parts)


def nothing_left_behind(harness: DeltaHarness) -> None:
    """What a dead worker wrote without committing it, and what was replaced, is gone after a commit and a tidying."""
    assert on_disk(harness) == needed(harness)


def test_a_file_that_its_store_has_lost_is_told_and_writing_goes_on(tmp_path: Path) -> None:
    harness = vector_harness(tmp_path)
    parts = [inserts(start, 2) for start in range(40, 100, 2)]
    with closing(opened(harness)) as sink, capture_logs() as logs:
        sink.write(batch(inserts(0, 40)))
        [uri] = DeltaTable(harness.path).file_uris()
        path = Path(uri.removeprefix("file://"))
        held = path.rename(tmp_path / "held")
        for part in parts[:-6]:
            commit(sink, part)
        told = [line for line in logs if line["event"] == "delta.not_tidied"]
        assert told
        assert all(path.name in line["reason"] and "bring it back" in line["reason"] for line in told)
        held.rename(path)
        for part in parts[-6:]:
            commit(sink, part)
        assert [line["event"] for line in logs].index("delta.tidied") > logs.index(told[-1])
    assert harness.rows() == folded(inserts(0, 40), *parts)


def test_killed_at_each_change_of_a_write(tmp_path: Path) -> None:
    before = updates(6)
    part = changes([order("u", 4, "killed"), order("d", 6), order("u", 990)], before[-1].next)
    after = [*updates(8, seed=2, start=part.next)]
    after += [inserts(after[-1].next, 1)]
    steps = written_under_kills(
        tmp_path, partial(vector_harness, table_properties=NO_GRACE), before, part, after, nothing_left_behind
    )
    assert len(steps) == 10  # a data file, a file of vectors, the log: made, written, renamed; and what is tidied up


def test_killed_at_each_change_of_tidying_checkpointing_and_cleaning(tmp_path: Path) -> None:
    before = updates(17)
    after = [*updates(12, seed=2, start=before[-1].next)]
    after += [inserts(after[-1].next, 1)]
    properties = {**NO_GRACE, "delta.checkpointInterval": "3"}
    steps = written_under_kills(
        tmp_path, partial(vector_harness, table_properties=properties), before, None, after, nothing_left_behind
    )
    assert len(steps) > 10


def test_a_count_that_is_wrong_rewrites_nothing_and_builds_the_index_anew(tmp_path: Path) -> None:
    harness = vector_harness(tmp_path)
    parts = updates(60)
    with closing(opened(harness)) as sink:
        commit(sink, *parts[:5])
        assert isinstance(sink, VectorSink)
        index = sink._upserts._partitions[TP0]
        wrong = WriteBatch(raw_mode=True)
        for file_id, file in list(index.files.items()):
            index._know(wrong, file_id, replace(file, rows=file.rows + 1))
        index._database.write(wrong, index._generation)  # on disk, where it is read from again
        with capture_logs() as logs:
            commit(sink, *parts[5:])
    told = [entry["event"] for entry in logs if entry["event"] in ("delta.not_tidied", "index.rebuilt", "delta.tidied")]
    assert told[:3] == ["delta.not_tidied", "index.rebuilt", "delta.tidied"]
    assert "delta.not_tidied" not in told[1:]
    assert harness.rows() == folded(*parts)
