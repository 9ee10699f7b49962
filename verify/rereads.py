"""Rows whose values a sink doesn't know are read from the source again (`source.unknown_values: read_again`)."""

from __future__ import annotations

import asyncio

import pyarrow as pa
import structlog

from config.errors import ConfigurationError, PipelineStopped, Unavailable
from config.pipeline import PipelineConfig
from config.platform import PlatformConfig
from sources.debezium.client import DebeziumClient
from sources.retries import retrying
from verify.columns import source_columns
from verify.signals import ROWS_AT_ONCE, ask_for, conditions, whole_table
from verify.source import SourceReader, SourceTable, connect_source
from verify.sql_keys import findable

log = structlog.get_logger("lakeward.rereads")

_SETTINGS = "signal.data.collection", "signal.enabled.channels"
_OTHERWISE = "or set source.unknown_values: dead_letter"


class Rereads:
    """`sources.protocols.Rereading` by Debezium's incremental snapshots. Connects when there is something to ask."""

    def __init__(self, pipeline: PipelineConfig, platform: PlatformConfig) -> None:
        assert pipeline.source.signal_table is not None, "read_again has a signalling table: the configuration says so"
        self._pipeline = pipeline
        self._platform = platform
        self._signal_table = pipeline.source.signal_table
        self._checked = False
        self._asking = asyncio.Lock()

    async def check(self) -> None:
        """What is away now is checked before the first request. Raises ConfigurationError with the way out."""
        try:
            source = await connect_source(self._pipeline.source)
            try:
                await self._check(source)
            finally:
                await source.close()
        except Unavailable as error:
            log.warning("rereads.not_checked", error=str(error))

    async def ask(self, topic: str, keys: pa.Table) -> None:
        """Waits as long as the source is away. Raises ConfigurationError if it can't be asked, PipelineStopped for keys
        that it doesn't understand, and for more rows than `ROWS_AT_ONCE`."""
        table = next(name for name in self._pipeline.source.tables if self._pipeline.topic(name) == topic)
        if len(keys) > ROWS_AT_ONCE:
            raise PipelineStopped(
                f"topic {topic}: a batch has {len(keys):,} rows with values that weren't sent and that the sink's table"
                f" doesn't have; up to {ROWS_AT_ONCE:,} are read again. Set source.unknown_values: dead_letter,"
                f" restart, and send an incremental snapshot of the whole table (`{whole_table(table)}` as data of an"
                " execute-snapshot signal)"
            )
        retry = self._platform.retry
        where = f"{self._pipeline.source.host}:{self._pipeline.source.port}, signalling table {self._signal_table}"
        async with self._asking:
            async for attempt in retrying(where, None, retry.initial_wait_seconds, retry.max_wait_seconds):
                with attempt:
                    await self._ask(table, keys)

    async def _ask(self, table: str, keys: pa.Table) -> None:
        source = await connect_source(self._pipeline.source)
        try:
            if not self._checked:
                await self._check(source)
            columns = (await source_columns(self._pipeline, self._platform)).get(table, ())
            described = SourceTable(table, columns, tuple(keys.column_names), 0)
            _check_keys(described, keys)
            for condition in conditions(source, described, keys):
                await ask_for(source, self._signal_table, table, condition)
        finally:
            await source.close()

    async def _check(self, source: SourceReader) -> None:
        await source.try_signals(self._signal_table)
        async with DebeziumClient.from_config(self._platform.connector) as connect:
            config = await connect.get(self._pipeline.pipeline_id)
        if config is not None:  # otherwise it will be deployed as the file says
            table, channels = (config.get(name, "") for name in _SETTINGS)
            if table != self._signal_table or "source" not in (channels or "source"):
                raise ConfigurationError(
                    f"source.unknown_values: read_again asks connector {self._pipeline.pipeline_id} by the table"
                    f" {self._signal_table}, which it doesn't listen to ({_SETTINGS[0]}: {table or 'none'}"
                    f"{f', {_SETTINGS[1]}: {channels}' if channels else ''}): run `cdc deploy`, {_OTHERWISE}"
                )
        self._checked = True


def _check_keys(table: SourceTable, keys: pa.Table) -> None:
    """A condition that the table doesn't understand would end the connector's task, one that doesn't hold for the rows
    would leave them out. Raises PipelineStopped."""
    for field in keys.schema:
        column = table.column(field.name)
        if column is None or not column.fits(field.type):
            raise PipelineStopped(
                f"{table.name}: rows have to be read again by their key, but the source has no column {field.name}"
                f" ({field.type}) now. Restore it, {_OTHERWISE}"
            )
    if not findable(table, keys):
        raise PipelineStopped(
            f"{table.name}: rows have to be read again whose keys ({', '.join(keys.column_names)}) SQL has no exact"
            f" literals for. Use REPLICA IDENTITY FULL for the table, {_OTHERWISE}"
        )
