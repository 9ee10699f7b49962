"""MariaDB and MySQL as the source of a comparison: an unbuffered SELECT out of a consistent snapshot."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import pyarrow as pa
import pymysql
from pymysql.cursors import SSCursor

from config.errors import ConfigurationError, Unavailable
from config.pipeline import SourceConfig
from verify import texts
from verify.columns import Column, Reading
from verify.mariadb_types import quoted, reading, text_of, truth
from verify.source import Position, SourceTable, Take
from verify.sql_keys import Dialect, key_filter

ROWS_PER_FETCH = 20_000
READ_TIMEOUT_SECONDS = 600
"""How long the server may stay silent before the connection counts as lost."""

_LOST = frozenset({2006, 2013, 1053, 1317})
_NO_TABLE = 1146
_SYNTAX = 1064


class MariaDbReader:
    """See `verify.source.SourceReader`. The driver is synchronous: calls run in a thread."""

    def __init__(self, connection: Any, source: SourceConfig, where: str) -> None:
        self._connection = connection
        self._source = source
        self._where = where

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
                init_command="SET time_zone = '+00:00', sql_mode = '', net_write_timeout = 600",
                autocommit=True,
                connect_timeout=15,
                read_timeout=READ_TIMEOUT_SECONDS,
                # every value as the server writes it; `verify.texts` reads them
                use_unicode=False,
                conv={},
            )

        with _asking(where):
            return cls(await asyncio.to_thread(connect), source, where)

    async def rows(self, table: str) -> int:
        sql = "SELECT TABLE_ROWS FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s"
        rows = await self._query(sql, table.split(".", 1))
        return int(rows[0][0] or 0) if rows else 0

    def reading(self, column: Column, kind: pa.DataType) -> Reading | None:
        if pa.types.is_boolean(kind) and column.source.type == "tinyint(1)":
            return truth(column.name)
        return reading(column, mysql=self._source.source_type == "mysql") if column.fits(kind) else None

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[MariaDbSnapshot]:
        await self._query("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ", ())
        await self._query("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY", ())
        try:
            # the log's end after the snapshot has begun: it may be later than need be, never earlier
            yield MariaDbSnapshot(self._connection, await self._position(), self._where)
        finally:
            # of a connection that is lost the block has told already, and the server ends its transaction
            with suppress(Unavailable, ConfigurationError):
                await self._query("ROLLBACK", ())

    async def unseen(self, table: str) -> frozenset[str]:  # noqa: ARG002 - the server counts those of all tables
        """Whether commits wait for a semi-synchronous replica before others see them (`AFTER_SYNC`). The server counts
        them, and doesn't tell one from the other."""
        found = dict[str, str]()
        for what in ("VARIABLES LIKE 'rpl_semi_sync_%%_wait_point'", "STATUS LIKE 'Rpl_semi_sync_%%_wait_sessions'"):
            for name, value in await self._query(f"SHOW GLOBAL {what}", ()):
                found[re.sub("_(master|source)_", "_", _text(name).lower())] = _text(value)
        hidden = found.get("rpl_semi_sync_wait_point") == "AFTER_SYNC"
        waiting = hidden and int(found.get("rpl_semi_sync_wait_sessions", 0)) > 0
        return frozenset({"a commit that waits for a semi-synchronous replica"} if waiting else ())

    async def all_sent(self, position: Position) -> bool:  # noqa: ARG002 - replicas say of the whole log only
        """Whether every replica that reads the binlog has been sent all of it, and there is one."""
        rows = await self._query(
            "SELECT STATE FROM information_schema.PROCESSLIST WHERE COMMAND LIKE 'Binlog Dump%%'", ()
        )
        return bool(rows) and all("sent all binlog" in _text(row[0] or b"").lower() for row in rows)

    def stored(self, offset: Mapping[str, Any]) -> Position | None:
        if offset.get("file") is None or offset.get("pos") is None or offset.get("snapshot"):
            return None
        return _position(str(offset["file"]), int(offset["pos"]))

    async def try_signals(self, table: str) -> None:
        await self._query(f"INSERT INTO {_table(table)} SELECT '', '', '' FROM DUAL WHERE FALSE", ())

    async def signal(self, table: str, statements: list[tuple[str, str, str]]) -> None:
        for statement in statements:
            await self._query(f"INSERT INTO {_table(table)} VALUES (%s, %s, %s)", statement)

    def key_filter(self, table: SourceTable, keys: pa.Table) -> str:
        return key_filter(table, keys, Dialect(quoted, text_of, "x'{}'", backslash_escapes=True))

    async def close(self) -> None:
        self._connection.close()

    async def _position(self) -> Position:
        try:
            rows = await self._query("SHOW MASTER STATUS", ())
        except ConfigurationError as error:
            if not isinstance(error.__cause__, pymysql.ProgrammingError) or error.__cause__.args[0] != _SYNTAX:
                raise
            rows = await self._query("SHOW BINARY LOG STATUS", ())  # MySQL 8.4
        if not rows:
            raise ConfigurationError(f"{self._where}: the server writes no binary log; set log_bin = ON")
        return _position(_text(rows[0][0]), int(rows[0][1]))

    async def _query(self, sql: str, parameters: Any) -> list[tuple[Any, ...]]:
        def ask() -> list[tuple[Any, ...]]:
            with _asking(self._where), self._connection.cursor() as cursor:
                cursor.execute(sql, parameters)
                return list(cursor.fetchall())

        return await asyncio.to_thread(ask)


class MariaDbSnapshot:
    """See `verify.source.SourceSnapshot`."""

    def __init__(self, connection: Any, position: Position, where: str) -> None:
        self._connection = connection
        self._where = where
        self.position = position

    async def read(self, table: str, columns: Mapping[pa.Field, Reading], take: Take, where: str = "TRUE") -> None:
        await asyncio.to_thread(self._read, table, columns, take, where)

    def _read(self, table: str, columns: Mapping[pa.Field, Reading], take: Take, where: str) -> None:
        schema = pa.schema(list(columns))
        picked = ", ".join(reading.sql for reading in columns.values())
        with _asking(f"{self._where}, {table}"), self._connection.cursor(SSCursor) as cursor:
            cursor.execute(f"SELECT {picked} FROM {_table(table)} WHERE {where}")
            while rows := cursor.fetchmany(ROWS_PER_FETCH):
                arrays = [
                    texts.column(field.name, texts.strings(list(values)), field.type, reading.read)
                    for (field, reading), values in zip(columns.items(), zip(*rows, strict=True), strict=True)
                ]
                take(pa.table(arrays, schema=schema))


@contextmanager
def _asking(what: str) -> Iterator[None]:
    try:
        yield
    except pymysql.OperationalError as error:
        if error.args and error.args[0] in _LOST | {2003, 1040}:
            raise Unavailable(f"{what}: {error.args[-1]}") from error
        raise ConfigurationError(f"{what}: {error.args[-1]}") from error
    except pymysql.InterfaceError as error:
        raise Unavailable(f"{what}: the connection is lost ({error})") from error
    except pymysql.MySQLError as error:
        raise ConfigurationError(f"{what}: {error.args[-1]}") from error


def _table(name: str) -> str:
    return ".".join(quoted(part) for part in name.split(".", 1))


def _text(value: bytes) -> str:
    return value.decode()


def _position(file: str, offset: int) -> Position:
    number = re.search(r"(\d+)$", file)
    return Position((int(number[1]) if number else 0, offset), f"{file}:{offset}")
