"""The database behind a connector, seen directly: is it there, can it be captured, and what a connector leaves in it.

`cdc deploy` asks before it gives the tables to Connect, because Debezium passes over a table that doesn't exist
without a word; `cdc undeploy` removes what Debezium leaves behind; `cdc health` asks whether it answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Protocol

from config.pipeline import PipelineConfig
from config.platform import PlatformConfig
from sources.debezium.mysql_source import MySqlSource
from sources.debezium.postgres_source import PostgresSource

_AVRO_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class SourceDatabase(Protocol):
    """One database. Every method raises `Unavailable` with the address when it doesn't answer."""

    address: str

    async def version(self) -> str:
        """What answers there, for people."""

    async def columns(self) -> Mapping[str, tuple[str, ...]]:
        """The columns of the pipeline's tables and of its signalling table, by `schema.table`; tables that don't exist
        are absent."""

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
    database: SourceDatabase, pipeline: PipelineConfig, platform: PlatformConfig, *, connector_exists: bool
) -> tuple[str, ...]:
    """All that would keep these tables from being captured whole."""
    columns = await database.columns()
    missing = [table for table in pipeline.source.tables if table not in columns]
    problems = [f"source.tables: there is no table {table} in {database.address}" for table in missing]
    signals = pipeline.source.signal_table
    if signals is not None and signals not in columns:
        problems.append(
            f"source.signal_table: there is no table {signals} in {database.address}: CREATE TABLE {signals} (id"
            " varchar(64) PRIMARY KEY, type varchar(32) NOT NULL, data text), which the user may write"
        )
    if platform.connector.converter.startswith("avro"):
        problems += _not_avro(columns)
    return (*problems, *await database.obstacles(connector_exists=connector_exists))


def _not_avro(columns: Mapping[str, Iterable[str]]) -> list[str]:
    """Avro's names are letters, digits and `_`: the converter would rename other columns without a word."""
    return [
        f"{table}: column {name!r} can't have its own name in Avro: use connector.converter json-schema, or rename it"
        for table, names in columns.items()
        for name in names
        if not _AVRO_NAME.fullmatch(name)
    ]
