"""Delta tables that are upserted by deletion vectors: what the contract doesn't ask of every sink."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import closing
from datetime import date, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from contract_base import TP0, TP1, commit, committed, damage, inserts, opened, rebuilds, updates
from contract_events import (
    ORDERS_WITH_NOTE,
    batch,
    changes,
    empty_batch,
    folded,
    order,
)
from delta_harness import DeltaHarness, vector_harness
from delta_kills import written_under_kills
from deltalake import DeltaTable, QueryBuilder, write_deltalake

from config.errors import ConfigurationError, PipelineStopped, Unavailable, UnsupportedChange
from sinks.delta.folder import Folder
from sinks.delta.log import TableLog
from sinks.delta.vector_sink import VectorSink
from sources.changes import TableSchema

pytestmark = pytest.mark.usefixtures("small_tiers")

NO_GRACE = {"delta.deletedFileRetentionDuration": "interval 0 seconds"}


def actions(harness: DeltaHarness, version: int) -> list[dict[str, Any]]:
    lines = (harness.path / "_delta_log" / f"{version:020d}.json").read_text().splitlines()
    return [json.loads(line) for line in lines]


def kinds(harness: DeltaHarness, version: int, kind: str) -> list[dict[str, Any]]:
    return [action[kind] for action in actions(harness, version) if kind in action]


def operations(harness: DeltaHarness) -> list[str]:
    return [kinds(harness, n, "commitInfo")[0]["operation"] for n in range(version(harness) + 1)]


def version(harness: DeltaHarness) -> int:
    return int(DeltaTable(harness.path).version())


def on_disk(harness: DeltaHarness) -> set[str]:
    """Data and vector files, by their paths below the table's folder."""
    found = [*harness.path.rglob("*.parquet"), *harness.path.rglob("*.bin")]
    return {path for file in found if not (path := str(file.relative_to(harness.path))).startswith("_delta_log")}


def needed(harness: DeltaHarness) -> set[str]:
    table = TableLog(Folder(str(harness.path), {}), harness.new_sink().target).look()
    assert table is not None
    files = table.files.values()
    return {file.location for file in files} | {str(file.vector.path) for file in files if file.vector}


def test_update_writes_a_vector_and_touches_no_data_file(tmp_path: Path) -> None:
    harness = vector_harness(tmp_path)
    parts = inserts(0, 40), changes([order("u", 30, "new"), order("d", 50)], 40)
    with closing(opened(harness)) as sink:
        sink.write(batch(parts[0]))
        before = on_disk(harness)
        sink.write(batch(parts[1]))
    [removed] = kinds(harness, version(harness), "remove")
    again = next(add for add in kinds(harness, version(harness), "add") if add["path"] == removed["path"])
    assert again["deletionVector"]["cardinality"] == 2
    assert '"tightBounds":false' in again["stats"]
    assert "deletionVector" not in removed
    assert before < on_disk(harness)
    assert {Path(path).parts[0] for path in on_disk(harness) - before if path.endswith(".bin")} == {"_dv"}
    assert harness.rows() == folded(*parts)


def test_feed_is_told_by_the_vectors(tmp_path: Path) -> None:
    """An update is a delete and an insert: there are no files with images."""
    harness = vector_harness(tmp_path)
    with closing(opened(harness)) as sink:
        sink.write(batch(changes([order("c", 1), order("c", 2), order("c", 3)], 0)))
        first = sink.write(batch(changes([order("u", 1, "new"), order("d", 2), order("c", 4)], 3))).version
        sink.write(batch(changes([order("d", 3)], 6)))
    feed = pa.table(DeltaTable(harness.path).load_cdf(starting_version=first)).to_pylist()
    assert sorted((row["_change_type"], row["id"], row["name"]) for row in feed) == [
        ("delete", 1, "order 1"),
        ("delete", 2, "order 2"),
        ("delete", 3, "order 3"),
        ("insert", 1, "new"),
        ("insert", 4, "order 4"),
    ]


