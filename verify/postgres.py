"""PostgreSQL as the source of a comparison."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pyarrow as pa

from config.errors import ConfigurationError, Unavailable
from config.pipeline import SourceConfig
from verify.source import arrow_column

ROWS_PER_FETCH = 50_000

_NATIVE = {
    "date",
    "time",
    "timestamp",
    "timestamptz",
    "bool",
    "int2",
    "int4",
    "int8",
    "float4",
    "float8",
    "bytea",
    "numeric",
}


class PostgresReader:
    """See `verify.source.SourceReader`."""

    def __init__(self, connection: Any, source: SourceConfig) -> None:
        self._connection = connection
        self._source = source

    @classmethod
    async def connect(cls, source: SourceConfig) -> PostgresReader:
        """Connect as the pipeline's user."""
        where = f"PostgreSQL at {source.host}:{source.port}, database {source.database}"
        try:
            connection = await asyncpg.connect(
                host=source.host,
                port=source.port,
                user=source.username,
                password=source.password.get_secret_value(),
                database=source.database,
                timeout=15,
            )
        except (OSError, TimeoutError) as error:
            raise Unavailable(f"{where}: {error}") from error
        except asyncpg.PostgresError as error:
            raise ConfigurationError(f"{where}: {error}") from error
        return cls(connection, source)

    async def key(self, table: str) -> tuple[str, ...]:
        rows = await self._connection.fetch(
            "SELECT a.attname FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY k(attnum, n)"
            " JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum"
            " WHERE i.indrelid = $1::regclass AND i.indisprimary ORDER BY k.n",
            _quoted(table),
        )
        return tuple(row[0] for row in rows)

    async def read(self, table: str, columns: pa.Schema) -> pa.Table:
        types = dict(
            await self._connection.fetch(
                "SELECT a.attname, t.typname FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid"
                " WHERE a.attrelid = $1::regclass AND a.attnum > 0 AND NOT a.attisdropped",
                _quoted(table),
            )
        )
        missing = [name for name in columns.names if name not in types]
        if missing:
            raise ConfigurationError(f"{table} has no column {', '.join(missing)}, which the sink's table has")
        picked = ", ".join(_expression(field, types[field.name]) for field in columns)
        parts: list[list[Any]] = [[] for _ in columns]
        async with self._snapshot():
            cursor = await self._connection.cursor(f"SELECT {picked} FROM {_quoted(table)}")
            while rows := await cursor.fetch(ROWS_PER_FETCH):
                for part, values in zip(parts, zip(*rows, strict=True), strict=True):
                    part.extend(values)
        arrays = [arrow_column(field.name, part, field.type) for field, part in zip(columns, parts, strict=True)]
        return pa.table(arrays, names=columns.names)

    async def all_sent(self) -> bool:
        """Whether the slot's walsender has sent the log up to here."""
        sent = await self._connection.fetchval(
            "SELECT r.sent_lsn >= pg_current_wal_lsn() FROM pg_replication_slots s"
            " JOIN pg_stat_replication r ON r.pid = s.active_pid WHERE s.slot_name = $1",
            self._source.slot_name,
        )
        return bool(sent)

    async def close(self) -> None:
        await self._connection.close()

    @asynccontextmanager
    async def _snapshot(self) -> Any:
        async with self._connection.transaction(isolation="repeatable_read", readonly=True):
            yield


def _expression(field: pa.Field, source_type: str) -> str:
    """Text for everything whose Python value isn't what the connector sends (uuid, json, enums, …)."""
    name = '"' + field.name.replace('"', '""') + '"'
    return name if source_type in _NATIVE or pa.types.is_nested(field.type) else f"{name}::text"


def _quoted(table: str) -> str:
    return ".".join('"' + part.replace('"', '""') + '"' for part in table.split(".", 1))
