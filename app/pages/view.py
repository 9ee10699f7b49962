"""What the pages read from a worker: its pipeline, its Faust tables, Faust's state, the log's ends."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from app.application import LakewardApp
from app.lag import CaughtUp, LogEnds
from app.progress import PATIENCE_SECONDS, ProgressWatch
from app.redaction import redactor
from app.snapshot import Snapshot
from app.stats import Feed, Situation, assemble
from config.environment import Settings
from sinks.factory import plan_tables
from sources.changes import TopicPartition
from sources.registry import transport_for
from tables import schema_versions, sink_watermarks


class WorkerStats:
    """Makes a `Snapshot` per request. Everything runs on the app's event loop, as the web server does."""

    def __init__(self, app: LakewardApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._started_at = datetime.now(UTC)
        self._feeds = _feeds(settings)
        self._caught_up = CaughtUp()
        patience = {
            plan.target.sink_id: PATIENCE_SECONDS + plan.flush_interval_seconds
            for plan in plan_tables(settings.pipeline, settings.sinks)
        }
        self._watch = ProgressWatch(patience.__getitem__, self._is_idle, self._doing)
        self.redact = redactor(settings.pipeline, settings.platform)
        self.log_ends = LogEnds(transport_for(settings.platform).monitor(), sorted(app.source_topics))

    async def snapshot(self) -> Snapshot:
        """The worker as it is now; waits for Kafka no longer than a glance."""
        await self.log_ends.refresh()
        return self._assembled(self._situation())

    async def look_for_stalls(self) -> None:
        """Log what stands still; snapshots show it from now on."""
        if self._app.pipeline is None or self._app.should_stop:
            self._watch.look((), None)
            return
        await self.log_ends.refresh()
        situation = self._situation()
        partitions = self._assembled(situation).partitions
        self._watch.look(partitions, situation.phase[1] if situation.phase else None)

    def _assembled(self, situation: Situation) -> Snapshot:
        return assemble(self._app.pipeline, situation, self._caught_up, self.redact)

    def _situation(self) -> Situation:
        app, settings = self._app, self._settings
        return Situation(
            settings.pipeline.pipeline_id,
            settings.app_id,
            self._worker_id(),
            self._feeds,
            settings.platform.max_buffered_bytes,
            self._rows(sink_watermarks.NAME),
            self._rows(schema_versions.NAME),
            self.log_ends.known,
            self.log_ends.error,
            rebalancing=app.rebalancing,
            recovering=app.in_recovery,
            stopping=app.should_stop,
            started_at=self._started_at,
            stalls=self._watch.stalls,
        )

    def _is_idle(self, tp: TopicPartition) -> bool:
        read_to = self._app.consumer.read_to(tp)
        end = self.log_ends.known.get(tp)
        return (
            read_to is not None
            and end is not None
            and read_to >= end
            and not self._app.running_pipeline().backlog.holds(tp)
        )

    def _doing(self, sink_id: str, tp: TopicPartition) -> str:
        pipeline = self._app.running_pipeline()
        doing = pipeline.writers[tp.topic, sink_id].doing
        read_to = self._app.consumer.read_to(tp)
        return f"{doing}; the partition was read up to {read_to}, {pipeline.backlog.total:,} bytes are under way"

    def committable(self) -> dict[TopicPartition, int | None]:
        """This worker's partitions with the offset that all of their sinks have passed."""
        pipeline = self._app.pipeline
        return {tp: pipeline.committable(tp) for tp in pipeline.assigned()} if pipeline is not None else {}

    async def close(self, *_: Any, **__: Any) -> None:
        """Let go of the connection to Kafka; connected to the app's shutdown."""
        await self.log_ends.close()

    def _worker_id(self) -> str:
        folder = self._app.worker_dir
        return f"{folder.path.name if folder else 'worker'}@{socket.gethostname()}:{os.getpid()}"

    def _rows(self, name: str) -> Mapping[str, Mapping[str, Any]]:
        table = self._app.tables.get(name)
        return dict(table.items()) if table is not None and self._app.pipeline is not None else {}


def _feeds(settings: Settings) -> tuple[Feed, ...]:
    feeds = []
    for plan in plan_tables(settings.pipeline, settings.sinks):
        retry = plan.sink_config.retry or settings.platform.retry
        feeds += [
            Feed(plan.target.sink_id, plan.sink_config.sink_type, topic, plan.target.name, retry.max_wait_seconds)
            for topic in plan.target.topics
        ]
    return tuple(feeds)
