"""Builds the Faust app from the configuration: agents, tables, pages, and how a worker's pipeline is put together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agents.ingest import register_ingest_agents
from agents.pipeline import Pipeline, SinkTable
from agents.schema import AGENT_NAME as SCHEMAS_AGENT
from agents.schema import SchemaWatch, register_schema_agent, subjects_of
from agents.watermarks import AGENT_NAME, register_watermarks_agent
from agents.writer import FlushPolicy
from app.application import LakewardApp
from app.ending import LakewardWorker
from app.logging import configure_structlog, logging_config
from app.pages import register_pages
from app.progress import LoopWatch
from config.environment import Settings
from config.pipeline import check_supported
from sinks.factory import plan_tables
from sources.debezium.decoding import learn_types, new_decoder
from sources.kafka.assignor import even_assignor
from sources.kafka.security import client_arguments, faust_credentials
from sources.registry import transport_for
from sources.schema_registry import SchemaRegistry
from tables.files import FilesTable
from tables.recovery import Tables
from tables.schema_versions import define_schema_versions
from tables.sink_watermarks import define_sink_watermarks
from verify.rereads import Rereads

MAX_PARTITION_FETCH_BYTES = 2 << 20
"""The size of a chunk, and of the fetcher's prefetch per partition."""

METADATA_MAX_AGE_MS = 5_000
"""New topics and partitions are noticed within this time."""


def create_app(settings: Settings) -> LakewardApp:
    """The app of this pipeline; connects to nothing until a worker starts."""
    pipeline_config, platform = settings.pipeline, settings.platform
    check_supported(pipeline_config)
    plans = plan_tables(pipeline_config, settings.sinks)
    feeds = [(topic, plan.target.sink_id) for plan in plans for topic in plan.target.topics]
    topics = frozenset(topic for topic, _ in feeds)
    configure_structlog()
    kafka = platform.kafka
    arguments = client_arguments(kafka)
    worker_root = settings.data_dir.absolute() / settings.app_id

    def build_pipeline(app: LakewardApp, folder: Path) -> Pipeline:
        tables = [
            SinkTable(
                plan.create(folder),
                FlushPolicy(plan.batch_size, plan.flush_interval_seconds),
                plan.sink_config.retry or platform.retry,
                plan.sets_aside,
            )
            for plan in plans
        ]
        decoder = new_decoder(pipeline_config, platform)
        return Pipeline(
            tables,
            decoder,
            transport_for(platform).error_router() if platform.dlq.enabled else None,
            Rereads(pipeline_config, platform) if pipeline_config.source.unknown_values == "read_again" else None,
            budget=platform.max_buffered_bytes,
            new_sinks_read_from=kafka.auto_offset_reset,
            retry=platform.retry,
            partition_count=app.partition_count,
            generation=lambda: app.consumer_generation_id,
            on_watermark=announce,
            crash=app.crash,
            prepare=lambda: learn_types(decoder, pipeline_config, platform),
        )

    app = LakewardApp(
        settings.app_id,
        build_pipeline=build_pipeline,
        kafka_arguments=arguments,
        source_topics=topics,
        worker_root=worker_root,
        grace_seconds=platform.shutdown_grace_seconds,
        **_faust_settings(settings, topics, worker_root),
    )
    announce = register_watermarks_agent(app, define_sink_watermarks(app))
    versions = define_schema_versions(app)
    names = register_ingest_agents(app, feeds, app.running_pipeline)
    app.expected_agents = (*names, AGENT_NAME)
    if platform.connector.converter.startswith("avro"):  # JSON carries its schema, or none
        _register_schemas(app, versions, settings, sorted(topics))
    app.on_partitions_revoked.connect(_revoked)
    app.task(app.log_missing_topics)
    app.task(LoopWatch().run)
    register_pages(app, settings)
    return app


def _register_schemas(app: LakewardApp, table: Any, settings: Settings, topics: Sequence[str]) -> None:
    platform = settings.platform
    registry = platform.kafka.schema_registry

    def new_watch(versions: Any) -> SchemaWatch:
        return SchemaWatch(
            SchemaRegistry(registry),
            versions,
            subjects_of(topics),
            mode=registry.compatibility_mode,
            stop=platform.stop_on_incompatible_schema,
        )

    register_schema_agent(app, table, new_watch, app.running_pipeline, platform.schema_monitor_interval_seconds)
    app.expected_agents = (*app.expected_agents, SCHEMAS_AGENT)


async def _revoked(app: LakewardApp, revoked: Any, **_: Any) -> None:
    await app.revoke(revoked)


def _faust_settings(settings: Settings, topics: frozenset[str], worker_root: Path) -> dict[str, Any]:
    platform = settings.platform
    kafka = platform.kafka
    return {
        "broker": [f"kafka://{server}" for server in kafka.bootstrap_servers.split(",")],
        "broker_credentials": faust_credentials(kafka),
        "store": "rocksdb://",
        "datadir": str(worker_root),
        "autodiscover": False,
        "Worker": LakewardWorker,
        "GlobalTable": FilesTable,
        "TableManager": Tables,
        "PartitionAssignor": even_assignor(topics),
        "logging_config": logging_config(),
        "web_bind": "127.0.0.1",
        "web_port": platform.health_port,
        "web_enabled": platform.health_enabled,
        "topic_replication_factor": kafka.topic_replication_factor,
        "topic_disable_leader": True,
        "consumer_auto_offset_reset": kafka.auto_offset_reset,
        "consumer_max_fetch_size": MAX_PARTITION_FETCH_BYTES,
        "consumer_metadata_max_age_ms": METADATA_MAX_AGE_MS,
        "broker_session_timeout": kafka.session_timeout_seconds,
        "broker_heartbeat_interval": kafka.session_timeout_seconds / 5,
        "broker_commit_interval": 1.0,
        "stream_wait_empty": False,
        # counts chunks per agent over all partitions; what is under way is bounded in bytes by the backlog
        "stream_buffer_maxsize": 65_536,
        "stream_recovery_delay": 0.0,
        "producer_acks": -1,
    }
