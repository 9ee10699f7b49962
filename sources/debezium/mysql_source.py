"""A MySQL or MariaDB source, seen directly."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import pymysql

from config.errors import ConfigurationError, Unavailable
from config.source import SourceConfig
from sources.debezium.source_types import SourceColumn, SqlType

CONNECT_TIMEOUT_SECONDS = 5

_LOST_OR_BUSY = frozenset({1040, 1053, 2003, 2006, 2013})
"""Too many connections, shutting down, can't connect, gone away, lost."""

_NEEDED = {"log_bin": "ON", "binlog_format": "ROW", "binlog_row_image": "FULL"}
"""Row images in full: with MINIMAL an update would bring its changed columns only."""

_T = TypeVar("_T")


class MySqlSource:
    """`sources.debezium.source_database.SourceDatabase` for MySQL and MariaDB; each call opens its own connection."""

    def __init__(self, source: SourceConfig) -> None:
        self._source = source
        kind = "MariaDB" if source.source_type == "mariadb" else "MySQL"
        self.address = f"{kind} {source.host}:{source.port}/{source.database}"

    async def version(self) -> str:
        """`10.11.14-MariaDB-log`, as the server says it."""
        return str(await self._query(lambda cursor: _rows(cursor, "SELECT version()")[0][0]))

    async def columns(self) -> Mapping[str, tuple[SourceColumn, ...]]:
        """The columns of the watched tables that exist and that the user may see, in their order."""
        wanted = [tuple(table.split(".", 1)) for table in self._source.watched]

        def read(cursor: Any) -> dict[str, tuple[SourceColumn, ...]]:
            found: dict[str, tuple[SourceColumn, ...]] = {}
            sql = (
                "SELECT table_schema, table_name, column_name, column_type, is_nullable = 'YES', column_key = 'PRI',"
                " column_default IS NOT NULL AND column_default NOT RLIKE '^(NULL|current_timestamp.*)$'"
                " FROM information_schema.columns WHERE (table_schema, table_name) IN %s ORDER BY ordinal_position"
            )
            for schema, table, name, kind, nullable, key, default in _rows(cursor, sql, (wanted,)):
                column = SourceColumn(name, kind, bool(nullable), bool(key), default=bool(default))
                found[f"{schema}.{table}"] = (*found.get(f"{schema}.{table}", ()), column)
            return found

        return await self._query(read)

    async def warnings(self, columns: Mapping[str, tuple[SourceColumn, ...]]) -> tuple[str, ...]:
        """Columns whose zero dates nobody can tell from null, where the server allows zero dates."""
        temporal = [
            f"{table}.{column.name}"
            for table, found in columns.items()
            for column in found
            if SqlType.parse(column.type).name in ("date", "datetime", "timestamp")
        ]
        modes = str(await self._query(lambda cursor: _rows(cursor, "SELECT @@GLOBAL.sql_mode")[0][0]))
        if not temporal or {"NO_ZERO_DATE", "NO_ZERO_IN_DATE"} <= set(modes.split(",")):
            return ()
        return (
            f"{self.address}: its sql_mode allows zero dates (0000-00-00), for which Debezium sends null, or the"
            f" column's default where that is set and the column NOT NULL ({', '.join(temporal)}). Set NO_ZERO_DATE and"
            " NO_ZERO_IN_DATE, if there are none",
        )

    async def obstacles(self, *, connector_exists: bool) -> tuple[str, ...]:  # noqa: ARG002 - a replica shares nothing
        """Settings that the binary log needs."""

        def read(cursor: Any) -> dict[str, str]:
            return dict(_rows(cursor, "SHOW VARIABLES WHERE variable_name IN %s", (list(_NEEDED),)))

        actual = await self._query(read)
        return tuple(
            f"{self.address}: {name} is {actual.get(name, 'unknown')}; set it to {value} in the server's configuration"
            for name, value in _NEEDED.items()
            if str(actual.get(name, "")).upper() != value
        )

    async def release(self, timeout: float = 30.0) -> tuple[str, ...]:  # noqa: ARG002 - nothing to wait for
        """Nothing: a replica that is gone leaves nothing on the server."""
        return ()

    async def _query(self, ask: Callable[[Any], _T]) -> _T:
        return await asyncio.to_thread(self._ask, ask)

    def _ask(self, ask: Callable[[Any], _T]) -> _T:
        source = self._source
        try:
            connection = pymysql.connect(
                host=source.host,
                port=source.port,
                user=source.username,
                password=source.password.get_secret_value(),
                connect_timeout=CONNECT_TIMEOUT_SECONDS,
                read_timeout=CONNECT_TIMEOUT_SECONDS,
            )
            with connection, connection.cursor() as cursor:
                return ask(cursor)
        except (pymysql.MySQLError, OSError) as error:
            code = error.args[0] if error.args else None
            reason = error.args[-1] if error.args else type(error).__name__
            if isinstance(error, OSError) or code in _LOST_OR_BUSY:
                raise Unavailable(f"{self.address} doesn't answer: {reason} (source.host, source.port)") from error
            raise ConfigurationError(f"{self.address} refused user {source.username}: {reason}") from error


def _rows(cursor: Any, sql: str, arguments: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    cursor.execute(sql, arguments)
    return list(cursor.fetchall())