def test_feed_replays_to_the_rows_of_each_version(tmp_path: Path) -> None:
    harness = vector_harness(tmp_path)
    parts = updates(30)
    with closing(opened(harness)) as sink:
        commit(sink, *parts)
    assert "OPTIMIZE" in operations(harness)
    feed = pa.table(DeltaTable(harness.path).load_cdf(starting_version=1)).to_pylist()
    rows: dict[int, str] = {}
    for row in sorted(feed, key=lambda row: (row["_commit_version"], row["_change_type"] != "delete")):
        if row["_change_type"] == "delete":
            assert rows.pop(row["id"]) == row["name"]
        else:
            assert rows.setdefault(row["id"], row["name"]) == row["name"]
    assert rows == {row["id"]: row["name"] for row in folded(*parts)}


def test_restart_with_its_index_reads_nothing_anew(tmp_path: Path) -> None:
    harness = vector_harness(tmp_path)
    parts = inserts(0, 5), changes([order("u", 0, "new")], 5), changes([order("u", 0, "newer")], 6)
    with closing(opened(harness)) as sink:
        sink.write(batch(parts[0]))
        sink.write(batch(parts[1]))
    with rebuilds(), closing(opened(harness)) as sink:
        sink.write(batch(parts[2]))
    assert harness.rows() == folded(*parts)


def test_lost_index_is_rebuilt_without_the_deleted_rows(tmp_path: Path) -> None:
    harness = vector_harness(tmp_path)
    parts = inserts(0, 5), changes([order("u", 0, "new"), order("d", 10)], 5), changes([order("u", 20, "x")], 7)
    with closing(opened(harness)) as sink:
        sink.write(batch(parts[0]))
        sink.write(batch(parts[1]))
    shutil.rmtree(tmp_path / "index-0")
    with rebuilds(4), closing(opened(harness)) as sink:
        sink.write(batch(parts[2]))
    assert harness.rows() == folded(*parts)


def test_damaged_index_is_rebuilt(tmp_path: Path) -> None:
    harness = vector_harness(tmp_path)
    parts = inserts(0, 500), changes([order("u", key, "new") for key in range(0, 5000, 70)], 500)
    with closing(opened(harness)) as sink:
        sink.write(batch(parts[0]))
    damage(tmp_path / "index-0")
    with rebuilds(500), closing(opened(harness)) as sink:
        sink.write(batch(parts[1]))
    assert harness.rows() == folded(*parts)


def test_only_files_that_changed_are_read_when_a_commit_of_ours_is_not_in_the_index(tmp_path: Path) -> None:
    """The answer to a commit was lost, or the worker died before its index was on disk."""
    harness = vector_harness(tmp_path)
    parts = inserts(0, 5), inserts(5, 5), changes([order("u", 50, "new")], 10), changes([order("u", 0, "new")], 11)

    def lost() -> None:
        raise Unavailable("no answer")

    with closing(opened(harness)) as sink:
        sink.write(batch(parts[0]))
        sink.write(batch(parts[1]))
        with pytest.raises(Unavailable), harness.around_next_commit(after=lost):
            sink.write(batch(parts[2]))
        with rebuilds(5):  # the file with key 50 has another vector, and one is new
            sink.write(batch(parts[2], parts[3]))
    assert harness.rows() == folded(*parts)


def test_workers_of_different_partitions_do_not_take_turns(tmp_path: Path) -> None:
    """The loser of a race is put as the next version, with the files that it has written."""
    harness = vector_harness(tmp_path)
    with closing(opened(harness)) as one, closing(opened(harness)) as two:
        one.write(batch(inserts(0, 2)))
        two.write(batch(inserts(0, 2, partition=1)))
        written = on_disk(harness)
        with harness.around_next_commit(before=lambda: void(two.write(batch(inserts(2, 2, partition=1))))):
            pass_on = one.write(batch(inserts(2, 2)))
    assert pass_on.version == version(harness)
    assert len(on_disk(harness) - written) == 2
    assert harness.rows() == folded(inserts(0, 4), inserts(0, 4, partition=1))


