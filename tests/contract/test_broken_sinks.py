"""Each way of breaking the contract that this file knows makes a check of the suite fail, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from contract_checks import CHECKS, checks_for
from memory_harness import MemoryHarness

from config.errors import OffsetGap
from sinks.base import Batch, Receipt
from sinks.memory import MemorySink, TableState, WriteMode
from sources.changes import CDC_FIELDS, CDC_OP, TopicPartition

NO_TABLE = TableState(pa.schema(CDC_FIELDS).empty_table())


class UntrimmedBatch(Batch):
    """Believes that it is needed whole, unless it leaves a gap."""

    def trim(self, committed: Mapping[TopicPartition, int]) -> Batch:
        super().trim(committed)
        return self


class GaplessBatch(Batch):
    """Takes a hole in the offsets for compaction."""

    def trim(self, committed: Mapping[TopicPartition, int]) -> Batch:
        try:
            return super().trim(committed)
        except OffsetGap:
            return self


class ForgetsToTrim(MemorySink):
    def write(self, batch: Batch) -> Receipt:
        return super().write(UntrimmedBatch(batch.ranges, batch.changes, batch.partition_counts))


class IgnoresGaps(MemorySink):
    def write(self, batch: Batch) -> Receipt:
        return super().write(GaplessBatch(batch.ranges, batch.changes, batch.partition_counts))


class WritesRowsBeforeOffsets(MemorySink):
    """Two commits where the contract asks for one."""

    def write(self, batch: Batch) -> Receipt:
        found = self._load()
        state = found or NO_TABLE
        todo = batch.trim(state.offsets)
        if not todo.ranges:
            return self._receipt(batch, state, None, 0)
        new = self._next(state, todo)
        rows_only = replace(new, offsets=state.offsets)
        if not self.store.swap(found, rows_only) or not self.store.swap(rows_only, new):
            return self.write(batch)
        return self._receipt(batch, new, new.version, todo.num_rows)


class DropsBatchesWithoutRows(MemorySink):
    def write(self, batch: Batch) -> Receipt:
        if batch.num_rows:
            return super().write(batch)
        return super().write(Batch({}, []))


class TrustsItsMemory(MemorySink):
    """Reads the destination's offsets once and never again, and so lets a stale writer win."""

    _remembered: TableState | None = None

    def _load(self) -> TableState | None:
        found = super()._load()
        if found is not None:
            self._remembered = replace(found, offsets=(self._remembered or found).offsets)
        return self._remembered

    def write(self, batch: Batch) -> Receipt:
        while True:
            state = self._load() or NO_TABLE
            todo = batch.trim(state.offsets)
            new = self._next(state, todo)
            if self.store.swap(self.store.load(), new):
                self._remembered, self._table_id = new, new.table_id
                return self._receipt(batch, new, new.version, todo.num_rows)


class WinsEveryRace(MemorySink):
    """Trims against a fresh state, but commits whatever happened since (no compare-and-swap)."""

    def write(self, batch: Batch) -> Receipt:
        state = self._load() or NO_TABLE
        todo = batch.trim(state.offsets)
        if not todo.ranges:
            return self._receipt(batch, state, None, 0)
        new = self._next(state, todo)
        while not self.store.swap(found := self.store.load(), new):
            new = self._next(found or state, todo)
        self._table_id = new.table_id
        return self._receipt(batch, new, new.version, todo.num_rows)


class RetriesWithoutTrimmingAgain(MemorySink):
    """Repeats a lost race with the batch that was cut for the first attempt."""

    def write(self, batch: Batch) -> Receipt:
        todo = batch.trim((self._load() or NO_TABLE).offsets)
        if not todo.ranges:
            return super().write(batch)
        while True:
            found = self._load()
            new = self._next(found or NO_TABLE, todo)
            if self.store.swap(found, new):
                self._table_id = new.table_id
                return self._receipt(batch, new, new.version, todo.num_rows)


class MakesAVanishedTableAnew(MemorySink):
    def _load(self) -> TableState | None:
        self._table_id = None
        return super()._load()


class ForgetsPartitionCounts(MemorySink):
    def _next(self, state: TableState, todo: Batch) -> TableState:
        return replace(super()._next(state, todo), partition_counts={})


class ForgetsSchemaIds(MemorySink):
    def _next(self, state: TableState, todo: Batch) -> TableState:
        new = super()._next(state, todo)
        return replace(new, schema_ids=dict.fromkeys(new.schema_ids, 1_000_000))


class KeepsDeletedRows(MemorySink):
    def write(self, batch: Batch) -> Receipt:
        kept = [
            replace(change, rows=change.rows.filter(pc.not_equal(change.rows.column(CDC_OP), "d")))
            for change in batch.changes
        ]
        return super().write(Batch(batch.ranges, kept, batch.partition_counts))


BROKEN: dict[type[MemorySink], str] = {
    ForgetsToTrim: "overlapping_batch_is_trimmed",
    IgnoresGaps: "gap_is_refused_and_nothing_lands",
    WritesRowsBeforeOffsets: "one_commit_carries_rows_and_offsets",
    DropsBatchesWithoutRows: "batch_without_rows_moves_the_offsets",
    TrustsItsMemory: "stale_writer_lands_nothing",
    WinsEveryRace: "writers_of_two_partitions_interleave",
    RetriesWithoutTrimmingAgain: "writer_that_loses_the_race_lands_nothing",
    MakesAVanishedTableAnew: "table_that_vanishes_is_not_made_anew_in_silence",
    ForgetsPartitionCounts: "more_partitions_stop_an_upsert",
    ForgetsSchemaIds: "dropped_column_stops_even_after_a_restart",
    KeepsDeletedRows: "last_change_of_a_key_wins_and_deletes_remove",
}


def failed_checks(sink_class: type[MemorySink], mode: WriteMode) -> set[str]:
    failed = set()
    for name in checks_for(upsert=mode == "upsert"):
        try:
            CHECKS[name][0](MemoryHarness(mode, sink_class))
        except (Exception, pytest.fail.Exception):
            failed.add(name)
    return failed


@pytest.mark.parametrize("mode", ["append", "upsert"])
@pytest.mark.parametrize("sink_class", BROKEN, ids=lambda c: c.__name__)
def test_broken_sink_fails_the_check_that_names_its_fault(sink_class: type[MemorySink], mode: WriteMode) -> None:
    expected = BROKEN[sink_class]
    if expected not in checks_for(upsert=mode == "upsert"):
        return
    failed = failed_checks(sink_class, mode)
    assert expected in failed
    assert "new_destination_has_no_offsets" not in failed, "broken in a way that hides its fault"


def test_sound_sink_fails_no_check() -> None:
    assert failed_checks(MemorySink, "append") == set()
    assert failed_checks(MemorySink, "upsert") == set()
