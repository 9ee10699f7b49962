"""A PostgreSQL source, seen directly."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager

import asyncpg

from config.errors import ConfigurationError, Unavailable
from config.source import SourceConfig
from sources.debezium.source_types import SourceColumn

CONNECT_TIMEOUT_SECONDS = 5.0
POLL_SECONDS = 0.1

_COLUMNS = """
    WITH RECURSIVE resolved AS (
        SELECT a.attrelid, a.attnum, a.atttypid AS type, a.atttypmod AS modifier
        FROM pg_attribute a WHERE a.attnum > 0 AND NOT a.attisdropped
        UNION ALL
        SELECT r.attrelid, r.attnum, t.typbasetype, t.typtypmod
        FROM resolved r JOIN pg_type t ON t.oid = r.type WHERE t.typtype = 'd'
    )
    SELECT n.nspname || '.' || c.relname AS "table", a.attname::text AS name, NOT a.attnotnull AS nullable,
        a.attgenerated <> '' AS generated, COALESCE(a.attnum = ANY(i.indkey), false) AS key,
        CASE WHEN t.typtype = 'e' THEN 'enum' WHEN e.typtype = 'e' THEN 'enum[]'
            ELSE format_type(r.type, r.modifier) END || repeat('[]', a.attndims - 1) AS type
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
        JOIN resolved r ON r.attrelid = c.oid AND r.attnum = a.attnum
        JOIN pg_type t ON t.oid = r.type AND t.typtype <> 'd'
        LEFT JOIN pg_type e ON e.oid = t.typelem AND t.typcategory = 'A'
        LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
    WHERE c.relkind IN ('r', 'p') AND n.nspname || '.' || c.relname = ANY($1)
    ORDER BY 1, a.attnum
