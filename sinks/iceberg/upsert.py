"""Turning a folded batch into a row delta: what the key index knows of the changed keys, and how it moves along."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table

from config.errors import PipelineStopped
from sinks.at_once import at_once
from sinks.base import Batch
from sinks.changed_rows import by_file, by_partition, rows_of
from sinks.iceberg.deletes import DeletedRows
from sinks.iceberg.files import StagedRows, Staging
from sinks.iceberg.live_files import LiveFile, LiveFiles
from sinks.iceberg.rebuild import deleted_positions, rebuild_index
from sinks.iceberg.state import SinkState
from sinks.iceberg.store import columns_by_id, open_parquet
from sinks.iceberg.tidy import Step, Tidied, due, stage
from sinks.index_upkeep import FLUSH_EVERY
from sinks.reduce import reduce
from sinks.tiers import Compaction, Patience
from sources.changes import TopicPartition
from tables.index_database import IndexDamaged
from tables.key_index import IndexState, KeyIndex, PartitionIndex, PlacedRows, fingerprint


@dataclass(frozen=True)
class PartitionDelta:
    """One Kafka partition's part of a row delta: rows to come, keys to go, and how many rows of which files (by their
    ids in the index) are replaced."""

    tp: TopicPartition
    staged: list[StagedRows]
    removed: pa.Table | None
    replaced: Mapping[int, int]


@dataclass(frozen=True)
class RowDelta:
    """Staged files of an upsert: data and position deletes, and what the index has to learn when they land.

    `key` is in the index's order: by name. `truncated`: all files that were there go.
    """

    parts: list[PartitionDelta]
    deletes: list[DataFile]
    key: tuple[str, ...]
    truncated: bool = False

    @property
    def files(self) -> list[DataFile]:
        """All files of the commit."""
        return [staged.file for part in self.parts for staged in part.staged] + self.deletes


class Upserts:
    """The key index of one table, kept in step with it."""

    def __init__(self, index: KeyIndex, live: LiveFiles) -> None:
        self._index = index
        self._live = live
        self._partitions: dict[TopicPartition, PartitionIndex] = {}
        self._commits = 0

    def catch_up(self, table: Table, state: SinkState, partitions: Collection[TopicPartition]) -> bool:
        """Make the index true for these partitions, at the table's current snapshot; False if it was.

        Free while the only commits since the last one were ours or touched other partitions. Otherwise (a crash, a
        partition that was elsewhere meanwhile, another engine's rewrite, a rollback) the files that changed are read,
        or all of them where that can't be told.
        """
        indexes = {tp: self._of(table, tp) for tp in partitions}
        looked = self._live.catch_up(table, state.offsets, indexes)
        outdated = self._outdated(indexes, table, state)
        if outdated and not looked:
            # what is to be built anew is built on what the table says, not on what is remembered of it
            self._live.read(table.metadata, table.io, state.offsets)
            outdated = self._outdated(indexes, table, state)
        paths = {path for tp in outdated for path in self._live.of(tp)}
        gone = deleted_positions(table.io, self._live.deletes, paths) if paths else {}
        for tp, wanted in outdated.items():
            index = indexes[tp]
            if not self._live.of(tp) and not index.files:
                index.rebuild([], wanted)
            else:
                rebuild_index(table, _key(table), tp, self._live, gone, index, wanted)
        return bool(outdated)

    def _outdated(
        self, indexes: Mapping[TopicPartition, PartitionIndex], table: Table, state: SinkState
    ) -> dict[TopicPartition, IndexState]:
        """The partitions whose index isn't at the table's state, and that state."""
        snapshot_id = table.metadata.current_snapshot_id
        wanted = {tp: IndexState(state.offsets.get(tp, 0), self._live.fingerprint(tp), snapshot_id) for tp in indexes}
        return {tp: state for tp, state in wanted.items() if indexes[tp].state != state}

    def stage(self, staging: Staging, batch: Batch, table: Table) -> RowDelta:
        """Write the files of a batch: upserted rows, and deletes of the rows that they replace."""
        if not any(change.rows.num_rows for change in batch.changes):
            return RowDelta([], [], ())
        reduced = reduce(batch, partial(self._current, table))
        self._live.width.saw(reduced.upserts)
        key = tuple(sorted(reduced.key))  # in the order of a rebuild, which can't know the source's
        changed = list(by_partition(reduced, batch))
        staged = staging.data_files({tp: upserts for tp, upserts, _ in changed if upserts.num_rows})
        parts: list[PartitionDelta] = []
        stale: dict[tuple[int, str], list[tuple[TopicPartition, LiveFile, npt.NDArray[np.uint32]]]] = defaultdict(list)
        for tp, upserts, deletes in changed:
            index = self._partitions[tp]
            keys = pa.concat_tables([upserts.select(list(key)), deletes.select(list(key))])
            replaced = {}
            for file_id, rows in by_file(index.look_up(keys)) if not reduced.truncated else ():
                file = self._live_file(index.files[file_id].path, tp)
                stale[file.group].append((tp, file, rows))
                replaced[file_id] = len(rows)
            removed = deletes.select(list(key)) if deletes.num_rows else None
            parts.append(PartitionDelta(tp, staged.get(tp, []), removed, replaced))

        def delete_file(group: list[tuple[TopicPartition, LiveFile, npt.NDArray[np.uint32]]]) -> DataFile:
            owner, place = min(tp for tp, _, _ in group), group[0][1]
            deleted = DeletedRows.of((file.path, rows) for _, file, rows in group)
            return staging.position_deletes(owner, deleted, place.spec_id, place.partition)

        return RowDelta(parts, at_once(delete_file, stale.values()), key, reduced.truncated)

    def _current(self, table: Table, rows: pa.Table, columns: Sequence[str], key: Sequence[str]) -> pa.Table:
        """The table's rows with the keys of these: those columns and the key. Reads them whole from the rows' files."""
        fields = [table.schema().find_field(name) for name in (*key, *columns) if name in table.schema().column_names]
        names = {field.field_id: field.name for field in fields}
        found: list[pa.Table] = []
        for tp, index in self._partitions.items():
            of_partition = rows_of(rows, tp)
            keys = of_partition.select(sorted(key))
            for file_id, positions in by_file(index.look_up(keys)) if keys.num_rows else ():
                with open_parquet(table.io, index.files[file_id].path) as parquet:
                    found.append(columns_by_id(parquet, names).take(pa.array(positions)))
        return pa.concat_tables(found, promote_options="permissive") if found else pa.table({})

    def due(self, partitions: Collection[TopicPartition], when: Patience | Compaction) -> Step | None:
        """What there is to tidy in the files of these partitions."""
        return due(self._live, when, {tp: self._partitions[tp].files for tp in partitions if tp in self._partitions})

    def rewrite(self, step: Step, staging: Staging, table: Table, partitions: Collection[TopicPartition]) -> Tidied:
        """Write the files of a tidying step."""
        try:
            return stage(step, staging, table, self._live, partitions, _key(table), counted=True)
        except IndexDamaged:
            for tp in {tp for tp, _ in step.data}:
                self._partitions[tp].clear()
            raise

    def forget(self) -> None:
        """Take the partitions' entries from the index anew: it was damaged."""
        self._partitions.clear()

    def landed(self, delta: RowDelta, batch: Batch, snapshot_id: int) -> None:
        """The snapshot with `delta` is the table's: record it."""
        try:
            self._record(delta, batch, snapshot_id)
        except IndexDamaged:  # the commit stands; the next one rebuilds
            self.forget()

    def tidied(self, tidied: Tidied, snapshot_id: int) -> None:
        """The snapshot with these rewritten files is the table's: record it."""
        try:
            for tp in tidied.partitions:
                index = self._partitions[tp]
                assert index.state is not None
                gone = [index.files[file_id].path for file_id in tidied.dropped[tp]]
                placed = tidied.placed[tp]
                files = fingerprint((rows.path for rows in placed), index.state.files, gone)
                state = IndexState(index.state.next_offset, files, snapshot_id)
                index.apply(placed, None, {}, tidied.dropped[tp], state)
        except IndexDamaged:
            self.forget()

    def _record(self, delta: RowDelta, batch: Batch, snapshot_id: int) -> None:
        done = {part.tp: part for part in delta.parts}
        for tp, span in batch.ranges.items():
            part = done.get(tp, PartitionDelta(tp, [], None, {}))
            index = self._partitions[tp]
            assert index.state is not None
            placed = [PlacedRows(s.file.file_path, s.rows.select(list(delta.key))) for s in part.staged]
            files = fingerprint((rows.path for rows in placed), 0 if delta.truncated else index.state.files)
            gone = list(index.files) if delta.truncated else []
            index.apply(placed, part.removed, part.replaced, gone, IndexState(span.next, files, snapshot_id))
        self._commits += 1
        if self._commits % FLUSH_EVERY == 0:
            self._index.flush()

    def _of(self, table: Table, tp: TopicPartition) -> PartitionIndex:
        if tp not in self._partitions:
            self._partitions[tp] = self._index.partition(str(table.metadata.table_uuid), tp.topic, tp.partition)
        return self._partitions[tp]

    def _live_file(self, path: str, tp: TopicPartition) -> LiveFile:
        file = self._live.data.get(path)
        if file is None:  # the index was just compared with the live files: this can't be
            raise PipelineStopped(f"{tp.topic}/{tp.partition}: the key index names {path}, which isn't in the table")
        return file


def _key(table: Table) -> tuple[str, ...]:
    """The key columns in the index's order."""
    return tuple(sorted(table.schema().identifier_field_names()))
