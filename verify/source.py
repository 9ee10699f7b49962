"""The source's side: tables read in one snapshot whose position in the database's log is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import pyarrow as pa

from config.errors import ConfigurationError
from config.pipeline import PipelineConfig, SourceConfig
from verify.columns import Column, Reading

Take: TypeAlias = Callable[[pa.Table], None]
"""Takes a batch of rows; called in a worker thread."""


@dataclass(frozen=True, order=True)
class Position:
    """A place in the database's log; later ones are greater. `text`: as the database writes it."""

    value: tuple[int, ...]
    text: str = field(compare=False)


@dataclass(frozen=True)
class SourceTable:
    """`name`: `schema.table`. `key`: the columns by which rows are told apart, empty without any. `rows`: about how
    many there are, as the database's statistics say."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    rows: int

    def column(self, name: str) -> Column | None:
        """The column of this name, None if there is none."""
        return next((column for column in self.columns if column.name == name), None)


class SourceSnapshot(Protocol):
    """The database as it was at one moment."""

    position: Position
    """All that this snapshot shows was logged before it."""

    async def read(self, table: str, columns: Mapping[pa.Field, Reading], take: Take, where: str = "TRUE") -> None:
        """Hand over the rows of `schema.table` for which `where` (SQL) holds, with these columns at their types (as
        the sink stores them), in batches of some 10,000.

        Raises ConfigurationError for a value that doesn't fit, Unavailable when the connection is lost.
        """


class SourceReader(Protocol):
    """A connection to the source database. Raises Unavailable when it is away."""

    async def rows(self, table: str) -> int:
        """About how many rows `schema.table` has, as the database's statistics say."""

    def reading(self, column: Column, kind: pa.DataType) -> Reading | None:
        """How the values of a column are read at the sink's type; None if it isn't known how they are represented."""

    def snapshot(self) -> AbstractAsyncContextManager[SourceSnapshot]:
        """A snapshot that lasts as long as the block; one at a time."""

    async def unseen(self, table: str) -> frozenset[str]:
        """Transactions that may have logged changes of `schema.table` which no snapshot shows yet, named for people.

        A commit that waits for a synchronous standby is in the log, and so with the connector, before others see it,
        for as long as the standby is away. Whatever two snapshots in a row don't show for that reason belongs to a
        transaction that was named before both.
        """

    async def all_sent(self, position: Position) -> bool:
        """Whether the database has handed everything up to a position to the connector."""

    def stored(self, offset: Mapping[str, Any]) -> Position | None:
        """The position that Connect keeps for the connector; None while a first snapshot is under way."""

    async def try_signals(self, table: str) -> None:
        """Raises ConfigurationError if the signalling table `schema.table` isn't there, or mayn't be written."""

    async def signal(self, table: str, statements: list[tuple[str, str, str]]) -> None:
        """Insert rows (id, type, data) into the signalling table `schema.table`."""

    def key_filter(self, table: SourceTable, keys: pa.Table) -> str:
        """A condition in the database's SQL that holds for these keys, which the sink's types represent."""

    async def close(self) -> None:
        """Let go of the connection."""


async def source_table(
    source: SourceReader, pipeline: PipelineConfig, columns: Mapping[str, tuple[Column, ...]], name: str
) -> SourceTable:
    """The table `schema.table`, out of the `columns` of all tables. Raises ConfigurationError if it isn't there."""
    found = columns.get(name)
    if found is None:
        raise ConfigurationError(f"the source has no table {name}, or the user may not read it (source.tables)")
    primary = tuple(column.name for column in found if column.source.key)
    return SourceTable(name, found, pipeline.source.key_columns.get(name, primary), await source.rows(name))


async def connect_source(source: SourceConfig) -> SourceReader:
    """A reader of the pipeline's source."""
    if source.source_type == "postgres":
        from verify.postgres import PostgresReader

        return await PostgresReader.connect(source)
    from verify.mariadb import MariaDbReader

    return await MariaDbReader.connect(source)