def test_zombie_is_fenced_even_if_its_keys_are_others(tmp_path: Path) -> None:
    """Between its look and its commit somebody else moved the partition's offset: nothing of it lands."""
    harness = vector_harness(tmp_path)
    with closing(opened(harness)) as zombie, closing(opened(harness)) as owner:
        zombie.write(batch(inserts(0, 2)))
        owned = changes([order("u", 0, "owner's"), order("d", 10)], 2)
        with harness.around_next_commit(before=lambda: void(owner.write(batch(owned)))):
            receipt = zombie.write(batch(changes([order("u", 0, "owner's"), order("d", 10)], 2)))
        assert receipt.version is None
    assert len(on_disk(harness)) == 3  # of the zombie nothing is left
    assert harness.rows() == folded(inserts(0, 2), owned)


# -- other writers


def delete(harness: DeltaHarness) -> list[int]:
    DeltaTable(harness.path).delete("id = 10 OR id = 60")
    return [10, 60]


def update(harness: DeltaHarness) -> list[int]:
    DeltaTable(harness.path).update(predicate="id = 20", new_values={"amount": "7"})
    return []


def compact(harness: DeltaHarness) -> list[int]:
    DeltaTable(harness.path).optimize.compact()
    return []


def vacuum(harness: DeltaHarness) -> list[int]:
    DeltaTable(harness.path).vacuum(0, dry_run=False, enforce_retention_duration=False, full=True)
    return []


@pytest.mark.parametrize("foreign", [delete, update, compact, vacuum])
@pytest.mark.parametrize("partition_by", [(), ("name",)])
def test_foreign_commit_is_noticed(foreign: Any, partition_by: tuple[str, ...], tmp_path: Path) -> None:
    harness = vector_harness(tmp_path, partition_by=partition_by)
    ours = [inserts(0, 10), changes([order("u", key, "second") for key in (0, 20, 30)], 10)]
    theirs = [inserts(0, 3, partition=1)]
    with closing(opened(harness)) as one, closing(opened(harness)) as two:
        for part in ours:
            one.write(batch(part))
        two.write(batch(theirs[0]))
        gone = changes([order("d", key) for key in foreign(harness)], 13)
        amounts = {row["id"]: row["amount"] for row in harness.rows()}
        ours.append(changes([order("u", key, "third") for key in (0, 10, 40)], 13))
        theirs.append(changes([order("u", 11, "third"), order("d", 21)], 3, partition=1))
        one.write(batch(ours[-1]))
        two.write(batch(theirs[-1]))
        more = changes([order("u", 0, "fourth")], 16)
        one.write(batch(more))
    want = {row["id"]: row for row in folded(*ours[:2], gone, ours[2], more, *theirs)}
    if foreign is update:
        want[20]["amount"] = Decimal("7.00")
        assert amounts[20] == 7
    assert {row["id"]: row for row in harness.rows()} == want


def test_foreign_commit_between_our_look_and_our_commit(tmp_path: Path) -> None:
    harness = vector_harness(tmp_path)
    parts = inserts(0, 5), changes([order("u", 10, "new"), order("u", 20, "new")], 5)
    with closing(opened(harness)) as sink:
        sink.write(batch(parts[0]))
        with harness.around_next_commit(before=lambda: void(DeltaTable(harness.path).delete("id = 10 OR id = 40"))):
            sink.write(batch(parts[1]))
    assert harness.rows() == [row for row in folded(*parts) if row["id"] != 40]


def test_restore_brings_rows_back_and_the_offsets_stay(tmp_path: Path) -> None:
    """delta-rs' restore keeps transaction identifiers: what it undid doesn't come again, what comes next is right."""
    harness = vector_harness(tmp_path)
    with closing(opened(harness)) as sink:
        sink.write(batch(inserts(0, 5)))
        sink.write(batch(changes([order("u", 10, "undone"), order("d", 20)], 5)))
        DeltaTable(harness.path).restore(1)
        later = changes([order("u", 10, "later"), order("d", 30)], 7)
        sink.write(batch(later))
    assert committed(harness) == {TP0: 9}
    assert harness.rows() == folded(inserts(0, 5), later)


def test_rows_that_another_writer_inserted_stop_the_pipeline(tmp_path: Path) -> None:
    harness = vector_harness(tmp_path)
    with closing(opened(harness)) as sink:
        sink.write(batch(inserts(0, 3)))
        table = DeltaTable(harness.path)
        columns = pa.schema(table.schema().to_arrow())
        write_deltalake(table, pa.Table.from_pylist([{"id": 7}], columns), mode="append")
        with pytest.raises(PipelineStopped, match=r"inserted by another writer.*Delete those rows"):
            sink.write(batch(inserts(3, 1)))
    assert committed(harness) == {TP0: 3}