"""

_IDENTITIES = """
    SELECT n.nspname || '.' || c.relname AS "table", c.relreplident::text AS kind,
        (SELECT array_agg(a.attname::text) FROM pg_index i
            JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY(i.indkey)
            WHERE i.indrelid = c.oid AND i.indisprimary) AS key,
        (SELECT array_agg(a.attname::text) FROM pg_index i
            JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY(i.indkey)
            WHERE i.indrelid = c.oid AND i.indisreplident) AS index
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND n.nspname || '.' || c.relname = ANY($1)
"""

_UNREADABLE = """
    SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND n.nspname || '.' || c.relname = ANY($1)
      AND NOT (has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'))
"""

# Amazon RDS gives the right by membership in a role instead of the attribute.
_MAY_REPLICATE = """
    SELECT rolsuper OR rolreplication OR EXISTS (
        SELECT FROM pg_roles r WHERE r.rolname = 'rds_replication' AND pg_has_role(current_user, r.oid, 'MEMBER'))
    FROM pg_roles WHERE rolname = current_user
"""


class PostgresSource:
    """`sources.debezium.source_database.SourceDatabase` for PostgreSQL; each call opens its own connection."""

    def __init__(self, source: SourceConfig) -> None:
        self._source = source
        self.address = f"PostgreSQL {source.host}:{source.port}/{source.database}"

    async def version(self) -> str:
        """`PostgreSQL 15.14`."""
        async with self._connected() as connection:
            return f"PostgreSQL {str(await connection.fetchval('SHOW server_version')).split()[0]}"

    async def columns(self) -> Mapping[str, tuple[SourceColumn, ...]]:
        """The columns of the watched tables that exist, in their order."""
        async with self._connected() as connection:
            rows = await connection.fetch(_COLUMNS, list(self._source.watched))
        found: dict[str, tuple[SourceColumn, ...]] = {}
        for row in rows:
            column = SourceColumn(row["name"], row["type"], row["nullable"], row["key"], row["generated"])
            found[row["table"]] = (*found.get(row["table"], ()), column)
        return found

    async def warnings(self, columns: Mapping[str, tuple[SourceColumn, ...]]) -> tuple[str, ...]:  # noqa: ARG002
        """None: what PostgreSQL's values lose is known by their types."""
        return ()

    async def obstacles(self, *, connector_exists: bool) -> tuple[str, ...]:
        """Settings and rights that logical replication needs."""
        source, found = self._source, []
        async with self._connected() as connection:
            wal_level = await connection.fetchval("SHOW wal_level")
            if wal_level != "logical":
                found.append(f"{self.address}: wal_level is {wal_level}; set it to logical and restart the server")
            if not await connection.fetchval(_MAY_REPLICATE):
                found.append(
                    f"{self.address}: user {source.username} may not replicate:"
                    f' ALTER ROLE "{source.username}" REPLICATION'
                )
            found += [
                f'{self.address}: user {source.username} may not read {row[0]}: GRANT SELECT ON {row[0]} TO "'
                f'{source.username}" (and USAGE on its schema)'
                for row in await connection.fetch(_UNREADABLE, list(source.tables))
            ]
            for row in await connection.fetch(_IDENTITIES, list(source.tables)):
                found += self._identity_problems(row["table"], row["kind"], row["key"] or (), row["index"] or ())
            slot = await self._slot(connection)
            if slot is not None and slot["active"] and not connector_exists:
                found.append(
                    f"{self.address}: replication slot {source.slot_name} is in use by process {slot['active_pid']},"
                    " another connector's probably: give this pipeline a source.slot_name (and publication_name)"
                )
        return tuple(found)

    def _identity_problems(self, table: str, kind: str, primary: Sequence[str], index: Sequence[str]) -> Iterator[str]:
        """What the log has of a row that is changed or deleted is its replica identity; the key has to be in it."""
        key = self._source.key_columns.get(table, tuple(primary))
        logged = {"d": primary, "i": index, "f": key}.get(kind, ())
        missing = sorted(set(key) - set(logged))
        if missing:
            yield (
                f"{self.address}: {table}: the log doesn't have {', '.join(missing)} of rows that are deleted, which"
                f" are its key: ALTER TABLE {table} REPLICA IDENTITY FULL (or DEFAULT for its primary key)"
            )
        elif not key and kind != "f":
            yield (
                f"{self.address}: {table} has no primary key: once it is published, PostgreSQL refuses its updates and"
                f" deletes. ALTER TABLE {table} REPLICA IDENTITY FULL, or give it a primary key"
            )

    async def release(self, timeout: float = 90.0) -> tuple[str, ...]:
        """Drop slot and publication. A slot that stays would keep the server's log for ever.

        A deleted connector may leave its connection without a goodbye: the server then holds the slot until
        `wal_sender_timeout` (60 s by default) is over, so `timeout` (seconds) is longer.
        """
        source, dropped = self._source, []
        deadline = time.monotonic() + timeout
        async with self._connected() as connection:
            while (slot := await self._slot(connection)) is not None:
                if not slot["active"]:
                    await connection.execute("SELECT pg_drop_replication_slot($1)", source.slot_name)
                    dropped.append(f"replication slot {source.slot_name}")
                    break
                if time.monotonic() > deadline:
                    raise Unavailable(
                        f"{self.address}: replication slot {source.slot_name} is still in use by process"
                        f" {slot['active_pid']}; while it exists the server keeps its log. Try again"
                    )
                await asyncio.sleep(POLL_SECONDS)
            name = source.publication_name
            if await connection.fetchval("SELECT EXISTS (SELECT FROM pg_publication WHERE pubname = $1)", name):
                quoted = name.replace('"', '""')
                await connection.execute(f'DROP PUBLICATION IF EXISTS "{quoted}"')
                dropped.append(f"publication {name}")
        return tuple(dropped)

    async def _slot(self, connection: asyncpg.Connection) -> asyncpg.Record | None:
        return await connection.fetchrow(
            "SELECT active, active_pid FROM pg_replication_slots WHERE slot_name = $1", self._source.slot_name
        )

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[asyncpg.Connection]:
        source = self._source
        try:
            connection = await asyncpg.connect(
                host=source.host,
                port=source.port,
                user=source.username,
                password=source.password.get_secret_value(),
                database=source.database,
                timeout=CONNECT_TIMEOUT_SECONDS,
            )
        except (OSError, TimeoutError, asyncpg.CannotConnectNowError, asyncpg.TooManyConnectionsError) as error:
            raise Unavailable(
                f"{self.address} doesn't answer: {str(error) or type(error).__name__} (source.host, source.port)"
            ) from error
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise ConfigurationError(
                f"{self.address} refused user {source.username}: {error} (source.username, source.password)"
            ) from error
        try:
            yield connection
        except asyncpg.PostgresError as error:
            raise ConfigurationError(f"{self.address}: {error} (user {source.username})") from error
        finally:
            await connection.close()
