"""Turning a folded batch into a row delta: what the key index knows of the changed keys, and how it moves along."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from time import monotonic

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import structlog
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table

from config.errors import PipelineStopped
from sinks.base import Batch
from sinks.iceberg.files import StagedRows, Staging
from sinks.iceberg.live_files import LiveFiles, Place
from sinks.iceberg.rebuild import live_keys
from sinks.iceberg.state import SinkState
from sinks.reduce import Reduced, reduce
from sources.changes import CDC_PARTITION, CDC_TOPIC, TopicPartition
from tables.index_database import IndexDamaged
from tables.key_index import IndexState, KeyIndex, PartitionIndex, Positions, fingerprint

log = structlog.get_logger("lakeward.index")


@dataclass(frozen=True)
class PartitionDelta:
    """One Kafka partition's part of a row delta."""

    tp: TopicPartition
    staged: list[StagedRows]
    removed: pa.Table | None


@dataclass(frozen=True)
class RowDelta:
    """Staged files of an upsert: data and position deletes, and what the index has to learn when they land.

    `key` is in the index's order: by name.
    """

    parts: list[PartitionDelta]
    deletes: list[DataFile]
    key: tuple[str, ...]

    @property
    def files(self) -> list[DataFile]:
        """All files of the commit."""
        return [staged.file for part in self.parts for staged in part.staged] + self.deletes


