"""The answer of `/readyz`: whether this worker moves changes, and if not, which part is in the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.pages.connector import ConnectorState
from app.snapshot import Snapshot
from sources.changes import TopicPartition

NOT_READY = frozenset({"starting", "stopping", "rebalancing", "recovering"})


def readiness(
    snapshot: Snapshot, committable: Mapping[TopicPartition, int | None], connector: ConnectorState
) -> dict[str, Any]:
    """The JSON of `/readyz`; `ready` decides between 200 and 503.

    Not ready: a sink that can't write, a connector or task that FAILED, a worker that isn't working yet (or any
    more), a broker that doesn't answer. A Connect that can't be reached, or that has no such connector, is reported
    only: topics may be fed from elsewhere. A worker without a partition is ready to get some.
    """
    ready = snapshot.state.level != "error" and snapshot.state.name not in NOT_READY and not connector.failed
    source: dict[str, Any] = {
        "connector": {"state": connector.state},
        "tasks": [{"state": state} for state in connector.tasks],
    }
    if connector.error is not None:
        source["error"] = connector.error
    return {
        "ready": ready,
        "pipeline_id": snapshot.pipeline_id,
        "state": {"name": snapshot.state.name, "text": snapshot.state.text},
        "source": source,
        "sinks": [
            {"sink_id": sink.sink_id, "status": sink.status}
            | ({"error": sink.error.message} if sink.error is not None and not sink.error.over else {})
            for sink in snapshot.sinks
        ],
        "consumer_lag": partition_lags(snapshot, committable),
    }


def partition_lags(snapshot: Snapshot, committable: Mapping[TopicPartition, int | None]) -> list[dict[str, Any]]:
    """How far the slowest sink of each of this worker's partitions is behind the log's end (None: not known yet)."""
    lags: dict[TopicPartition, int | None] = {}
    for row in snapshot.partitions:
        tp = TopicPartition(row.topic, row.partition)
        if tp in lags:
            known = lags[tp]
            lags[tp] = None if known is None or row.lag_rows is None else max(known, row.lag_rows)
        else:
            lags[tp] = row.lag_rows
    return [
        {"topic": tp.topic, "partition": tp.partition, "lag": lags.get(tp), "offset": offset}
        for tp, offset in sorted(committable.items())
    ]