# -- merge and vectors, one after the other


def test_table_of_merges_goes_over_to_vectors_and_back(tmp_path: Path) -> None:
    harness = DeltaHarness("upsert", tmp_path)
    parts = [inserts(0, 20), changes([order("u", 30, "merged"), order("d", 40)], 20)]
    other = [inserts(0, 5, partition=1)]
    with closing(opened(harness)) as sink:
        sink.write(batch(*parts[:1], *other))
        sink.write(batch(parts[1]))
    merging = harness.config
    harness.config = merging.model_copy(update={"upserts": "deletion_vectors"})
    with closing(opened(harness)) as one, closing(opened(harness)) as two:
        for n in range(6):
            parts.append(changes([order("u", 10 * n, f"v{n}"), order("d", 10 * n + 100)], 22 + 2 * n))
            other.append(changes([order("u", 10 * n % 50 + 1, f"v{n}")], 5 + n, partition=1))
            one.write(batch(parts[-1]))
            two.write(batch(other[-1]))
            one.tidy()
    assert harness.rows() == folded(*parts, *other)
    protocol = DeltaTable(harness.path).protocol()
    assert (protocol.min_reader_version, protocol.min_writer_version) == (3, 7)
    assert "deletionVectors" in (protocol.reader_features or [])
    harness.config = merging
    parts.append(changes([order("u", 0, "merged again"), order("d", 10), order("c", 990)], 34))
    with closing(opened(harness)) as sink:
        sink.write(batch(parts[-1]))
    assert harness.rows() == folded(*parts, *other)
    harness.config = merging.model_copy(update={"upserts": "deletion_vectors"})
    parts.append(changes([order("u", 0, "and over"), order("d", 20)], 37))
    with closing(opened(harness)) as sink:
        sink.write(batch(parts[-1]))
    assert harness.rows() == folded(*parts, *other)
    assert committed(harness) == {TP0: 39, TP1: 11}


def test_rows_of_merges_are_read_once_by_each_worker_however_many_there_are(tmp_path: Path) -> None:
    """A file of another writer has rows of all partitions; a commit for another one must not make us read it anew."""
    harness = DeltaHarness("upsert", tmp_path)
    with closing(opened(harness)) as sink:
        sink.write(batch(inserts(0, 6), inserts(0, 6, partition=1)))
    harness.config = harness.config.model_copy(update={"upserts": "deletion_vectors"})
    parts = [changes([order("u", 10 * n, "new")], 6 + n) for n in range(4)]
    other = [changes([order("u", 10 * n + 1, "new")], 6 + n, partition=1) for n in range(4)]
    with closing(opened(harness)) as one, closing(opened(harness)) as two, rebuilds(6, 6):
        for mine, theirs in zip(parts, other, strict=True):
            one.write(batch(mine))
            two.write(batch(theirs))
    assert harness.rows() == folded(inserts(0, 6), inserts(0, 6, partition=1), *parts, *other)


@pytest.mark.parametrize(
    ("properties", "match"),
    [
        ({"delta.appendOnly": "true"}, "appendOnly"),
        ({"delta.constraints.some": "id > 0"}, "checkConstraints"),
        ({"delta.columnMapping.mode": "name"}, "columnMapping"),
    ],
)
def test_table_that_can_not_be_kept_right_is_refused(properties: Any, match: str, tmp_path: Path) -> None:
    harness = vector_harness(tmp_path, table_properties=properties)
    with closing(opened(harness)) as sink, pytest.raises(ConfigurationError, match=rf"{match}.*upserts: merge"):
        sink.write(batch(inserts(0, 2)))


