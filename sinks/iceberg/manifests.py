"""Manifests: writing those of a commit, and merging small ones so that their number stays logarithmic.

Merging is tiered: when `MERGE_COUNT` manifests of one content, spec and size class have gathered, they become one of
the next class. Each entry is so rewritten a few times in its life, however many commits follow.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Final
from uuid import uuid4

from pyiceberg.io import FileIO, OutputFile
from pyiceberg.manifest import (
    DataFile,
    DataFileContent,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestFile,
    ManifestWriterV2,
)
from pyiceberg.partitioning import PartitionSpec
from pyiceberg.table.locations import load_location_provider
from pyiceberg.table.metadata import TableMetadata

MERGE_COUNT = 20
CODEC: Final = "deflate"


class DeleteManifestWriter(ManifestWriterV2):
    """Writes manifests of delete files; PyIceberg's own writers only know data."""

    def content(self) -> ManifestContent:
        return ManifestContent.DELETES

    @property
    def _meta(self) -> dict[str, str]:
        return {**super()._meta, "content": "deletes"}


WRITERS: dict[ManifestContent, type[ManifestWriterV2]] = {
    ManifestContent.DATA: ManifestWriterV2,
    ManifestContent.DELETES: DeleteManifestWriter,
}


class Manifests:
    """The manifests of one snapshot to be: those that the current one has, and new ones."""

    def __init__(self, metadata: TableMetadata, io: FileIO, snapshot_id: int) -> None:
        self._metadata = metadata
        self._io = io
        self._snapshot_id = snapshot_id
        self._locations = load_location_provider(metadata.location, metadata.properties)
        self.written: list[str] = []

    def current(self) -> list[ManifestFile]:
        """The current snapshot's manifests."""
        snapshot = self._metadata.current_snapshot()
        return [] if snapshot is None else list(snapshot.manifests(self._io))

    def add(self, files: Iterable[DataFile]) -> list[ManifestFile]:
        """New manifests over new files: one per content and partition spec."""
        groups: dict[tuple[ManifestContent, int], list[DataFile]] = defaultdict(list)
        for file in files:
            data = file.content == DataFileContent.DATA
            groups[ManifestContent.DATA if data else ManifestContent.DELETES, file.spec_id].append(file)
        return [
            self._write(content, spec_id, [(ManifestEntryStatus.ADDED, self._entry(file)) for file in group])
            for (content, spec_id), group in groups.items()
        ]

    def merge(self, manifests: list[ManifestFile]) -> list[ManifestFile]:
        """The same entries in fewer manifests, where enough small ones have gathered."""
        classes: dict[tuple[ManifestContent, int, int], list[ManifestFile]] = defaultdict(list)
        for manifest in manifests:
            classes[manifest.content, manifest.partition_spec_id, _size_class(manifest)].append(manifest)
        merged: list[ManifestFile] = []
        for (content, spec_id, _), group in classes.items():
            merged += [self._merged(content, spec_id, group)] if len(group) >= MERGE_COUNT else group
        return merged

    def output(self, name: str) -> OutputFile:
        """A new metadata file; remembered, to be removed if the commit doesn't land."""
        path = self._locations.new_metadata_location(name)
        self.written.append(path)
        return self._io.new_output(path)

    def discard(self) -> None:
        """Remove what was written for a commit that didn't land."""
        for path in self.written:
            self._io.delete(path)

    def _merged(self, content: ManifestContent, spec_id: int, group: list[ManifestFile]) -> ManifestFile:
        entries = []
        for manifest in group:
            for entry in manifest.fetch_manifest_entry(self._io):
                added_now = entry.snapshot_id == self._snapshot_id
                entries.append((ManifestEntryStatus.ADDED if added_now else ManifestEntryStatus.EXISTING, entry))
        return self._write(content, spec_id, entries)

    def _write(
        self, content: ManifestContent, spec_id: int, entries: list[tuple[ManifestEntryStatus, ManifestEntry]]
    ) -> ManifestFile:
        spec: PartitionSpec = self._metadata.specs()[spec_id]
        output = self.output(f"{uuid4()}-m0.avro")
        writer = WRITERS[content](spec, self._metadata.schema(), output, self._snapshot_id, CODEC)
        with writer:
            for status, entry in entries:
                write: Callable[[ManifestEntry], object] = (
                    writer.add if status == ManifestEntryStatus.ADDED else writer.existing
                )
                write(entry)
        return writer.to_manifest_file()

    def _entry(self, file: DataFile) -> ManifestEntry:
        return ManifestEntry.from_args(
            status=ManifestEntryStatus.ADDED,
            snapshot_id=self._snapshot_id,
            sequence_number=None,
            file_sequence_number=None,
            data_file=file,
        )


def _size_class(manifest: ManifestFile) -> int:
    """How often a manifest's entries have been merged: 0 below `MERGE_COUNT` entries, 1 below its square, …"""
    entries = (manifest.added_files_count or 0) + (manifest.existing_files_count or 0)
    size_class = 0
    while entries >= MERGE_COUNT:
        entries //= MERGE_COUNT
        size_class += 1
    return size_class
