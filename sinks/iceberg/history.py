"""The table's history: which snapshots a commit drops, and when the files that only they needed are removed.

Every commit makes a snapshot, and every commit reads and writes the list of them all: it has to stay short. So a commit
drops the oldest snapshots of the main branch in groups, and keeps `KEEP` of them (more if the user asks for it).

What a dropped snapshot alone needed is told by the neighbours in the history: its manifest list, the manifests that
its successor doesn't have any more, the files that its successor deleted. Those paths go into a *list of retired files*
beside the table's metadata, written before the commit; the commit names that list in a table property, and the list
names the one before it. All that matters is in the store: a crash leaves either a list that no table names (its files
are still in use), or one that the next run takes up.

With the user's `maintenance` on, its interval takes the place of the groups, and snapshots younger than its age stay.

A list's files are removed once readers had their time (`GRACE_SECONDS` after the commit), and only if every snapshot
that the table still has descends from one that the commit kept: a tag, another branch or a snapshot that was rolled
back may need them, and holds them until it is gone. The kept ones are dropped in their turn, so a list also tells
whether it *continues* the one before: whether what it kept descends from what that one kept.

Removal is spread: files of one group of commits are thousands in a bucketed table, and commits wait for it. How far a
list was worked off isn't written down; whoever takes it up again finds some of its files gone.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from time import monotonic
from uuid import uuid4

import structlog
from pyiceberg.io import FileIO
from pyiceberg.manifest import ManifestEntryStatus
from pyiceberg.table import Table
from pyiceberg.table.locations import load_location_provider
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.refs import MAIN_BRANCH, SnapshotRefType
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.table.update import RemoveSnapshotsUpdate, TableUpdate

from config.lake_sinks import IcebergMaintenanceConfig
from sinks.at_once import REQUESTS_AT_ONCE, at_once
from sinks.base import Target
from sinks.iceberg.state import lineage, offsets_key, retired_key, summary_entries

log = structlog.get_logger("lakeward.history")

KEEP, GROUP = 50, 25
"""Snapshots of the main branch that stay, and how many more have to gather before a commit drops them."""

GRACE_SECONDS = 3600.0
"""How long files stay after the commit that dropped their snapshots; the table property GRACE_PROPERTY overrides it."""
GRACE_PROPERTY = "lakeward.reader-grace-seconds"

CLEAN_SECONDS, MOST_CLEAN_SECONDS = 1.0, 3.0
"""How long files are removed after one commit: for each list that is due, and for all of them. The rest is for the next
time. (Some twenty commits bring a new list.)"""
FILES_AT_LEAST = 4 * REQUESTS_AT_ONCE
"""Files of a list that are removed even if the time is up, so that it comes to an end."""


@dataclass(frozen=True)
class Expiry:
    """What a commit does to the history: updates for the catalog, properties, and the list that it has written."""

    updates: tuple[TableUpdate, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)
    written: tuple[str, ...] = ()


@dataclass(frozen=True)
class Retired:
    """A list of retired files: where it is, when it was written (epoch seconds), the snapshots that were kept, whether
    they descend from those that the list before it kept."""

    path: str
    at: float
    kept: frozenset[int]
    continues: bool
    files: tuple[str, ...]


class History:
    """The history of one table, as one sink keeps it."""

    def __init__(self, target: Target, maintenance: IcebergMaintenanceConfig) -> None:
        self._property = retired_key(target)
        self._offsets_key = offsets_key(target)
        self._maintenance = maintenance
        self._pending: list[Retired] = []  # oldest first, without their files
        self._begun: tuple[str, list[str], int] | None = None
        self._head: str | None = None
        self._last: tuple[str | None, float] | None = None

    # -- in a commit

    def expiry(self, metadata: TableMetadata, io: FileIO) -> Expiry:
        """Which snapshots the next commit drops. Writes the list of the files that only they need."""
        main = list(lineage(metadata, metadata.current_snapshot_id))
        kept = main[: self._kept(metadata, main)]
        dropped = main[len(kept) :]
        held = _held(metadata, main)
        ids = [s.snapshot_id for s in dropped if s.snapshot_id not in held]
        if not self._is_time(metadata, len(ids)):
            return Expiry()
        root = kept[-1]
        known = {s.snapshot_id for s in main} | held
        rolled_back = [s for s in metadata.snapshots if s.snapshot_id not in known]
        ids += [s.snapshot_id for s in rolled_back if s.timestamp_ms < root.timestamp_ms]
        files = _retired(io, [root, *dropped])
        path = load_location_provider(metadata.location, metadata.properties).new_metadata_location(
            f"lw-retired-{uuid4().hex}.json"
        )
        previous = metadata.properties.get(self._property)
        before = next(lists(io, previous), None)
        content = {
            "at": time.time(),
            "kept": [s.snapshot_id for s in kept],
            "continues": before is not None and any(s.snapshot_id in before.kept for s in main),
            "files": files,
            "previous": previous,
        }
        with io.new_output(path).create() as stream:
            stream.write(json.dumps(content).encode())
        updates = (RemoveSnapshotsUpdate(snapshot_ids=ids),)  # type: ignore[call-arg]  # pydantic takes field names
        return Expiry(updates, {self._property: path}, (path,))

    def _is_time(self, metadata: TableMetadata, count: int) -> bool:
        """Whether to drop so many snapshots now: a group, or with `maintenance` what there is at each interval."""
        if not self._maintenance.enabled:
            return count >= GROUP
        head, now = metadata.properties.get(self._property), monotonic()
        if self._last is None:
            self._last = head, -math.inf
        if head != self._last[0]:  # an expiry landed, of this worker or another one
            self._last = head, now
        return count > 0 and now - self._last[1] >= self._maintenance.expire_snapshots_interval_seconds

    def _kept(self, metadata: TableMetadata, main: list[Snapshot]) -> int:
        """How many of the newest snapshots stay: down to one of ours, so that each of them says our offsets."""
        properties = metadata.properties
        least = max(KEEP, int(properties.get("history.expire.min-snapshots-to-keep", 1)))
        age_ms = float(properties.get("history.expire.max-snapshot-age-ms", 0))
        if self._maintenance.enabled:
            age_ms = self._maintenance.expire_snapshots_older_than_seconds * 1000
        oldest = time.time() * 1000 - age_ms
        young = sum(snapshot.timestamp_ms >= oldest for snapshot in main)
        count = max(least, young)
        while count < len(main) and not self._is_ours(main[count - 1]):
            count += 1
        return count

    def _is_ours(self, snapshot: Snapshot) -> bool:
        return self._offsets_key in summary_entries(snapshot)

    # -- after commits

    def clean(self, table: Table) -> int:
        """Remove files that are due, for a while; returns how many. The others stay for the next time."""
        metadata = table.metadata
        head = metadata.properties.get(self._property)
        if head != self._head:
            self._take_up(table.io, head)
            self._head = head
        grace = float(metadata.properties.get(GRACE_PROPERTY, GRACE_SECONDS))
        latest = time.time() - grace
        if not any(retired.at <= latest for retired in self._pending):
            return 0
        due = [retired for retired in self._unneeded(metadata) if retired.at <= latest]
        until = monotonic() + min(CLEAN_SECONDS * len(due), MOST_CLEAN_SECONDS)
        removed = 0
        for retired in due:
            files, count = self._left(table, retired)
            left = _remove(table.io, files, until)
            removed += len(files) - len(left)
            if left:
                self._begun = retired.path, left, count
                break
            table.io.delete(retired.path)
            self._pending.remove(retired)
            self._begun = None
            log.info("iceberg.files_removed", table=".".join(table.name()), files=count)
            if monotonic() >= until:
                break
        return removed

    def _take_up(self, io: FileIO, head: str | None) -> None:
        """Read the lists that came since the last time; all of them if the known ones aren't among theirs."""
        known = {retired.path: n for n, retired in enumerate(self._pending)}
        found: list[Retired] = []
        for retired in lists(io, head):
            if retired.path in known:
                found += self._pending[known[retired.path] :: -1]
                break
            found.append(replace(retired, files=()))
        self._pending = found[::-1]

    def _left(self, table: Table, retired: Retired) -> tuple[list[str], int]:
        """The files of a list that weren't removed yet, to be worked off, and how many it had. None if another worker
        has worked it off, or if they are somebody else's."""
        if self._begun is None or self._begun[0] != retired.path:
            found = next(lists(table.io, retired.path), None)
            kept = table.metadata.properties.get("gc.enabled", "true").lower() == "false"
            files = [] if found is None or kept else list(found.files)
            self._begun = retired.path, files, len(files)
        return self._begun[1:]

    def _unneeded(self, metadata: TableMetadata) -> list[Retired]:
        """The lists whose files no snapshot needs, oldest first."""
        # All of them descend from kept ones if the oldest do, whose parents are gone: by having been kept themselves.
        # One look has to do: with `maintenance` on, there are a day's snapshots (17,000), and each commit looks.
        there = {snapshot.snapshot_id for snapshot in metadata.snapshots}
        oldest = {s.snapshot_id for s in metadata.snapshots if s.parent_snapshot_id not in there}
        found: list[Retired] = []
        descend = False
        for retired, newer in zip(reversed(self._pending), [None, *reversed(self._pending)], strict=False):
            descend = (descend and newer is not None and newer.continues) or oldest <= retired.kept
            if descend:
                found.append(retired)
        return found[::-1]


