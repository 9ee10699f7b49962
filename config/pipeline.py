"""The model of `pipeline.yaml`: what is captured and where it goes."""

from __future__ import annotations

import zlib

from pydantic import Field, field_validator, model_validator

from config.errors import ConfigurationError
from config.event_sinks import PostgresSinkConfig, WebhookConfig
from config.lake_sinks import DeltaConfig, DeltaMaintenanceConfig, IcebergConfig, IcebergMaintenanceConfig, WriteMode
from config.model import Identifier, Model, TopicPart, refuse
from config.rules import id_problems, pipeline_problems
from config.sink import SinkConfig
from config.source import SourceConfig, topic_name

__all__ = [
    "BUILT_SINKS",
    "DeltaConfig",
    "DeltaMaintenanceConfig",
    "IcebergConfig",
    "IcebergMaintenanceConfig",
    "PipelineConfig",
    "PostgresSinkConfig",
    "SinkConfig",
    "SourceConfig",
    "WebhookConfig",
    "WriteMode",
    "check_supported",
]

BUILT_SINKS = frozenset({"iceberg", "delta"})
"""Sink types that this version can run."""


class PipelineConfig(Model):
    """`pipeline.yaml` as a whole."""

    pipeline_id: Identifier
    """Name of the pipeline and of its connector; part of the consumer group's name and of the offsets' keys."""
    topic_prefix: TopicPart
    """First part of the topics' names, `{topic_prefix}.{schema}.{table}`."""
    source: SourceConfig
    """Where changes come from."""
    sinks: tuple[SinkConfig, ...] = Field(json_schema_extra={"minItems": 1})
    """Where changes go."""

    @field_validator("sinks")
    @classmethod
    def _at_least_one(cls, sinks: tuple[SinkConfig, ...]) -> tuple[SinkConfig, ...]:
        if not sinks:
            raise ValueError("is empty: a pipeline has at least one sink")
        return sinks

    @model_validator(mode="after")
    def _fits_together(self) -> PipelineConfig:
        sinks = list(enumerate(self.sinks))
        refuse(
            [
                *id_problems([(index, sink.sink_id) for index, sink in sinks]),
                *pipeline_problems(self.topic_prefix, self.source, sinks),
            ]
        )
        return self

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics of the source's tables, in the file's order."""
        return tuple(self.topic(table) for table in self.source.tables)

    @property
    def server_id(self) -> int:
        """The replica number for mysql and mariadb: two replicas with one number throw each other out."""
        return self.source.server_id or 100_000 + zlib.crc32(self.pipeline_id.encode()) % 1_000_000_000

    def topic(self, table: str) -> str:
        """The topic of a source table (`schema.table`), as Debezium names it."""
        return topic_name(self.topic_prefix, table)

    @staticmethod
    def dlq_topic(topic: str, suffix: str) -> str:
        """The dead-letter topic of a topic; `suffix` is `dlq.topic_suffix` of the platform."""
        return f"{topic}.{suffix}"


def check_supported(pipeline: PipelineConfig) -> None:
    """Refuse what is valid configuration but not built in this version: `validate` and `run` call it."""
    problems = []
    for index, sink in enumerate(pipeline.sinks):
        where = f"sinks[{index}] ({sink.sink_id})"
        if sink.sink_type not in BUILT_SINKS:
            problems.append(
                f"{where}: sink_type {sink.sink_type} isn't built yet;"
                f" this version has {', '.join(sorted(BUILT_SINKS))}"
            )
    if problems:
        raise ConfigurationError("\n".join([f"pipeline {pipeline.pipeline_id} asks for what isn't there:", *problems]))
