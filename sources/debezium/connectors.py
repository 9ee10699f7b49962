"""The connector of a pipeline: its configuration from the two files, and the topics that it keeps for itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from config.pipeline import PipelineConfig
from config.platform import PlatformConfig
from sources.debezium.connector_config import BaseConnectorConfig, converter_fields
from sources.debezium.mysql_connector import DebeziumMySqlConnectorConfig
from sources.debezium.postgres_connector import DebeziumConnectorConfig


def connector_for(
    pipeline: PipelineConfig, platform: PlatformConfig, left_out: Sequence[tuple[str, str]] = ()
) -> BaseConnectorConfig:
    """The connector's configuration, from the pipeline's and the platform's; `left_out` are (table, column) that the
    source's log doesn't have."""
    source = pipeline.source
    common: dict[str, Any] = {
        "name": pipeline.pipeline_id,
        "topic_prefix": pipeline.topic_prefix,
        "database_hostname": source.host,
        "database_port": source.port,
        "database_user": source.username,
        "database_password": source.password,
        # Debezium takes regular expressions, which must match the whole name.
        "table_include_list": tuple(escape_table(table) for table in source.tables),
        "column_exclude_list": tuple(escape_table(f"{table}.{column}") for table, column in left_out),
        "message_key_columns": tuple(
            f"{escape_table(table)}:{','.join(columns)}" for table, columns in source.key_columns.items()
        ),
        "signal_table": source.signal_table,
        "snapshot_mode": source.snapshot_mode,
        "extra_config": platform.connector.extra_config,
        **converter_fields(platform),
    }
    if source.source_type == "postgres":
        return DebeziumConnectorConfig(
            **common,
            database_dbname=source.database,
            slot_name=source.slot_name,
            publication_name=source.publication_name,
            unavailable_value_placeholder=source.unavailable_value_placeholder,
        )
    return DebeziumMySqlConnectorConfig(
        **common,
        flavour=source.source_type,
        database_server_id=pipeline.server_id,
        database_include_list=tuple(sorted({escape_table(table.split(".")[0]) for table in source.watched})),
        schema_history_bootstrap_servers=platform.kafka.bootstrap_servers,
        schema_history_topic=schema_history_topic(pipeline),
    )


def schema_history_topic(pipeline: PipelineConfig) -> str:
    """Where a MySQL or MariaDB connector keeps the DDL that it has seen."""
    return f"schema-history.{pipeline.pipeline_id}"


def internal_topics(pipeline: PipelineConfig) -> tuple[str, ...]:
    """Topics that the connector creates for itself and that nobody else reads."""
    return () if pipeline.source.source_type == "postgres" else (schema_history_topic(pipeline),)


def escape_table(table: str) -> str:
    """A table's name as the regular expression (Java's) that matches it alone."""
    return re.sub(r"(\W)", r"\\\1", table)
