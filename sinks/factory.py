"""From configuration to sinks: which tables a pipeline's sinks write, and the one place that knows every sink type."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from config.errors import ConfigurationError
from config.pipeline import DeltaConfig, IcebergConfig, PipelineConfig, SinkConfig
from sinks.base import Sink, Target
from sinks.status import TableStatus

KEY_INDEX = "key-index"
"""The key index's folder in a worker's folder."""


@dataclass(frozen=True)
class TablePlan:
    """One table of one sink: what feeds it and how to make its writer. Connects to nothing."""

    sink_config: SinkConfig
    settings: IcebergConfig | DeltaConfig
    target: Target

    @property
    def batch_size(self) -> int:
        """Rows from which on a commit is due."""
        return self.settings.batch_size

    @property
    def flush_interval_seconds(self) -> float:
        """Age of the oldest row at which a commit is due."""
        return self.settings.flush_interval_seconds

    @property
    def sets_aside(self) -> bool:
        """Whether the sink may refuse records that are sound: for their schema, or for the value of a partition."""
        partitioned = isinstance(self.settings, DeltaConfig) and bool(self.settings.partition_by)
        return self.settings.schema_evolution.sets_aside or partitioned

    def load(self) -> None:
        """Import what `create` needs: seconds of CPU, which a caller with a deadline spends before it."""
        if isinstance(self.settings, IcebergConfig):
            import sinks.iceberg.sink
        elif self.settings.has_vectors:
            import sinks.delta.vector_sink
        else:
            import sinks.delta.sink  # noqa: F401 (as above: for what it loads)

    def create(self, worker_folder: Path) -> Sink:
        """The sink of this table; local state lives in the worker's folder."""
        if isinstance(self.settings, IcebergConfig):
            from sinks.iceberg.sink import IcebergSink
            from tables.key_index import KeyIndex

            index = KeyIndex.shared(worker_folder / KEY_INDEX) if self.settings.write_mode == "upsert" else None
            return IcebergSink(self.settings, self.target, index)
        if self.settings.has_vectors:
            from sinks.delta.vector_sink import VectorSink
            from tables.key_index import KeyIndex

            return VectorSink(self.settings, self.target, KeyIndex.shared(worker_folder / KEY_INDEX))
        from sinks.delta.sink import DeltaSink

        return DeltaSink(self.settings, self.target)

    def status(self) -> TableStatus | None:
        """What the table consists of, read from it; None if it isn't there yet."""
        if isinstance(self.settings, IcebergConfig):
            from sinks.iceberg.status import iceberg_status

            return iceberg_status(self.settings, self.target)
        from sinks.delta.status import delta_status

        return delta_status(self.settings, self.target)


def plan_tables(pipeline: PipelineConfig, only: Collection[str] = ()) -> list[TablePlan]:
    """The tables of the enabled sinks (of those named in `only`, if any), in the configuration's order."""
    plans = []
    for sink in pipeline.sinks:
        if not sink.enabled or (only and sink.sink_id not in only):
            continue
        settings = sink.iceberg or sink.delta
        if settings is None:
            raise ConfigurationError(f"sink {sink.sink_id}: sink_type {sink.sink_type} isn't built yet")
        topics_of: dict[str, list[str]] = {}
        for table in pipeline.source.tables:
            if sink.captures(table):
                schema, name = table.rsplit(".", 1)
                target = settings.target_name(schema, name, pipeline.topic_prefix)
                topics_of.setdefault(target, []).append(pipeline.topic(table))
        for name, topics in topics_of.items():
            plans.append(TablePlan(sink, settings, Target(pipeline.pipeline_id, sink.sink_id, tuple(topics), name)))
    if not plans:
        raise ConfigurationError(
            f"pipeline {pipeline.pipeline_id}: no table reaches any enabled sink;"
            " check source.tables, and each sink's `enabled` and `tables`"
        )
    return plans
