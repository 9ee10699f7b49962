"""Reading a source table at the types that the sink stores, and knowing when the connector has sent everything."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import pyarrow as pa

from config.errors import ConfigurationError
from config.pipeline import SourceConfig


class SourceReader(Protocol):
    """A connection to the source database. Raises Unavailable when it is away."""

    async def key(self, table: str) -> tuple[str, ...]:
        """The primary key's columns of `schema.table`, in the table's order; empty without one."""

    async def read(self, table: str, columns: pa.Schema) -> pa.Table:
        """All rows, with these columns at these types (as the sink stores them)."""

    async def all_sent(self) -> bool:
        """Whether the database has handed everything that is committed by now to the connector."""

    async def close(self) -> None:
        """Let go of the connection."""


async def connect_source(source: SourceConfig) -> SourceReader:
    """A reader of the pipeline's source."""
    if source.source_type == "postgres":
        from verify.postgres import PostgresReader

        return await PostgresReader.connect(source)
    from verify.mariadb import MariaDbReader

    return await MariaDbReader.connect(source)


def arrow_column(name: str, values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """A column of Python values at the sink's type. Raises ConfigurationError for one that doesn't convert."""
    convert = _conversion(kind)
    try:
        if convert is not None:
            values = [None if value is None else convert(value) for value in values]
        return pa.array(values, kind)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"column {name}: the source's values can't be compared at the sink's type {kind}: {error}"
        ) from error


def _conversion(kind: pa.DataType) -> Callable[[Any], Any] | None:
    """What a driver's value needs before Arrow takes it."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return _text
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return _aware
    if pa.types.is_time(kind):
        return _time
    if pa.types.is_integer(kind):
        return int
    return None


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, datetime.timedelta | datetime.time):
        return _time(value).strftime("%H:%M:%S.%f")
    return str(value)


def _aware(value: datetime.datetime) -> datetime.datetime:
    return value if value.tzinfo else value.replace(tzinfo=datetime.UTC)


def _time(value: datetime.timedelta | datetime.time) -> datetime.time:
    if isinstance(value, datetime.timedelta):  # MariaDB's TIME
        return (datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + value).time()
    return value
