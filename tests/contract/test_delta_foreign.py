"""Other writers of a Delta table that is upserted by deletion vectors: noticed, respected, or refused."""

from __future__ import annotations

from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from contract_base import TP0, committed, inserts, opened
from contract_events import batch, changes, empty_batch, folded, order
from delta_harness import DeltaHarness, vector_harness
from delta_inside import void
from deltalake import DeltaTable, write_deltalake

from config.errors import PipelineStopped

pytestmark = pytest.mark.usefixtures("small_tiers")


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


@pytest.mark.parametrize("before", ["", "delete"])
@pytest.mark.parametrize("meanwhile", ["runs", "is away", "is away, and a checkpoint is made"])
def test_restore_of_what_was_deleted_in_files_of_another_writer(before: str, meanwhile: str, tmp_path: Path) -> None:
    """The file has its vector of before again (or none), so by the files alone nothing happened."""
    harness = vector_harness(tmp_path)
    with closing(opened(harness)) as sink:
        sink.write(batch(inserts(0, 4)))
        sink.write(batch(inserts(4, 4)))
        DeltaTable(harness.path).optimize.compact()
        if before:
            sink.write(batch(changes([order("d", 60)], 8)))
        sink.write(empty_batch(8 + bool(before), 10))
        undone = DeltaTable(harness.path).version()
        sink.write(batch(changes([order("d", 50)], 10)))
        if meanwhile == "runs":
            DeltaTable(harness.path).restore(undone)
            sink.write(batch(changes([order("c", 50, "again")], 11)))
    if meanwhile != "runs":
        DeltaTable(harness.path).restore(undone)
        if "checkpoint" in meanwhile:
            DeltaTable(harness.path).create_checkpoint()
        with closing(opened(harness)) as sink:
            sink.write(batch(changes([order("c", 50, "again")], 11)))
    found = sorted((row["id"], row["name"]) for row in harness.rows())
    assert found == [
        (key, "again" if key == 50 else f"order {key}") for key in range(0, 80, 10) if key != 60 or not before
    ]


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
