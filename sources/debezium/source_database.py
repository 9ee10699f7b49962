"""The database behind a connector, seen directly: is it there, can it be captured, and what a connector leaves in it.

`cdc deploy` asks before it gives the tables to Connect, because Debezium passes over a table that doesn't exist
without a word; `cdc undeploy` removes what Debezium leaves behind; `cdc health` asks whether it answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from config.pipeline import PipelineConfig
from config.platform import PlatformConfig
from sources.debezium.connectors import connector_for
from sources.debezium.mysql_source import MySqlSource
from sources.debezium.postgres_source import PostgresSource
from sources.debezium.source_types import Modes, SourceColumn

_AVRO_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class SourceDatabase(Protocol):
    """One database. Every method raises `Unavailable` with the address when it doesn't answer."""

    address: str

    async def version(self) -> str:
        """What answers there, for people."""

    async def columns(self) -> Mapping[str, tuple[SourceColumn, ...]]:
        """The columns of the pipeline's tables and of its signalling table, by `schema.table`; tables that don't exist
        are absent."""

    async def warnings(self, columns: Mapping[str, tuple[SourceColumn, ...]]) -> tuple[str, ...]:
        """What the values of these columns may lose without anybody being able to tell, each with the way out."""

    async def obstacles(self, *, connector_exists: bool) -> tuple[str, ...]:
        """What keeps Debezium from capturing (server settings, rights, a slot in use), each with the way out."""

    async def release(self, timeout: float = 30.0) -> tuple[str, ...]:
        """Drop what the deleted connector left (slot, publication); returns what was dropped. Idempotent."""


def source_database(pipeline: PipelineConfig) -> SourceDatabase:
    """The pipeline's database; connects when it is asked something."""
    if pipeline.source.source_type == "postgres":
        return PostgresSource(pipeline.source)
    return MySqlSource(pipeline.source)


async def capture_problems(
    database: SourceDatabase,
    columns: Mapping[str, tuple[SourceColumn, ...]],
    pipeline: PipelineConfig,
    platform: PlatformConfig,
    *,
    connector_exists: bool,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """All that would keep these tables, which have these columns, from being captured whole, and what to warn of."""
    from sources.debezium.column_checks import captured_columns, column_problems  # Arrow, which health doesn't need

    missing = [table for table in pipeline.source.tables if table not in columns]
    problems = [f"source.tables: there is no table {table} in {database.address}" for table in missing]
    problems += _bad_keys(columns, pipeline)
    signals = pipeline.source.signal_table
    if signals is not None and signals not in columns:
        problems.append(
            f"source.signal_table: there is no table {signals} in {database.address}: CREATE TABLE {signals} (id"
            " varchar(64) PRIMARY KEY, type varchar(32) NOT NULL, data text), which the user may write"
        )
    if platform.connector.converter.startswith("avro"):
        problems += _not_avro(columns)
    config = connector_for(pipeline, platform, not_logged(columns)).to_connector_config()
    captured = captured_columns(columns, config)
    problems += column_problems(pipeline, captured, Modes.of(config))
    problems += await database.obstacles(connector_exists=connector_exists)
    return tuple(problems), await database.warnings(captured)


def not_logged(columns: Mapping[str, Sequence[SourceColumn]]) -> list[tuple[str, str]]:
    """The columns (table, name) that a snapshot reads and the stream of changes doesn't have: generated ones."""
    return [(table, column.name) for table, there in columns.items() for column in there if column.generated]


def _bad_keys(columns: Mapping[str, Sequence[SourceColumn]], pipeline: PipelineConfig) -> Iterator[str]:
    for table, key in pipeline.source.key_columns.items():
        there = {column.name: column for column in columns.get(table, ())}
        for name in key if there else ():
            if name not in there:
                yield f"source.key_columns: {table} has no column {name}"
            elif there[name].nullable:
                yield f"source.key_columns: {table}.{name} may be null, which a key can't: make it NOT NULL"


def _not_avro(columns: Mapping[str, Sequence[SourceColumn]]) -> list[str]:
    """Avro's names are letters, digits and `_`: the converter would rename other columns without a word."""
    return [
        f"{table}: column {column.name!r} can't have its own name in Avro: use connector.converter json-schema, or"
        " rename it"
        for table, there in columns.items()
        for column in there
        if not _AVRO_NAME.fullmatch(column.name)
    ]
