"""Delta tables that are upserted by deletion vectors: what the contract doesn't ask of every sink."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from contract_base import TP0, TP1, commit, committed, inserts, opened, rebuilds, updates
from contract_events import batch, changes, folded, order
from delta_harness import DeltaHarness, vector_harness
from delta_inside import kinds, on_disk, operations, version, void
from deltalake import DeltaTable

from config.errors import ConfigurationError, Unavailable

pytestmark = pytest.mark.usefixtures("small_tiers")


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
