"""What a sink keeps in its table: next offsets, partition counts, writer schema ids.

Authority is the summary of the newest snapshot of ours among the current one's ancestors: it goes along when a table
is rolled back, so the rows that the rollback undid are read again. The table property of the same name survives
snapshot expiry and is read where no such snapshot is left, unless the current snapshot is older than the commit that
wrote it: a rollback to before all that is known of the offsets.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Snapshot

from config.errors import DestinationChanged
from sinks.base import Batch, Target
from sources.changes import TopicPartition


@dataclass(frozen=True)
class SinkState:
    """One sink's own entries of a table's metadata."""

    offsets: Mapping[TopicPartition, int] = field(default_factory=dict)
    partition_counts: Mapping[str, int] = field(default_factory=dict)
    schema_ids: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, metadata: TableMetadata, target: Target) -> SinkState:
        """From the current snapshot's lineage, else from the properties.

        Raises DestinationChanged if neither tells of the current snapshot.
        """
        keys = _keys(target)
        for snapshot in lineage(metadata, metadata.current_snapshot_id):
            found = summary_entries(snapshot)
            if keys["offsets"] in found:
                break
        else:
            _check_age(metadata, target)
            found = metadata.properties
        entries = {name: found.get(key) for name, key in keys.items()}
        offsets = json.loads(entries["offsets"] or "{}")
        return cls(
            {TopicPartition(t, int(p)): offset for t, of_topic in offsets.items() for p, offset in of_topic.items()},
            json.loads(entries["partitions"] or "{}"),
            json.loads(entries["schemas"] or "{}"),
        )

    def after(self, batch: Batch, schema_ids: Mapping[str, int]) -> SinkState:
        """The state once `batch` has landed: only its own partitions and topics change."""
        return SinkState(
            {**self.offsets, **{tp: span.next for tp, span in batch.ranges.items()}},
            {**self.partition_counts, **batch.partition_counts},
            {**self.schema_ids, **schema_ids},
        )

    def entries(self, target: Target, sequence: int) -> dict[str, str]:
        """As table properties and snapshot summary hold it; `sequence` is the snapshot's sequence number."""
        offsets: dict[str, dict[str, int]] = {}
        for tp, offset in sorted(self.offsets.items()):
            offsets.setdefault(tp.topic, {})[str(tp.partition)] = offset
        values = {"offsets": offsets, "partitions": self.partition_counts, "schemas": self.schema_ids}
        found = {key: json.dumps(values[name]) for name, key in _keys(target).items()}
        return {**found, _sequence_key(target): str(sequence)}


def _check_age(metadata: TableMetadata, target: Target) -> None:
    """Whether the properties may be true of the current snapshot, whose lineage doesn't tell of offsets."""
    written = int(metadata.properties.get(_sequence_key(target), 0))
    current = metadata.current_snapshot()
    gone = written and (current is None or (current.sequence_number or 0) < written)
    if not gone and current is not None:
        # snapshots that others made after a rollback are younger, but don't descend from the one that is still there
        gone = any(s.sequence_number == written for s in metadata.snapshots if written)
    if gone:
        raise DestinationChanged(
            f"table {target.name} was rolled back to a snapshot that is older than all that is known of its offsets."
            f" Roll it back to one whose summary has {offsets_key(target)}; or set that table property to the offsets"
            f" that belong to these rows, and remove the property {_sequence_key(target)}; or start from a new table"
        )


def new_table_entries(target: Target, schema_ids: Mapping[str, int]) -> dict[str, str]:
    """Properties of a table that is created: the highest writer schema ids that its columns were made of."""
    return {_key(target, "schemas"): json.dumps(schema_ids)}


def lineage(metadata: TableMetadata, snapshot_id: int | None) -> Iterator[Snapshot]:
    """A snapshot and its ancestors, newest first, as far as the table still has them."""
    snapshots = {snapshot.snapshot_id: snapshot for snapshot in metadata.snapshots}
    snapshot = snapshots.get(snapshot_id or -1)
    while snapshot is not None:
        yield snapshot
        snapshot = snapshots.get(snapshot.parent_snapshot_id or -1)


def summary_entries(snapshot: Snapshot) -> Mapping[str, str]:
    """What a snapshot's summary says beside its operation."""
    return snapshot.summary.additional_properties if snapshot.summary else {}


def offsets_key(target: Target) -> str:
    """The key under which a snapshot's summary says that it is this sink's."""
    return _key(target, "offsets")


def tidied_key(target: Target) -> str:
    """The key under which a snapshot's summary says whose files it tidied: JSON {topic: [Kafka partitions]}."""
    return _key(target, "tidied")


def retired_key(target: Target) -> str:
    """The property that names the newest list of files that wait for their removal (see `history`)."""
    return _key(target, "retired")


def _sequence_key(target: Target) -> str:
    """The property with the sequence number of the snapshot that the properties were written with."""
    return _key(target, "sequence")


def _keys(target: Target) -> dict[str, str]:
    return {name: _key(target, name) for name in ("offsets", "partitions", "schemas")}


def _key(target: Target, name: str) -> str:
    """Users' scripts read these keys, so they never change."""
    return f"lakeward.{name}.{target.pipeline_id}.{target.sink_id}"
