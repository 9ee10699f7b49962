"""PostgreSQL as the source of a comparison: COPY out of a repeatable-read snapshot."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any

import asyncpg
import pyarrow as pa
import pyarrow.csv as csv

from config.errors import ConfigurationError, Unavailable
from config.pipeline import SourceConfig
from verify import texts
from verify.columns import Column, Reading
from verify.postgres_types import SESSION, quoted, reading, text_of
from verify.source import Position, SourceTable, Take
from verify.sql_keys import Dialect, key_filter

BATCH_BYTES = 4 << 20

_PAGE = 8192
_HEADERS = (24, 40)
"""Bytes of a log page, and of the headers at the start of a page and of a segment."""

Connect = Callable[[], Awaitable[Any]]
"""Opens one more connection."""

_LOST = (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.OperatorInterventionError)

_WRITERS = """
    WITH parts AS (SELECT to_regclass($1)::oid AS relid UNION SELECT relid FROM pg_partition_tree(to_regclass($1)))
    SELECT DISTINCT CASE WHEN pid IS NULL THEN 'prepared transaction ' || split_part(virtualtransaction, '/', 2)
        ELSE 'process ' || pid || ' (virtual transaction ' || virtualtransaction || ')' END
    FROM pg_locks JOIN parts ON relation = relid
    WHERE locktype = 'relation' AND mode = 'RowExclusiveLock' AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
"""Who has changed rows holds this lock until after others can see them (PostgreSQL: Explicit Locking, 13.3.1), and
everybody may read pg_locks."""

_SENT = """
    SELECT r.sent_lsn >= $2::text::pg_lsn FROM pg_replication_slots s
    JOIN pg_stat_replication r ON r.pid = s.active_pid WHERE s.slot_name = $1
"""


class PostgresReader:
    """See `verify.source.SourceReader`."""

    def __init__(self, connection: Any, source: SourceConfig, where: str, connect: Connect) -> None:
        self._connection = connection
        self._source = source
        self._where = where
        self._connect = connect
        self._written_out: Position | None = None

    @classmethod
    async def connect(cls, source: SourceConfig) -> PostgresReader:
        """Connect as the pipeline's user."""
        where = f"PostgreSQL at {source.host}:{source.port}, database {source.database}"
        connect = partial(
            asyncpg.connect,
            host=source.host,
            port=source.port,
            user=source.username,
            password=source.password.get_secret_value(),
            database=source.database,
            timeout=15,
            server_settings=SESSION,
        )
        try:
            connection = await connect()
        except (OSError, TimeoutError) as error:
            raise Unavailable(f"{where}: {error}") from error
        except asyncpg.PostgresError as error:
            raise ConfigurationError(f"{where}: {error}") from error
        return cls(connection, source, where, connect)

    async def rows(self, table: str) -> int:
        with self._asking(table):
            rows = await self._connection.fetchval(
                "SELECT reltuples::bigint FROM pg_class WHERE oid = $1::regclass", _table(table)
            )
        return max(0, int(rows))

    def reading(self, column: Column, kind: pa.DataType) -> Reading | None:
        return reading(column) if column.fits(kind) else None

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[PostgresSnapshot]:
        transaction = self._connection.transaction(isolation="repeatable_read", readonly=True)
        with self._asking("a snapshot"):
            await transaction.start()
            # What a snapshot shows was logged before it became visible, so the position is asked for after it has
            # begun; it may be later than need be, never earlier.
            await self._connection.execute("SELECT FROM pg_class LIMIT 1")
            lsn = await self._connection.fetchval("SELECT pg_current_wal_insert_lsn()::text")
        try:
            yield PostgresSnapshot(self._connection, _position(_number(lsn)), self._where)
        finally:
            # of a connection that is lost the block has told already, and the server ends its transaction
            with suppress(asyncpg.InterfaceError, asyncpg.PostgresError, OSError):
                await transaction.rollback()

    async def unseen(self, table: str) -> frozenset[str]:
        """Those that have changed rows of it, or of its partitions, and haven't ended (`synchronous_commit`)."""
        with self._asking("pg_locks"):
            return frozenset(row[0] for row in await self._connection.fetch(_WRITERS, _table(table)))

    async def all_sent(self, position: Position) -> bool:
        """Whether the slot's walsender has sent the log up to there."""
        with self._asking("pg_stat_replication"):
            sent = bool(await self._connection.fetchval(_SENT, self._source.slot_name, _lsn(position.value[0])))
        if not sent and self._written_out != position:
            self._written_out = position
            await self._write_log_out()
        return sent

    async def _write_log_out(self) -> None:
        """Commit a transaction that changes nothing. What reading logs (pruned pages, hint bits under checksums) is
        written out, and so sent, with the next commit; a quiet server may take 15 s to log something by itself."""
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
            connection = await self._connect()
            try:
                await connection.execute("SELECT txid_current()")
            finally:
                await connection.close()

    def stored(self, offset: Mapping[str, Any]) -> Position | None:
        lsn = offset.get("lsn")
        if lsn is None or offset.get("snapshot"):
            return None
        # other changes of the same transaction may have this number too: only what lies before it is surely through
        return _position(int(lsn) - 1)

    async def try_signals(self, table: str) -> None:
        with self._asking(f"the signalling table {table}"):
            await self._connection.execute(f"INSERT INTO {_table(table)} SELECT '', '', '' WHERE FALSE")

    async def signal(self, table: str, statements: list[tuple[str, str, str]]) -> None:
        with self._asking(f"the signalling table {table}"):
            await self._connection.executemany(f"INSERT INTO {_table(table)} VALUES ($1, $2, $3)", statements)

    def key_filter(self, table: SourceTable, keys: pa.Table) -> str:
        return key_filter(table, keys, Dialect(quoted, text_of, "'\\x{}'::bytea"))

    async def close(self) -> None:
        await self._connection.close()

    def _asking(self, what: str) -> Any:
        return _asking(f"{self._where}, {what}")