class Upserts:
    """The key index of one table, kept in step with it."""

    def __init__(self, index: KeyIndex, live: LiveFiles, offsets_key: str) -> None:
        self._index = index
        self._offsets_key = offsets_key
        self._live = live
        self._partitions: dict[TopicPartition, PartitionIndex] = {}

    def catch_up(self, table: Table, state: SinkState, batch: Batch, key: tuple[str, ...]) -> bool:
        """Make the index true for the partitions of `batch`, at the table's current snapshot; False if it was.

        Cheap while the only commits since the last one were ours or touched other partitions; a full rebuild of a
        partition otherwise (nothing recorded, a crash, another engine's rewrite, a rollback).
        """
        partitions = {tp: self._of(table, tp) for tp in batch.ranges}
        current = table.metadata.current_snapshot_id
        if self._live.knows(partitions, state.offsets) and self._only_this_sink(table):
            self._live.snapshot_id = current
        else:
            self._live.read(table.metadata, table.io, state.offsets)
        rebuilt = False
        for tp, partition in partitions.items():
            offset = state.offsets.get(tp, 0)
            wanted = IndexState(offset, self._live.fingerprint(tp))
            if partition.state == wanted:
                continue
            rebuilt = True
            if not self._live.of(tp) and not partition.paths:
                partition.rebuild([], wanted.next_offset, wanted.files)
                continue
            began = monotonic()
            files = live_keys(table, key, tp, self._live.of(tp))
            rows = partition.rebuild(files, wanted.next_offset, wanted.files)
            seconds = monotonic() - began
            log.info("index.rebuilt", table=".".join(table.name()), topic=tp.topic, partition=tp.partition, rows=rows,
                     seconds=round(seconds, 3), rows_per_s=round(rows / max(seconds, 1e-9)))  # fmt: skip
        return rebuilt

    def stage(self, staging: Staging, batch: Batch) -> RowDelta:
        """Write the files of a batch: upserted rows, and deletes of the rows that they replace."""
        if not any(change.rows.num_rows for change in batch.changes):
            return RowDelta([], [], ())
        reduced = reduce(batch)
        key = tuple(sorted(reduced.key))  # in the order of a rebuild, which can't know the source's
        parts: list[PartitionDelta] = []
        stale: dict[tuple[int, str], list[tuple[str, npt.NDArray[np.uint32], Place]]] = defaultdict(list)
        for tp, upserts, deletes in _by_partition(reduced, batch):
            partition = self._partitions[tp]
            keys = pa.concat_tables([upserts.select(list(key)), deletes.select(list(key))])
            for path, rows in _by_file(partition.look_up(keys), partition):
                place = self._place(path, tp)
                stale[place.spec_id, repr(place.partition)].append((path, rows, place))
            staged = list(staging.data_files(tp, upserts)) if upserts.num_rows else []
            removed = deletes.select(list(key)) if deletes.num_rows else None
            parts.append(PartitionDelta(tp, staged, removed))
        delete_files = []
        for group in stale.values():
            paths = np.concatenate([np.full(len(rows), path, dtype=object) for path, rows, _ in group])
            rows = np.concatenate([rows for _, rows, _ in group])
            place = group[0][2]
            delete_files.append(staging.position_deletes(paths, rows, place.spec_id, place.partition))
        return RowDelta(parts, delete_files, key)

    def forget(self) -> None:
        """Take the partitions' entries from the index anew: it was damaged."""
        self._partitions.clear()

    def landed(self, delta: RowDelta, batch: Batch) -> None:
        """The snapshot with `delta` is the table's: record it."""
        try:
            self._record(delta, batch)
        except IndexDamaged:  # the commit stands; the next one rebuilds
            self.forget()

    def _record(self, delta: RowDelta, batch: Batch) -> None:
        done = {part.tp: part for part in delta.parts}
        for tp, span in batch.ranges.items():
            part = done.get(tp, PartitionDelta(tp, [], None))
            partition = self._partitions[tp]
            assert partition.state is not None
            placed = [(s.file.file_path, s.rows.select(list(delta.key))) for s in part.staged]
            files = fingerprint((path for path, _ in placed), partition.state.files)
            partition.apply(placed, part.removed, span.next, files)

    def _of(self, table: Table, tp: TopicPartition) -> PartitionIndex:
        if tp not in self._partitions:
            self._partitions[tp] = self._index.partition(str(table.metadata.table_uuid), tp.topic, tp.partition)
        return self._partitions[tp]

    def _only_this_sink(self, table: Table) -> bool:
        """Whether all snapshots since the one we know are this sink's: commits of ours or of other workers."""
        snapshots = {snapshot.snapshot_id: snapshot for snapshot in table.metadata.snapshots}
        snapshot = snapshots.get(table.metadata.current_snapshot_id or -1)
        while snapshot is not None and snapshot.snapshot_id != self._live.snapshot_id:
            if snapshot.summary is None or self._offsets_key not in snapshot.summary.additional_properties:
                return False
            snapshot = snapshots.get(snapshot.parent_snapshot_id or -1)
        return snapshot is not None or self._live.snapshot_id == table.metadata.current_snapshot_id

    def _place(self, path: str, tp: TopicPartition) -> Place:
        place = self._live.places.get(path)
        if place is None:  # the index was just compared with the live files: this can't be
            raise PipelineStopped(f"{tp.topic}/{tp.partition}: the key index names {path}, which isn't in the table")
        return place


def _by_partition(reduced: Reduced, batch: Batch) -> Iterator[tuple[TopicPartition, pa.Table, pa.Table]]:
    """Upserted and deleted rows of each Kafka partition."""
    partitions = list(dict.fromkeys(change.tp for change in batch.changes))
    if len(partitions) == 1:
        yield partitions[0], reduced.upserts, reduced.deletes
        return
    for tp in partitions:
        yield tp, _rows_of(reduced.upserts, tp), _rows_of(reduced.deletes, tp)


def _rows_of(rows: pa.Table, tp: TopicPartition) -> pa.Table:
    of_partition = pc.equal(rows.column(CDC_PARTITION), tp.partition)
    return rows.filter(pc.and_(of_partition, pc.equal(rows.column(CDC_TOPIC), tp.topic)))


def _by_file(found: Positions, partition: PartitionIndex) -> Iterator[tuple[str, npt.NDArray[np.uint32]]]:
    """The looked-up positions of each file."""
    order = np.argsort(found.file_ids, kind="stable")
    ids, rows = found.file_ids[order], found.rows[order]
    unique, starts = np.unique(ids, return_index=True)
    for file_id, of_file in zip(unique, np.split(rows, starts[1:]), strict=False):
        yield partition.paths[int(file_id)], of_file
