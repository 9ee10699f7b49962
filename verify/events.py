"""Changes that are newer than a snapshot of the source may be, read from the topic: what explains a difference."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from config.pipeline import PipelineConfig
from config.platform import PlatformConfig
from sources.changes import (
    CDC_FIELDS,
    CDC_OFFSET,
    CDC_OP,
    CDC_PARTITION,
    UNCHANGED_FIELD,
    ChangeBatch,
    TopicPartition,
)
from sources.debezium.decoding import learn_types, new_decoder
from sources.registry import transport_for
from sources.retries import retrying
from verify.report import Unclear
from verify.source import Take

ORDER_FIELDS = tuple(field for field in CDC_FIELDS if field.name in (CDC_PARTITION, CDC_OFFSET, CDC_OP))
"""The columns by which a change log is folded."""
LOG_FIELDS = (*ORDER_FIELDS, UNCHANGED_FIELD)
"""What `Events` adds to the source's columns."""


class Events:
    """Reads parts of topics, decoded as the worker decodes them, without a consumer group."""

    @classmethod
    async def connect(cls, pipeline: PipelineConfig, platform: PlatformConfig) -> Events:
        """Raises ConfigurationError if the types of JSON without schema can't be learnt."""
        events = cls(pipeline, platform)
        await learn_types(events._decoder, pipeline, platform)
        return events

    def __init__(self, pipeline: PipelineConfig, platform: PlatformConfig) -> None:
        self._registry = f"schema registry at {platform.kafka.schema_registry_url}"
        self._decoder = new_decoder(pipeline, platform)
        self._source = transport_for(platform).event_source()
        self._retry = platform.retry

    async def read(self, ranges: Mapping[TopicPartition, tuple[int, int]], columns: pa.Schema, take: Take) -> int:
        """Hand over the changes with offsets in these ranges, as rows of `columns` and `LOG_FIELDS`; returns how many
        records couldn't be read (dead letters).

        Raises Unclear for changes that the table's columns can't hold.
        """
        rejected = 0
        async for chunk in self._source.between(ranges):
            first, end = ranges[chunk.tp]
            async for attempt in retrying(self._registry, self._retry.max_attempts, self._retry.initial_wait_seconds):
                with attempt:
                    decoded = await asyncio.to_thread(self._decoder.decode, chunk)
            rejected += sum(first <= int(chunk.offsets[one.index]) < end for one in decoded.rejected)
            for batch in decoded.changes:
                rows = _shaped(batch, columns)
                offsets = rows.column(CDC_OFFSET)
                rows = rows.filter(pc.and_(pc.greater_equal(offsets, first), pc.less(offsets, end)))
                if len(rows):
                    await asyncio.to_thread(take, rows)
        return rejected


def _shaped(batch: ChangeBatch, columns: pa.Schema) -> pa.Table:
    rows = batch.changelog()
    schema = pa.schema([*columns, *LOG_FIELDS])
    try:
        arrays = [
            rows.column(field.name).cast(field.type)
            if field.name in rows.column_names
            else pa.nulls(len(rows), field.type)
            for field in schema
        ]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise Unclear(f"{batch.topic}: changes that are under way don't fit the table's columns: {error}") from error
    return pa.table(arrays, schema=schema)
