"""The small files of an append table, which are merged as those of an upsert table are; there is no index to move."""

from __future__ import annotations

from collections.abc import Collection

import structlog
from pyiceberg.table import Table

from config.errors import PipelineStopped
from sinks.iceberg.files import Staging
from sinks.iceberg.live_files import LiveFiles
from sinks.iceberg.state import SinkState
from sinks.iceberg.tidy import Step, Tidied, due, stage
from sinks.tiers import Compaction, Patience
from sources.changes import CDC_OFFSET, CDC_PARTITION, CDC_TOPIC, TopicPartition

log = structlog.get_logger("lakeward.iceberg")


class Appends:
    """What `Upserts` is for an upsert table, as far as tidying needs it."""

    def __init__(self, live: LiveFiles) -> None:
        self._live = live

    def catch_up(self, table: Table, state: SinkState, partitions: Collection[TopicPartition]) -> bool:
        """Look at the table's current snapshot; True if these partitions' files, or deletes, aren't those we knew."""
        before = self._seen(partitions)
        try:
            self._live.catch_up(table, state.offsets, partitions)
        except PipelineStopped as reason:
            # Only what is rewritten needs to have its deletes read. Files that come after these deletes aren't theirs.
            log.warning("iceberg.old_files_left", table=".".join(table.name()), reason=str(reason))
            self._live.begin_at(table.metadata, state.offsets)
        return self._seen(partitions) != before

    def due(self, partitions: Collection[TopicPartition], when: Patience | Compaction) -> Step | None:
        """What there is to tidy in the files of these partitions."""
        return due(self._live, when, {tp: self._live.indexed(tp, {}) for tp in partitions})

    def rewrite(self, step: Step, staging: Staging, table: Table, partitions: Collection[TopicPartition]) -> Tidied:
        """Write the files of a tidying step, rows in Kafka's order."""
        order = (CDC_TOPIC, CDC_PARTITION, CDC_OFFSET)
        return stage(step, staging, table, self._live, partitions, order, counted=False)

    def tidied(self, tidied: Tidied, snapshot_id: int) -> None:
        """Nothing is kept beside the live files."""

    def _seen(self, partitions: Collection[TopicPartition]) -> tuple[list[int], set[str]]:
        return [self._live.fingerprint(tp) for tp in partitions], set(self._live.deletes)
