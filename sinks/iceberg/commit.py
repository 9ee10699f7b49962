"""Publishing: one snapshot with data files, position deletes and offsets, as a compare-and-swap. Writes no data.

The commit goes to the catalog directly, not through PyIceberg's `Transaction`: that would retry a conflict by itself,
so that a zombie's append lands, and copies the whole metadata at every step. The requirement is that the branch's
snapshot is still the one that the offsets were read from; offsets, schema and snapshot change in that one request.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from pyiceberg.manifest import DataFile, DataFileContent
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.refs import MAIN_BRANCH, SnapshotRefType
from pyiceberg.table.snapshots import Operation, Snapshot, SnapshotSummaryCollector, Summary, update_snapshot_summaries
from pyiceberg.table.update import (
    AddSnapshotUpdate,
    AssertRefSnapshotId,
    AssertTableUUID,
    SetPropertiesUpdate,
    SetSnapshotRefUpdate,
    TableRequirement,
    TableUpdate,
)

from sinks.base import TableFiles
from sinks.iceberg.evolved import Evolved
from sinks.iceberg.history import Expiry
from sinks.iceberg.manifests import Manifests


@dataclass(frozen=True)
class Prepared:
    """A snapshot whose manifests are written, ready to be sent to the catalog; where the metadata is that it was made
    of."""

    updates: tuple[TableUpdate, ...]
    requirements: tuple[TableRequirement, ...]
    snapshot_id: int
    parent_id: int | None
    manifests: Manifests
    base: str


def table_files(table: Table) -> TableFiles | None:
    """What the current snapshot's summary says of the table's files."""
    snapshot = table.current_snapshot()
    if snapshot is None or snapshot.summary is None:
        return None
    counts = [snapshot.summary[f"total-{what}"] for what in ("data-files", "delete-files", "files-size")]
    return TableFiles(*(int(count or 0) for count in counts))


@dataclass(frozen=True)
class FileChange:
    """What a snapshot changes: files that come, paths of files that go, entries for the table's properties and the
    snapshot's summary, and some for the summary alone. `rewrites`: the rows of the files that go come back in others.
    """

    added: Sequence[DataFile]
    removed: Collection[str]
    entries: Mapping[str, str]
    notes: Mapping[str, str] = field(default_factory=dict)
    rewrites: bool = False


def prepare(
    base: Evolved, table: Table, change: FileChange, expiry: Expiry, contents: dict[str, frozenset[str]]
) -> Prepared:
    """Write the manifests of a snapshot that changes files, and drops old snapshots as `expiry` says.

    `contents` is what is remembered of the manifests (see Manifests).
    """
    metadata = base.metadata
    snapshot_id = metadata.new_snapshot_id()
    parent = metadata.current_snapshot()
    manifests = Manifests(metadata, table.io, snapshot_id, contents)
    manifests.written += expiry.written
    try:
        manifest_list = manifests.write_list(change.added, change.removed)
    except BaseException:
        manifests.discard()
        raise
    parent_id = parent.snapshot_id if parent else None
    snapshot = Snapshot(  # type: ignore[call-arg]  # pydantic takes field names beside aliases
        snapshot_id=snapshot_id,
        parent_snapshot_id=parent_id,
        manifest_list=manifest_list,
        sequence_number=metadata.next_sequence_number(),
        summary=_summary(metadata, change, manifests.removed, parent),
        schema_id=metadata.current_schema_id,
    )
    updates = (
        SetPropertiesUpdate(updates={**change.entries, **expiry.properties}),
        AddSnapshotUpdate(snapshot=snapshot),
        SetSnapshotRefUpdate(  # type: ignore[call-arg]  # as above
            snapshot_id=snapshot_id,
            parent_snapshot_id=parent_id,
            ref_name=MAIN_BRANCH,
            type=SnapshotRefType.BRANCH,
        ),
        *expiry.updates,
    )
    requirements = (
        AssertTableUUID(uuid=metadata.table_uuid),
        AssertRefSnapshotId(snapshot_id=parent_id, ref=MAIN_BRANCH),  # type: ignore[call-arg]  # as above
    )
    return Prepared(
        (*base.updates, *updates),
        (*base.requirements, *requirements),
        snapshot_id,
        parent_id,
        manifests,
        table.metadata_location,
    )


def publish(table: Table, prepared: Prepared) -> None:
    """Send it. Raises PyIceberg's CommitFailedException if another commit came first, CommitStateUnknownException
    (or a connection's error) if the answer was lost. `table` holds the new metadata afterwards."""
    table._do_commit(prepared.updates, prepared.requirements)


def _summary(
    metadata: TableMetadata, change: FileChange, removed: Sequence[DataFile], parent: Snapshot | None
) -> Summary:
    collector = SnapshotSummaryCollector()
    for file in change.added:
        collector.add_file(file, metadata.schema(), metadata.specs()[file.spec_id])
    for file in removed:
        collector.remove_file(file, metadata.schema(), metadata.specs()[file.spec_id])
    deletes = any(file.content == DataFileContent.POSITION_DELETES for file in change.added)
    operation = Operation.OVERWRITE if deletes or removed else Operation.APPEND
    if removed and not change.added and not change.rewrites:
        operation = Operation.DELETE
    summary = Summary(operation=operation, **collector.build(), **change.entries, **change.notes)
    summary = update_snapshot_summaries(summary, parent.summary if parent and parent.summary else None)
    # the function above doesn't know the operation of a change without changed rows
    return Summary(operation=Operation.REPLACE, **summary.additional_properties) if change.rewrites else summary
