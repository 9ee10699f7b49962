"""The files of the current snapshot, by owner, kept up to date as cheaply as the history allows.

After a commit of ours the change is known. A commit of another worker of the same sink touches its own Kafka
partitions only, and moves their offsets (or says that it tidied their files): what is known of the others stays true.
So the files of a partition are known at an offset; once the table shows another one (the partition came here from
another worker), or after anything else (another writer's compaction, a rollback), the manifests are read anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pyiceberg.io import FileIO
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat, ManifestEntry
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.typedef import Record

from config.errors import PipelineStopped
from sinks.base import Target
from sinks.iceberg.state import lineage, offsets_key, summary_entries, tidied_key
from sinks.owners import owner_id, owner_of
from sinks.tiers import Width
from sources.changes import TopicPartition
from tables.key_index import IndexedFile, fingerprint


@dataclass(frozen=True)
class LiveFile:
    """A data or delete file of the table: its partition spec and partition (for the delete files that name it), rows,
    and size in bytes."""

    path: str
    spec_id: int
    partition: Record
    rows: int
    size: int

    @property
    def group(self) -> tuple[int, str]:
        """What files that may be merged have in common."""
        return self.spec_id, repr(self.partition)


@dataclass
class LiveFiles:
    """Data files by path, and by owner (topic hash, Kafka partition; None for foreign ones); delete files by path.

    Those of a Kafka partition are true at the table's next offset of it in `offsets`, the foreign ones as of
    `snapshot_id`. Foreign delete files count as foreign files: they may have taken rows away. With `largest`, data
    files of more bytes aren't kept. `width` is that of rows in memory.
    """

    target: Target
    largest: int | None = None
    known: bool = False
    snapshot_id: int | None = None
    offsets: dict[TopicPartition, int] = field(default_factory=dict)
    data: dict[str, LiveFile] = field(default_factory=dict)
    deletes: dict[str, LiveFile] = field(default_factory=dict)
    owned: dict[tuple[str, int] | None, set[str]] = field(default_factory=dict)
    width: Width = field(default_factory=Width)

    def catch_up(
        self, table: Table, offsets: Mapping[TopicPartition, int], partitions: Iterable[TopicPartition]
    ) -> bool:
        """Bring it to the table's current snapshot: at no cost if only we, or other workers for partitions of theirs,
        have committed since. `offsets` are the table's, `partitions` those that must be known. True if it was read
        from the table."""
        self._forget_tidied(table)
        if self.known and all(self.offsets.get(tp) == offsets.get(tp) for tp in partitions):
            self.snapshot_id = table.metadata.current_snapshot_id
            return False
        self.read(table.metadata, table.io, offsets)
        return True

    def _forget_tidied(self, table: Table) -> None:
        """Forget the partitions whose files were tidied since the snapshot that we know, which no offset tells, and
        everything if a snapshot since then isn't this sink's."""
        tidied: set[TopicPartition] = set()
        for snapshot in lineage(table.metadata, table.metadata.current_snapshot_id):
            if snapshot.snapshot_id == self.snapshot_id:
                break
            summary = summary_entries(snapshot)
            if offsets_key(self.target) not in summary:
                self.known = False
                return
            for topic, numbers in json.loads(summary.get(tidied_key(self.target), "{}")).items():
                tidied |= {TopicPartition(topic, number) for number in numbers}
        else:
            self.known = self.known and self.snapshot_id == table.metadata.current_snapshot_id
        for tp in tidied:
            self.offsets.pop(tp, None)

    def read(self, metadata: TableMetadata, io: FileIO, offsets: Mapping[TopicPartition, int]) -> None:
        """All of the current snapshot, from its manifests; `offsets` are the table's."""
        self.begin_at(metadata, offsets)
        self.known = False
        for entry in live_entries(metadata, io):
            self._add(entry.data_file)
        self.known = True

    def begin_at(self, metadata: TableMetadata, offsets: Mapping[TopicPartition, int]) -> None:
        """Nothing of the current snapshot, only what comes after it."""
        self.data.clear()
        self.deletes.clear()
        self.owned.clear()
        self.known = True
        self.snapshot_id = metadata.current_snapshot_id
        self.offsets = dict(offsets)

    def committed(
        self, snapshot: Snapshot, added: Iterable[DataFile], removed: Iterable[str], moved: Mapping[TopicPartition, int]
    ) -> None:
        """A snapshot of ours added and removed these files, and moved these offsets."""
        if not self.known:
            return
        if snapshot.parent_snapshot_id == self.snapshot_id:  # else there is one between that nobody has looked at
            self.snapshot_id = snapshot.snapshot_id
        for path in removed:
            self.deletes.pop(path, None)
            self.data.pop(path, None)
            self.owned.get(owner_of(path), set()).discard(path)
        for file in added:
            self._add(file)
        self.offsets |= moved

    def forget(self) -> None:
        """Nothing is known any more: the next look reads the manifests."""
        self.known = False

    def paths(self) -> list[str]:
        """All files."""
        return [*self.data, *self.deletes]

    def of(self, tp: TopicPartition) -> set[str]:
        """The paths of files that may hold rows of a Kafka partition: its own and the foreign ones."""
        return self.owned.get(owner_id(tp), set()) | self.owned.get(None, set())

    def indexed(self, tp: TopicPartition, dead: Mapping[str, int]) -> dict[int, IndexedFile]:
        """A Kafka partition's own data files as a key index would have them, with so many dead rows by path."""
        owned = sorted(self.owned.get(owner_id(tp), ()))
        return {n: IndexedFile(path, self.data[path].rows, dead.get(path, 0)) for n, path in enumerate(owned)}

    def fingerprint(self, tp: TopicPartition) -> int:
        """The hash of `of`."""
        return fingerprint(self.of(tp))

    def _add(self, file: DataFile) -> None:
        live = LiveFile(file.file_path, file.spec_id, file.partition, file.record_count, file.file_size_in_bytes)
        owner = owner_of(file.file_path)
        if file.content == DataFileContent.DATA:
            if self.largest is not None and live.size > self.largest:
                return
            self.data[file.file_path] = live
            self.owned.setdefault(owner, set()).add(file.file_path)
            return
        self.deletes[file.file_path] = live
        if owner is None:
            self.owned.setdefault(None, set()).add(file.file_path)


def live_entries(metadata: TableMetadata, io: FileIO) -> Iterable[ManifestEntry]:
    """The live entries of the current snapshot, data and deletes. Refuses deletes that Lakeward can't apply."""
    snapshot = metadata.current_snapshot()
    for manifest in snapshot.manifests(io) if snapshot else ():
        for entry in manifest.fetch_manifest_entry(io):
            file = entry.data_file
            if file.content == DataFileContent.EQUALITY_DELETES or file.file_format == FileFormat.PUFFIN:
                raise PipelineStopped(
                    f"the table at {metadata.location} holds {file.content.name.lower()} in {file.file_path}, written"
                    " by another engine: compact the table there (Spark: rewrite_data_files, delete-file-threshold 1)"
                    " and restart"
                )
            yield entry
