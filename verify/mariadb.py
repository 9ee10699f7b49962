"""MariaDB and MySQL as the source of a comparison."""

from __future__ import annotations

import asyncio
from typing import Any

import pyarrow as pa
import pymysql
from pymysql.cursors import SSCursor

from config.errors import ConfigurationError, Unavailable
from config.pipeline import SourceConfig
from verify.source import arrow_column

ROWS_PER_FETCH = 20_000


class MariaDbReader:
    """See `verify.source.SourceReader`. The driver is synchronous: calls run in a thread."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @classmethod
    async def connect(cls, source: SourceConfig) -> MariaDbReader:
        """Connect as the pipeline's user, in UTC."""
        where = f"{source.source_type} at {source.host}:{source.port}, database {source.database}"

        def connect() -> Any:
            return pymysql.connect(
                host=source.host,
                port=source.port,
                user=source.username,
                password=source.password.get_secret_value(),
                database=source.database,
                charset="utf8mb4",
                init_command="SET time_zone = '+00:00'",
                autocommit=True,
                connect_timeout=15,
            )

        try:
            return cls(await asyncio.to_thread(connect))
        except pymysql.OperationalError as error:
            raise Unavailable(f"{where}: {error}") from error
        except pymysql.MySQLError as error:
            raise ConfigurationError(f"{where}: {error}") from error

    async def key(self, table: str) -> tuple[str, ...]:
        schema, name = table.split(".", 1)
        rows = await asyncio.to_thread(
            self._query,
            "SELECT COLUMN_NAME FROM information_schema.KEY_COLUMN_USAGE WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s"
            " AND CONSTRAINT_NAME = 'PRIMARY' ORDER BY ORDINAL_POSITION",
            (schema, name),
        )
        return tuple(row[0] for row in rows)

    async def read(self, table: str, columns: pa.Schema) -> pa.Table:
        return await asyncio.to_thread(self._read, table, columns)

    def _read(self, table: str, columns: pa.Schema) -> pa.Table:
        picked = ", ".join(_quoted(name) for name in columns.names)
        source = ".".join(_quoted(part) for part in table.split(".", 1))
        parts: list[list[Any]] = [[] for _ in columns]
        with self._connection.cursor(SSCursor) as cursor:
            try:
                cursor.execute(f"SELECT {picked} FROM {source}")
            except pymysql.MySQLError as error:
                raise ConfigurationError(f"{table} can't be read with the sink's columns: {error}") from error
            while rows := cursor.fetchmany(ROWS_PER_FETCH):
                for part, values in zip(parts, zip(*rows, strict=True), strict=True):
                    part.extend(values)
        arrays = [arrow_column(field.name, part, field.type) for field, part in zip(columns, parts, strict=True)]
        return pa.table(arrays, names=columns.names)

    async def all_sent(self) -> bool:
        """Whether every replica that reads the binlog has been sent all of it, and there is one."""
        rows = await asyncio.to_thread(
            self._query,
            "SELECT STATE FROM information_schema.PROCESSLIST WHERE COMMAND LIKE 'Binlog Dump%%'",
            (),
        )
        return bool(rows) and all("sent all binlog" in (row[0] or "").lower() for row in rows)

    async def close(self) -> None:
        self._connection.close()

    def _query(self, sql: str, parameters: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return list(cursor.fetchall())


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