def lists(io: FileIO, path: str | None) -> Iterator[Retired]:
    """The lists that nobody has worked off yet, newest first; `path` is that of the newest."""
    while path is not None:
        try:
            with io.new_input(path).open() as stream:
                content = json.loads(stream.read())
        except FileNotFoundError:
            return
        kept = frozenset(content["kept"])
        yield Retired(path, content["at"], kept, content["continues"], tuple(content["files"]))
        path = content["previous"]


def _held(metadata: TableMetadata, main: list[Snapshot]) -> set[int]:
    """Snapshots that tags and other branches point to, and what these branches have beside the main one."""
    of_main = {snapshot.snapshot_id for snapshot in main}
    held: set[int] = set()
    for name, ref in metadata.refs.items():
        if name == MAIN_BRANCH:
            continue
        held.add(ref.snapshot_id)
        if ref.snapshot_ref_type == SnapshotRefType.BRANCH:
            held.update(s.snapshot_id for s in lineage(metadata, ref.snapshot_id) if s.snapshot_id not in of_main)
    return held


def _retired(io: FileIO, chain: list[Snapshot]) -> list[str]:
    """What the snapshots of `chain` (newest first) needed that its first one doesn't."""
    files: list[str] = []
    listed = {snapshot.snapshot_id: snapshot.manifests(io) for snapshot in chain}
    for successor, snapshot in pairwise(chain):
        manifests = listed[successor.snapshot_id]
        stay = {manifest.manifest_path for manifest in manifests}
        files.append(snapshot.manifest_list)
        files += [m.manifest_path for m in listed[snapshot.snapshot_id] if m.manifest_path not in stay]
        for manifest in manifests:
            if manifest.added_snapshot_id != successor.snapshot_id or not manifest.deleted_files_count:
                continue
            files += [
                entry.data_file.file_path
                for entry in manifest.fetch_manifest_entry(io, discard_deleted=False)
                if entry.status == ManifestEntryStatus.DELETED and entry.snapshot_id == successor.snapshot_id
            ]
    return files


def _remove(io: FileIO, paths: Sequence[str], until: float) -> list[str]:
    """Remove files until that time; returns those that are left. One that is gone already was removed by another worker
    or a run that was cut short."""

    def remove(numbered: tuple[int, str]) -> bool:
        number, path = numbered
        if number >= FILES_AT_LEAST and monotonic() >= until:
            return False
        io.delete(path)
        return True

    done = at_once(remove, enumerate(paths))
    return [path for path, gone in zip(paths, done, strict=True) if not gone]
