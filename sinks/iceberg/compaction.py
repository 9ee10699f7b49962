"""The user's `maintenance`: what tidying leaves of a table partition's files is brought together from time to time."""

from __future__ import annotations

from collections.abc import Collection
from time import monotonic

from config.lake_sinks import IcebergMaintenanceConfig
from sinks.iceberg.append import Appends
from sinks.iceberg.tidy import Step
from sinks.iceberg.upsert import Upserts
from sinks.tiers import Compaction
from sources.changes import TopicPartition


def as_asked(maintenance: IcebergMaintenanceConfig) -> Compaction:
    """As the user asked for it."""
    return Compaction(maintenance.compaction_file_threshold, maintenance.compaction_max_rows_per_batch)


class Compactor:
    """When the files of which Kafka partition are looked at again. A worker that begins looks at once."""

    def __init__(self, maintenance: IcebergMaintenanceConfig) -> None:
        self._enabled = maintenance.enabled
        self._interval = maintenance.compaction_interval_seconds
        self._compaction = as_asked(maintenance)
        self._next: dict[TopicPartition, float] = {}

    def due(self, files: Upserts | Appends, partitions: Collection[TopicPartition]) -> Step | None:
        """The next step of what is due; once nothing is, it rests for the interval."""
        now = monotonic()
        looked_at = [tp for tp in partitions if self._enabled and now >= self._next.get(tp, 0.0)]
        step = files.due(looked_at, self._compaction) if looked_at else None
        if step is None:
            self._next |= dict.fromkeys(looked_at, now + self._interval)
        return step
