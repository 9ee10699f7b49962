"""Manifests: writing those of a commit, and merging small ones so that their number stays logarithmic.

A file that a commit removes stays in its snapshot's manifest as a deleted entry (Iceberg spec, Manifest Entry Fields),
by which the history knows what became unneeded, and is left out of the next one.

Merging is tiered: when `MERGE_COUNT` manifests of one content, spec and size class have gathered, they become one of
the next class. Each entry is so rewritten a few times in its life, however many commits follow.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
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
    write_manifest_list,
)
from pyiceberg.partitioning import PartitionSpec
from pyiceberg.table.locations import load_location_provider
from pyiceberg.table.metadata import TableMetadata

from sinks.at_once import at_once

MERGE_COUNT = 20
CODEC: Final = "deflate"


Entry = tuple[ManifestEntryStatus, ManifestEntry]
"""A manifest entry and how it stands in the manifest to be written."""


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


class FilesGone(Exception):
    """Files that were to be removed aren't in the table any more."""


class Manifests:
    """The manifests of one snapshot to be: those that the current one has, and new ones.

    `contents` remembers which files the live manifests hold, from one snapshot to the next; `removed` describes the
    files that this snapshot takes away.
    """

    def __init__(
        self, metadata: TableMetadata, io: FileIO, snapshot_id: int, contents: dict[str, frozenset[str]] | None = None
    ) -> None:
        self._contents = {} if contents is None else contents
        self.removed: list[DataFile] = []
        self._metadata = metadata
        self._io = io
        self._snapshot_id = snapshot_id
        self._locations = load_location_provider(metadata.location, metadata.properties)
        self.written: list[str] = []

    def current(self) -> list[ManifestFile]:
        """The current snapshot's manifests."""
        snapshot = self._metadata.current_snapshot()
        return [] if snapshot is None else list(snapshot.manifests(self._io))

    def with_files(self, files: Iterable[DataFile], removed: Collection[str] = ()) -> list[ManifestFile]:
        """The current manifests with new files and without removed ones, merged where enough small ones have gathered.

        Raises FilesGone if one of those to be removed isn't there.
        """
        changed: dict[tuple[ManifestContent, int], list[Entry]] = defaultdict(list)
        for file in files:
            data = file.content == DataFileContent.DATA
            content = ManifestContent.DATA if data else ManifestContent.DELETES
            changed[content, file.spec_id].append((ManifestEntryStatus.ADDED, self._entry(file)))
        current = [manifest for manifest in self.current() if _live_count(manifest)]
        self._forget_others(current)
        touched, untouched = self._holding(current, removed) if removed else ([], current)
        for manifest, entries in zip(touched, self._entries(touched), strict=True):
            changed[manifest.content, manifest.partition_spec_id] += self._without(manifest, entries, removed)
        if len(self.removed) != len(removed):
            raise FilesGone(", ".join(sorted(set(removed) - {file.file_path for file in self.removed})[:3]))
        new = {(*where, _size_class(_live(entries))): entries for where, entries in changed.items()}
        groups: dict[tuple[ManifestContent, int, int], list[ManifestFile]] = {where: [] for where in new}
        for manifest in untouched:
            size_class = _size_class(_live_count(manifest))
            groups.setdefault((manifest.content, manifest.partition_spec_id, size_class), []).append(manifest)
        manifests: list[ManifestFile] = []
        for where, group in groups.items():
            written = new.get(where, [])
            if len(group) + bool(written) >= MERGE_COUNT:
                merged = [entry for entries in self._entries(group) for entry in entries]
                written = [*written, *((ManifestEntryStatus.EXISTING, entry) for entry in merged)]
            else:
                manifests += group
            if written:
                content, spec_id, _ = where
                manifests.append(self._write(content, spec_id, written))
        return manifests

    def _holding(
        self, manifests: list[ManifestFile], paths: Collection[str]
    ) -> tuple[list[ManifestFile], list[ManifestFile]]:
        """The manifests that hold some of these files, and the others."""
        unknown = [manifest for manifest in manifests if manifest.manifest_path not in self._contents]
        for manifest, entries in zip(unknown, self._entries(unknown), strict=True):
            self._contents[manifest.manifest_path] = frozenset(entry.data_file.file_path for entry in entries)
        holding = [not self._contents[manifest.manifest_path].isdisjoint(paths) for manifest in manifests]
        return (
            [manifest for manifest, holds in zip(manifests, holding, strict=True) if holds],
            [manifest for manifest, holds in zip(manifests, holding, strict=True) if not holds],
        )

    def _without(
        self, manifest: ManifestFile, entries: Iterable[ManifestEntry], removed: Collection[str]
    ) -> Iterator[Entry]:
        """A manifest's entries, with some of them marked as deleted."""
        for entry in entries:
            gone = entry.data_file.file_path in removed
            if gone:
                self.removed.append(_described(entry.data_file, manifest.partition_spec_id))
            yield (ManifestEntryStatus.DELETED if gone else ManifestEntryStatus.EXISTING), entry

    def _entries(self, manifests: list[ManifestFile]) -> list[list[ManifestEntry]]:
        """The live entries of each."""
        return at_once(lambda manifest: manifest.fetch_manifest_entry(self._io), manifests)

    def _forget_others(self, current: list[ManifestFile]) -> None:
        live = {manifest.manifest_path for manifest in current}
        for path in [path for path in self._contents if path not in live]:
            del self._contents[path]

    def write_list(self, files: Iterable[DataFile], removed: Collection[str] = ()) -> str:
        """The manifest list of the current snapshot's files with these and without those; returns its path."""
        parent = self._metadata.current_snapshot()
        manifests = self.with_files(files, removed)
        output = self.output(f"snap-{self._snapshot_id}-0-{uuid4()}.avro")
        with write_manifest_list(
            self._metadata.format_version,
            output,
            self._snapshot_id,
            parent.snapshot_id if parent else None,
            self._metadata.next_sequence_number(),
            CODEC,
        ) as manifest_list:
            manifest_list.add_manifests(manifests)
        return output.location

    def output(self, name: str) -> OutputFile:
        """A new metadata file; remembered, to be removed if the commit doesn't land."""
        path = self._locations.new_metadata_location(name)
        self.written.append(path)
        return self._io.new_output(path)

    def discard(self) -> None:
        """Remove what was written for a commit that didn't land."""
        for path in self.written:
            self._io.delete(path)  # the one that failed may not be there

    def _write(self, content: ManifestContent, spec_id: int, entries: list[Entry]) -> ManifestFile:
        spec: PartitionSpec = self._metadata.specs()[spec_id]
        output = self.output(f"{uuid4()}-m0.avro")
        writer = WRITERS[content](spec, self._metadata.schema(), output, self._snapshot_id, CODEC)
        with writer:
            write: dict[ManifestEntryStatus, Callable[[ManifestEntry], object]] = {
                ManifestEntryStatus.ADDED: writer.add,
                ManifestEntryStatus.EXISTING: writer.existing,
                ManifestEntryStatus.DELETED: writer.delete,
            }
            for status, entry in entries:
                write[status](entry)
        manifest = writer.to_manifest_file()
        self._contents[manifest.manifest_path] = frozenset(
            entry.data_file.file_path for status, entry in entries if status != ManifestEntryStatus.DELETED
        )
        return manifest

    def _entry(self, file: DataFile) -> ManifestEntry:
        return ManifestEntry.from_args(
            status=ManifestEntryStatus.ADDED,
            snapshot_id=self._snapshot_id,
            sequence_number=None,
            file_sequence_number=None,
            data_file=file,
        )


def _live_count(manifest: ManifestFile) -> int:
    return (manifest.added_files_count or 0) + (manifest.existing_files_count or 0)


def _live(entries: list[Entry]) -> int:
    return sum(status != ManifestEntryStatus.DELETED for status, _ in entries)


def _described(file: DataFile, spec_id: int) -> DataFile:
    """A file read from a manifest, which alone knows its partition spec."""
    file.spec_id = spec_id
    return file


def _size_class(entries: int) -> int:
    """How often a manifest's entries have been merged: 0 below `MERGE_COUNT` entries, 1 below its square, …"""
    size_class = 0
    while entries >= MERGE_COUNT:
        entries //= MERGE_COUNT
        size_class += 1
    return size_class
