"""Turning a folded batch into data files and deletion vectors, by the key index, and keeping that in step with the log.

A row that is replaced lies where the index says. Its data file is named twice by the commit: taken away with its old
vector, added with the new one. Such a file stays even when its last row went, until tidying takes it: the change data
feed of delta-rs takes all rows of a file that is removed for good for deleted just then, whatever its vector says.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import structlog
from pyroaring import BitMap

from config.errors import PipelineStopped
from sinks.base import Batch
from sinks.changed_rows import by_file, by_partition, rows_of
from sinks.delta.actions import Action, DataFile, Snapshot, now_ms
from sinks.delta.files import LakeFiles
from sinks.delta.log import TableLog
from sinks.delta.schema import in_shape
from sinks.delta.vectors import bitmap_of
from sinks.index_upkeep import FLUSH_EVERY, rebuilt, rows_of_partition, told
from sinks.owners import owner_id
from sinks.reduce import reduce
from sinks.tiers import Files, Width
from sources.changes import CDC_PARTITION, CDC_TOPIC, TopicPartition
from tables.index_database import IndexDamaged
from tables.key_index import FileKeys, IndexState, KeyIndex, PartitionIndex, PlacedRows, fingerprint

log = structlog.get_logger("lakeward.delta")

LONGEST_HISTORY = 200
"""Commits since the index's state that are looked at for what they changed; after more all files are read."""


@dataclass
class Delta:
    """The files of one commit, written but not committed, and what the index learns of it when it lands.

    `written`: the paths of new files, below the table's folder. `placed`, `gone`: rows that come and keys that go.
    `replaced`: how many rows of which files (by their ids in the index) are taken away. `dropped`: files that go.
    `truncated`: all rows go that were there.
    """

    added: list[DataFile] = field(default_factory=list)
    removed: list[DataFile] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    placed: dict[TopicPartition, list[PlacedRows]] = field(default_factory=lambda: defaultdict(list))
    gone: dict[TopicPartition, pa.Table] = field(default_factory=dict)
    replaced: dict[TopicPartition, Mapping[int, int]] = field(default_factory=dict)
    truncated: bool = False
    dropped: dict[TopicPartition, list[int]] = field(default_factory=lambda: defaultdict(list))

    def actions(self, *, changes: bool) -> list[Action]:
        """As the commit has them; `changes` says whether rows change by it, or only move."""
        now = now_ms()
        removed = [file.remove(now, changes=changes) for file in self.removed]
        return removed + [file.add(changes=changes) for file in self.added]


