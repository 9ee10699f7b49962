"""The data files of the current snapshot, by owner, kept up to date as cheaply as the history allows.

After a commit of ours the change is known. After commits of other workers of the same sink nothing of ours changed
(each touches its own Kafka partitions only), which the table's offsets show. After anything else (another writer's
compaction, a rollback) the manifests are read anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pyiceberg.io import FileIO
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat, ManifestEntry
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.typedef import Record

from config.errors import PipelineStopped
from sinks.iceberg.files import owner_of, topic_hash
from sources.changes import TopicPartition
from tables.key_index import fingerprint


@dataclass(frozen=True)
class Place:
    """Where a data file stands in the table: its partition spec and partition, for the delete files that name it."""

    spec_id: int
    partition: Record


@dataclass
class LiveFiles:
    """Data files by owner (topic hash, Kafka partition; None for foreign ones), as of `snapshot_id`."""

    snapshot_id: int | None = None
    places: dict[str, Place] = field(default_factory=dict)
    owned: dict[tuple[str, int] | None, set[str]] = field(default_factory=dict)

    def read(self, metadata: TableMetadata, io: FileIO) -> None:
        """All of the current snapshot, from its manifests."""
        self.places.clear()
        self.owned.clear()
        for entry in live_entries(metadata, io):
            if entry.data_file.content == DataFileContent.DATA:
                self._add(entry.data_file)
        self.snapshot_id = metadata.current_snapshot_id

    def committed(self, snapshot_id: int, files: Iterable[DataFile]) -> None:
        """A snapshot of ours added these."""
        for file in files:
            if file.content == DataFileContent.DATA:
                self._add(file)
        self.snapshot_id = snapshot_id

    def of(self, tp: TopicPartition) -> set[str]:
        """The paths of files that may hold rows of a Kafka partition: its own and the foreign ones."""
        return self.owned.get((topic_hash(tp.topic), tp.partition), set()) | self.owned.get(None, set())

    def fingerprint(self, tp: TopicPartition) -> int:
        """The hash of `of`."""
        return fingerprint(self.of(tp))

    def _add(self, file: DataFile) -> None:
        self.places[file.file_path] = Place(file.spec_id, file.partition)
        self.owned.setdefault(owner_of(file.file_path), set()).add(file.file_path)


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