@pytest.mark.parametrize("feature", ["rowTracking", "v2Checkpoint", "inCommitTimestamp", "somethingNew"])
def test_feature_that_is_not_known_is_refused_even_while_the_pipeline_runs(feature: str, tmp_path: Path) -> None:
    harness = vector_harness(tmp_path)
    with closing(opened(harness)) as sink:
        sink.write(batch(inserts(0, 2)))
        now = version(harness)
        protocol = kinds(harness, 0, "protocol")[0]
        raised = {"protocol": {**protocol, "writerFeatures": [*protocol["writerFeatures"], feature]}}
        (harness.path / "_delta_log" / f"{now + 1:020d}.json").write_text(json.dumps(raised))
        with pytest.raises(ConfigurationError, match=rf"{feature}.*DROP FEATURE"):
            sink.write(batch(inserts(2, 2)))
    with pytest.raises(ConfigurationError, match=feature):
        opened(harness)


# -- partitions, columns, types


def test_partition_values_of_all_kinds(tmp_path: Path) -> None:
    kinds_of = {
        "text": (pa.string(), ["plain", "it's %/=?", "on hold", "Zürich 🏔", "", None]),
        "number": (pa.int32(), [0, -7, None]),
        "money": (pa.decimal128(9, 2), [Decimal("1.50"), Decimal("-0.01"), None]),
        "day": (pa.date32(), [date(2026, 1, 2), date(1969, 12, 31), None]),
        "at": (pa.timestamp("us", tz="UTC"), [datetime.fromisoformat("2026-01-02T03:04:05.000678+00:00"), None]),
        "local": (pa.timestamp("us"), [datetime.fromisoformat("1969-12-31T23:59:59.999999"), None]),
        "flag": (pa.bool_(), [True, False, None]),
    }
    for name, (kind, values) in kinds_of.items():
        folder = tmp_path / name
        folder.mkdir()
        harness = vector_harness(folder, partition_by=(name,))
        schema = TableSchema(pa.schema([("id", pa.int64()), (name, kind), ("n", pa.int64())]), ("id",), 1)
        rows = [("c", {"id": n, name: value, "n": 0}) for n, value in enumerate(values)]
        moved = [("u", {"id": n, name: values[n - 1], "n": 1}) for n, _ in enumerate(values)]
        parts = changes(rows, 0, schema=schema), changes(moved, len(rows), schema=schema)
        back = changes([("u", {"id": 0, name: values[0], "n": 2})], 2 * len(rows), schema=schema)
        with closing(opened(harness)) as sink:
            for part in parts:
                commit(sink, part)
        shutil.rmtree(folder / "index-0")
        with closing(opened(harness)) as sink:
            commit(sink, back)
        want = [{k: v for k, v in row.items() if v != ""} for row in folded(*parts, back)]
        assert harness.rows() == want, name


def test_key_that_is_a_partition_column_is_found_after_the_index_was_lost(tmp_path: Path) -> None:
    harness = vector_harness(tmp_path, partition_by=("region",))
    schema = TableSchema(
        pa.schema([("region", pa.int32()), ("line", pa.int32()), ("n", pa.int64())]), ("region", "line"), 1
    )
    rows = [("c", {"region": r, "line": n, "n": 0}) for r in range(3) for n in range(3)]
    later = [("u", {"region": 1, "line": 1, "n": 1}), ("d", {"region": 2, "line": 0})]
    parts = changes(rows, 0, schema=schema), changes(later, 9, schema=schema)
    with closing(opened(harness)) as sink:
        commit(sink, parts[0])
    shutil.rmtree(tmp_path / "index-0")
    with closing(opened(harness)) as sink:
        commit(sink, parts[1])
    assert harness.rows() == folded(*parts)


def test_partition_column_of_a_kind_that_folders_can_not_name_is_refused(tmp_path: Path) -> None:
    harness = vector_harness(tmp_path, partition_by=("x",))
    schema = TableSchema(pa.schema([("id", pa.int64()), ("x", pa.float64())]), ("id",), 1)
    with (
        closing(opened(harness)) as sink,
        pytest.raises(UnsupportedChange, match=r"column x is double.*upserts: merge"),
    ):
        sink.write(batch(changes([("c", {"id": 1, "x": 1.5})], 0, schema=schema)))