class Upserts:
    """The key index of one table, kept in step with its log, and the files of commits that it leads to."""

    def __init__(self, name: str, index: KeyIndex, log: TableLog, files: LakeFiles) -> None:
        self._name = name
        self._index = index
        self._log = log
        self._files = files
        self._partitions: dict[TopicPartition, PartitionIndex] = {}
        self._commits = 0
        self.width = Width()

    def catch_up(self, table: Snapshot, offsets: Mapping[TopicPartition, int], key: Sequence[str]) -> None:
        """Make the index true for the partitions of `offsets` (the table's next ones; 0 where it has none).

        Free while the only commits since the last one were ours or touched other partitions. Otherwise the files that
        changed are read, or all of them where that can't be told. Raises IndexDamaged.
        """
        for tp, offset in offsets.items():
            index, wanted = self._of(table, tp), self._state(table, tp, offset)
            if index.state == wanted and not self._may_have_returned(table, index):
                continue
            files = {file.path: file for file in table.files_of(owner_id(tp))}
            if not files and not index.files:
                index.rebuild([], wanted)
                continue
            began = monotonic()
            keep = self._unchanged(table, index, files)
            kept = {index.files[file_id].path for file_id in keep}
            read = [file for path, file in files.items() if path not in kept]
            found = told(self._live_keys(table, tp, key, read), self._name, tp, len(read))
            rows = index.rebuild(found, wanted, keep)
            rebuilt(self._name, tp, read=len(read), kept=len(keep), rows=rows, seconds=monotonic() - began)

    def stage(self, table: Snapshot, batch: Batch) -> Delta:
        """Write the files of a batch: upserted rows, and vectors with the rows that they replace."""
        delta = Delta()
        if not any(change.rows.num_rows for change in batch.changes):
            return delta
        try:
            self._stage(delta, table, batch)
        except BaseException:
            self._files.discard(delta.written)
            raise
        return delta

    def _stage(self, delta: Delta, table: Snapshot, batch: Batch) -> None:
        reduced = reduce(batch, partial(self._current, table))
        self.width.saw(reduced.upserts)
        schema, partition_by = table.columns, table.partition_columns
        key = sorted(reduced.key)  # in the order of a rebuild, which can't know the source's
        kept = pa.schema([schema.field(name) for name in key])
        stale: dict[str, tuple[BitMap, int]] = {}
        if reduced.truncated:
            delta.truncated = True
            stale = {path: self._files.all_rows(file) for path, file in table.files.items()}
        changed = list(by_partition(reduced, batch))
        upserted = {tp: upserts for tp, upserts, _ in changed if upserts.num_rows}
        files = self._files.data_files(upserted, schema, partition_by, delta.written)
        for tp, upserts, deletes in changed:
            if not upserts.num_rows and not deletes.num_rows:
                continue
            index = self._partitions[tp]
            replaced = {}
            keys = in_shape(pa.concat_tables([upserts.select(key), deletes.select(key)]), kept)
            for file_id, rows in by_file(index.look_up(keys)) if not reduced.truncated else ():
                file = index.files[file_id]
                before, _ = stale.get(file.path, (BitMap(), 0))  # a foreign file may hold rows of several partitions
                stale[file.path] = before | bitmap_of(rows), file.rows
                replaced[file_id] = len(rows)
            delta.replaced[tp] = replaced
            if deletes.num_rows:
                delta.gone[tp] = in_shape(deletes.select(key), kept)
            for staged in files.get(tp, ()):
                delta.added.append(staged.file)
                delta.placed[tp].append(PlacedRows(staged.file.path, staged.rows.select(key)))
        self._take_away(delta, table, stale, min(batch.ranges))

    def _current(self, table: Snapshot, rows: pa.Table, columns: Sequence[str], key: Sequence[str]) -> pa.Table:
        """The table's rows with the keys of these: those columns and the key. Reads them whole from the rows' files."""
        schema = table.columns
        names = [*key, *(name for name in columns if name in schema.names)]
        kept = pa.schema([schema.field(name) for name in sorted(key)])
        found: list[pa.Table] = []
        for tp, index in self._partitions.items():
            keys = in_shape(rows_of(rows, tp).select(kept.names), kept)
            for file_id, at in by_file(index.look_up(keys)) if keys.num_rows else ():
                found.append(self._files.rows_at(table.files[index.files[file_id].path], at, schema, names))
        return pa.concat_tables(found) if found else pa.table({})

    def _take_away(
        self, delta: Delta, table: Snapshot, stale: Mapping[str, tuple[BitMap, int]], owner: TopicPartition
    ) -> None:
        """Name the touched files again with their vectors of now."""
        bitmaps = []
        for path, (rows, _) in stale.items():
            file = table.files.get(path)
            if file is None:  # the index was just compared with the table's files: this can't be
                raise PipelineStopped(f"{self._name}: the key index names {path}, which isn't in the table")
            delta.removed.append(file)
            bitmaps.append(self._files.gone(file) | rows)
        if bitmaps:
            vectors, path = self._files.vectors(bitmaps, owner)
            delta.written.append(path)
            for file, vector, (_, count) in zip(list(delta.removed), vectors, stale.values(), strict=True):
                delta.added.append(file.with_vector(vector, count))

    def landed(self, delta: Delta, table: Snapshot, offsets: Mapping[TopicPartition, int]) -> None:
        """The table has the commit with `delta`: record it for these partitions, at their offsets."""
        try:
            for tp, offset in offsets.items():
                if delta.truncated:
                    self._emptied(delta, table, tp, offset)
                    continue
                self._partitions[tp].apply(
                    delta.placed.get(tp, ()), delta.gone.get(tp), delta.replaced.get(tp, {}), delta.dropped.get(tp, ()),
                    self._state(table, tp, offset),
                )  # fmt: skip
            self._commits += 1
            if self._commits % FLUSH_EVERY == 0:
                self._index.flush()
        except IndexDamaged:  # the commit stands; the next one rebuilds
            self.forget()

    def _emptied(self, delta: Delta, table: Snapshot, tp: TopicPartition, offset: int) -> None:
        """Begin the index anew behind a truncate: the files that were there have no live row, and wait to be tidied."""
        placed = {rows.path: rows.keys for rows in delta.placed.get(tp, ())}
        none = next(iter(placed.values())).slice(0, 0) if placed else pa.table({})
        files = []
        for file in table.files_of(owner_id(tp)):
            keys = placed.get(file.path, none)
            if file.owner is not None:
                files.append(FileKeys(file.path, file.rows or 0, keys, np.arange(keys.num_rows, dtype=np.uint32)))
        self._partitions[tp].rebuild(files, self._state(table, tp, offset))

    def known(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, Files]:
        """The data files of partitions that were caught up with, as the index counts them."""
        return {tp: self._partitions[tp].files for tp in partitions if tp in self._partitions}

    def forget(self) -> None:
        """Take the partitions' entries from the index anew: it was damaged."""
        self._partitions.clear()

    def distrust(self, partitions: Collection[TopicPartition]) -> None:
        """Remove the partitions' entries, so that they are made anew: they say other than the files."""
        try:
            for tp in partitions:
                if tp in self._partitions:
                    self._partitions[tp].clear()
        except IndexDamaged as damage:  # the database was thrown away as a whole
            log.warning("delta.index_damaged", table=self._name, reason=str(damage))
        self.forget()

    # -- in step with the table

    def _unchanged(self, table: Snapshot, index: PartitionIndex, files: Mapping[str, DataFile]) -> set[int]:
        """The files whose live rows are those that the index knows: as many are gone, and since the index's version
        none came back. Of a foreign file, which may hold rows of other partitions, too, the numbers say less."""
        since = None if index.state is None else index.state.snapshot_id
        if since is None or not 0 <= table.version - since <= LONGEST_HISTORY:
            return set()
        commits = self._log.between(since + 1, table.version)
        if commits is None:
            return set()
        returned = {path for commit in commits for path in _returned(commit)}
        return {
            file_id
            for file_id, known in index.files.items()
            if (file := files.get(known.path)) and file.owner and file.dead == known.dead and file.path not in returned
        }

    def _may_have_returned(self, table: Snapshot, index: PartitionIndex) -> bool:
        """Whether rows of another writer's file may have come back unseen since the index's version: by a restore
        before the checkpoint with which reading the table began."""
        since = -1 if index.state is None or index.state.snapshot_id is None else index.state.snapshot_id
        if since >= table.read_whole_at or not table.foreign_files:
            return False
        if table.read_whole_at - since > LONGEST_HISTORY:
            return True
        commits = self._log.between(since + 1, table.read_whole_at)
        if commits is None:
            return True
        returned = {path for commit in commits for path in _returned(commit)}
        return any(path in returned for path in table.foreign_files)

    def _live_keys(
        self, table: Snapshot, tp: TopicPartition, key: Sequence[str], files: Collection[DataFile]
    ) -> Iterator[FileKeys]:
        schema = table.columns
        for file in files:
            names = [*key, CDC_TOPIC, CDC_PARTITION] if file.owner is None else [*key]
            parquet = self._files.open(file)
            rows, live, count = self._files.live_rows(file, parquet, schema, list(dict.fromkeys(names)))
            positions: npt.NDArray[np.uint32] = live
            if file.owner is None:
                mask = rows_of_partition(rows, tp, file.path)
                rows, positions = rows.filter(pa.array(mask)), live[mask]
            if len(positions) or file.owner:  # ours without a live row is there to be tidied
                yield FileKeys(file.path, count, rows.select(list(key)), positions)

    def _state(self, table: Snapshot, tp: TopicPartition, offset: int) -> IndexState:
        return IndexState(offset, fingerprint(file.identity for file in table.files_of(owner_id(tp))), table.version)

    def _of(self, table: Snapshot, tp: TopicPartition) -> PartitionIndex:
        if tp not in self._partitions:
            self._partitions[tp] = self._index.partition(table.metadata["id"], tp.topic, tp.partition)
        return self._partitions[tp]


def _returned(commit: Sequence[Action]) -> Iterator[str]:
    """The data files of which rows may have come back by a commit: that were added with fewer rows gone than before
    (a restore)."""
    before = {
        body["path"]: _cardinality(body) for action in commit for kind, body in action.items() if kind == "remove"
    }
    for action in commit:
        for kind, body in action.items():
            if kind == "add" and _cardinality(body) < before.get(body["path"], 1 << 62):
                yield body["path"]


def _cardinality(body: Mapping[str, Any]) -> int:
    vector = body.get("deletionVector")
    return 0 if vector is None else int(vector["cardinality"])
