"""What a sink keeps in its table: next offsets, partition counts, writer schema ids.

Authority is the summary of the newest snapshot of ours among the current one's ancestors: it goes along when a table
is rolled back, so the rows that the rollback undid are read again. The table property of the same name survives
snapshot expiry and is read where no such snapshot is left, unless the current snapshot is older than the commit that
wrote it: a rollback to before all that is known of the offsets.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from pyiceberg.table.metadata import TableMetadata

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
        entries = {name: metadata.properties.get(key) for name, key in keys.items()}
        snapshots = {snapshot.snapshot_id: snapshot for snapshot in metadata.snapshots}
        snapshot = snapshots.get(metadata.current_snapshot_id or -1)
        while snapshot is not None:
            summary = snapshot.summary.additional_properties if snapshot.summary else {}
            if keys["offsets"] in summary:
                entries = {name: summary.get(key) for name, key in keys.items()}
                break
            snapshot = snapshots.get(snapshot.parent_snapshot_id or -1)
        else:
            _check_age(metadata, target)
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


def offsets_key(target: Target) -> str:
    """The key under which a snapshot's summary says that it is this sink's."""
    return _keys(target)["offsets"]


def tidied_key(target: Target) -> str:
    """The key under which a snapshot's summary says whose files it tidied: JSON {topic: [Kafka partitions]}."""
    return f"lakeward.tidied.{target.pipeline_id}.{target.sink_id}"


def _sequence_key(target: Target) -> str:
    """The property with the sequence number of the snapshot that the properties were written with."""
    return f"lakeward.sequence.{target.pipeline_id}.{target.sink_id}"


def _keys(target: Target) -> dict[str, str]:
    """Property keys; users' scripts read them, so they never change."""
    of_sink = f"{target.pipeline_id}.{target.sink_id}"
    return {name: f"lakeward.{name}.{of_sink}" for name in ("offsets", "partitions", "schemas")}