@pytest.mark.parametrize("kind", [pa.uint64(), pa.time64("us"), pa.uint16(), pa.binary(4)])
def test_key_that_is_stored_at_another_type_is_found(kind: pa.DataType, tmp_path: Path) -> None:
    values = pa.array([b"abcd", b"efgh"] if kind == pa.binary(4) else [1, 2]).cast(kind).to_pylist()
    schema = TableSchema(pa.schema([("k", kind), ("n", pa.int64())]), ("k",), 1)
    parts = [
        changes([("c", {"k": value, "n": 0}) for value in values], 0, schema=schema),
        changes([("u", {"k": values[0], "n": 1})], 2, schema=schema),
        changes([("d", {"k": values[0]}), ("u", {"k": values[1], "n": 2})], 3, schema=schema),
    ]
    harness = vector_harness(tmp_path)
    with closing(opened(harness)) as sink:
        sink.write(batch(parts[0]))
        sink.write(batch(parts[1]))
        assert sorted(row["n"] for row in harness.rows()) == [0, 1]
    shutil.rmtree(tmp_path / "index-0")
    with closing(opened(harness)) as sink:
        sink.write(batch(parts[2]))
    assert [row["n"] for row in harness.rows()] == [2]


def test_column_without_time_zone_that_is_added_later_raises_the_protocol(tmp_path: Path) -> None:
    harness = vector_harness(tmp_path)
    first = TableSchema(pa.schema([("id", pa.int64())]), ("id",), 1)
    second = TableSchema(first.columns.append(pa.field("at", pa.timestamp("us"))), ("id",), 2)
    row = {"id": 1, "at": datetime.fromisoformat("2026-01-02T03:04:05")}
    parts = changes([("c", {"id": 1}), ("c", {"id": 2})], 0, schema=first), changes([("u", row)], 2, schema=second)
    with closing(opened(harness)) as sink:
        for part in parts:
            sink.write(batch(part))
    assert "timestampNtz" in (DeltaTable(harness.path).protocol().reader_features or [])
    assert harness.rows() == folded(*parts)


def test_crash_between_added_column_and_rows(tmp_path: Path) -> None:
    harness = vector_harness(tmp_path)
    noted = changes([order("c", 3, note="new")], 2, schema=ORDERS_WITH_NOTE)
    with closing(opened(harness)) as sink:
        sink.write(batch(inserts(0, 2)))
        with pytest.raises(SystemExit), harness.around_next_commit(after=crash):
            sink.write(batch(noted))
    assert "note" in pa.schema(DeltaTable(harness.path).schema().to_arrow()).names
    with closing(opened(harness)) as sink:
        sink.write(batch(noted))
    assert harness.rows() == folded(inserts(0, 2), noted)


def test_first_batch_without_rows_leaves_the_key_to_the_first_with_some(tmp_path: Path) -> None:
    harness = vector_harness(tmp_path)
    part = changes([order("c", 1), order("u", 1, "again")], 5)
    with closing(opened(harness)) as sink:
        sink.write(empty_batch(0, 5))
        sink.write(batch(part))
    assert DeltaTable(harness.path).metadata().configuration["lakeward.key"] == '["id"]'
    assert harness.rows() == folded(part)


def test_rows_that_were_there_before_the_key_was_known_are_found(tmp_path: Path) -> None:
    """A table made by hand has rows, but says no key; the first batch, without changes, can't tell it either."""
    harness = DeltaHarness("upsert", tmp_path)
    with closing(opened(harness)) as sink:
        sink.write(batch(inserts(0, 4)))
    table = DeltaTable(harness.path)
    rows = QueryBuilder().register("t", table).execute("SELECT * FROM t").read_all()
    shutil.rmtree(harness.path)
    write_deltalake(harness.path, rows)
    harness = vector_harness(tmp_path)
    with closing(opened(harness)) as sink:
        sink.write(empty_batch(0, 4))
        sink.write(batch(changes([order("u", 10, "new"), order("d", 20)], 4)))
    assert harness.rows() == folded(inserts(0, 4), changes([order("u", 10, "new"), order("d", 20)], 4))


# -- upkeep


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


# -- kills


def nothing_left_behind(harness: DeltaHarness) -> None:
    """What a dead worker wrote without committing it, and what was replaced, is gone after a commit and a tidying."""
    assert on_disk(harness) == needed(harness)


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


def void(_: object) -> None:
    """For a hook."""


def crash() -> None:
    raise SystemExit