class PostgresSnapshot:
    """See `verify.source.SourceSnapshot`."""

    def __init__(self, connection: Any, position: Position, where: str) -> None:
        self._connection = connection
        self._where = where
        self.position = position

    async def read(self, table: str, columns: Mapping[pa.Field, Reading], take: Take, where: str = "TRUE") -> None:
        """Every value is quoted in the CSV, so that only null is empty. A message of COPY's holds whole rows (so says
        the protocol), so what has gathered after any of them can be parsed."""
        schema = pa.schema(list(columns))
        gathered: list[bytes] = []
        size = 0

        def flush() -> None:
            rows = _parse(b"".join(gathered), len(columns))
            arrays = [
                texts.column(field.name, rows.column(i).combine_chunks(), field.type, reading.read)
                for i, (field, reading) in enumerate(columns.items())
            ]
            take(pa.table(arrays, schema=schema))

        async def receive(data: bytes) -> None:
            nonlocal size
            gathered.append(data)
            size += len(data)
            if size >= BATCH_BYTES:
                await asyncio.to_thread(flush)
                gathered.clear()
                size = 0

        picked = ", ".join(reading.sql for reading in columns.values())
        query = f"SELECT {picked} FROM {_table(table)} WHERE {where}"
        with _asking(f"{self._where}, {table}"):
            async with self._connection.transaction():  # a savepoint: what fails doesn't end the snapshot
                await self._connection.copy_from_query(query, output=receive, format="csv", force_quote=True)
        if gathered:
            await asyncio.to_thread(flush)


def _parse(data: bytes, columns: int) -> pa.Table:
    """CSV with every value quoted as columns of strings."""
    numbered = [str(number) for number in range(columns)]
    return csv.read_csv(
        io.BytesIO(data),
        csv.ReadOptions(column_names=numbered, use_threads=False, block_size=len(data) + 1),
        csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
        csv.ConvertOptions(
            column_types=dict.fromkeys(numbered, pa.string()),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
        ),
    )


@contextmanager
def _asking(what: str) -> Iterator[None]:
    try:
        yield
    except asyncpg.UndefinedTableError as error:
        raise ConfigurationError(f"{what}: {error}") from error
    except (*_LOST, OSError) as error:
        raise Unavailable(f"{what}: {error}") from error
    except asyncpg.PostgresError as error:
        raise ConfigurationError(f"{what}: {error}") from error


def _table(name: str) -> str:
    return ".".join(quoted(part) for part in name.split(".", 1))


def _number(lsn: str) -> int:
    """A log position as a number. One that lies right behind a page's header is the end of the page before: nothing
    was written after that header yet, and the server won't say that it has sent it."""
    high, low = lsn.split("/")
    number = int(high, 16) << 32 | int(low, 16)
    return number - number % _PAGE if number % _PAGE in _HEADERS else number


def _lsn(number: int) -> str:
    return f"{number >> 32:X}/{number & 0xFFFFFFFF:X}"


def _position(number: int) -> Position:
    return Position((number,), f"LSN {_lsn(number)}")
