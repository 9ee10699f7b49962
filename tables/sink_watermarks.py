"""The Faust table `sink_watermarks`: where each sink stood on each Kafka partition after its last commit.

A display copy of what the destinations say, kept in RocksDB on every worker (a global table), so that any worker's
stats page shows the whole group. Written by the agent `watermarks` only; deciding anything from it is a defect.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import faust

from sources.changes import TopicPartition

NAME = "sink_watermarks"


def define_sink_watermarks(app: faust.App) -> Any:
    """The table, to be called once while the app is built.

    One changelog partition, and every worker writes to it whatever partitions it was assigned (`use_partitioner`);
    a recovery buffer of one keeps every worker's copy fresh.
    """
    return app.GlobalTable(
        NAME,
        partitions=1,
        recovery_buffer_size=1,
        use_partitioner=True,
        help="Per sink, topic and partition: next offset, snapshot or version, commit time.",
    )


def watermark_key(sink_id: str, tp: TopicPartition) -> str:
    """The table's key: `sink/topic/partition` (neither ids nor topic names can hold a slash)."""
    return f"{sink_id}/{tp.topic}/{tp.partition}"


def parse_watermark_key(key: str) -> tuple[str, TopicPartition]:
    """The inverse of `watermark_key`."""
    sink_id, topic, partition = key.split("/")
    return sink_id, TopicPartition(topic, int(partition))


def watermark(next_offset: int, version: int | None, committed_at: datetime) -> Mapping[str, Any]:
    """The table's value, as JSON holds it. Versions go as text: an Iceberg snapshot id doesn't fit a double."""
    return {
        "next_offset": next_offset,
        "version": None if version is None else str(version),
        "committed_at": committed_at.isoformat(timespec="milliseconds"),
    }
