"""`cdc consume`: decoded change events of a pipeline's topics, printed as they arrive."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import click

from app.commands.options import pipeline_argument, platform_option, run
from config.environment import Settings, load_settings
from config.errors import ConfigurationError
from sources.changes import CDC_OFFSET, CDC_OP, CDC_TS, ChangeBatch, Chunk, DecodedChunk
from sources.debezium.decoding import learn_types, new_decoder
from sources.protocols import StartAt
from sources.registry import transport_for
from sources.retries import retrying


@dataclass(frozen=True)
class Event:
    """One change as it is printed. `key` holds the key columns, `columns` the row (of a delete: its key)."""

    topic: str
    partition: int
    offset: int
    op: str
    ts: datetime | None
    key: Mapping[str, Any]
    columns: Mapping[str, Any]


class StartType(click.ParamType):
    """`earliest`, `latest`, or an offset."""

    name = "earliest|latest|OFFSET"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> StartAt:
        """Called by click."""
        if value == "earliest" or value == "latest":
            start: StartAt = value
            return start
        if str(value).isdigit():
            return int(value)
        return self.fail(f"{value!r} is neither earliest nor latest nor an offset", param, ctx)


@click.command()
@pipeline_argument()
@platform_option()
@click.option("--table", help="Only this table (schema.table).")
@click.option("--from", "start", type=StartType(), default="earliest", show_default=True, help="Where to begin.")
@click.option("--limit", type=click.IntRange(min=1), help="Stop after this many events.")
@click.option("--format", "style", type=click.Choice(["table", "json"]), default="table", show_default=True)
def consume(
    pipeline: Path, platform_config: Path | None, table: str | None, start: StartAt, limit: int | None, style: str
) -> None:
    """Print the change events of PIPELINE's topics as they arrive, decoded; stop with Ctrl-C.

    Reads without a consumer group: nothing is committed and no worker is disturbed.
    """
    settings = load_settings(pipeline, platform_config)
    topics = _topics(settings, table)
    run(_print_events(settings, topics, start, limit, _json_line if style == "json" else _text_line))


def _topics(settings: Settings, table: str | None) -> tuple[str, ...]:
    pipeline = settings.pipeline
    if table is None:
        return pipeline.topics
    if table not in pipeline.source.tables:
        raise ConfigurationError(f"--table {table}: not captured; source.tables: {', '.join(pipeline.source.tables)}")
    return (pipeline.topic(table),)


async def _print_events(
    settings: Settings, topics: tuple[str, ...], start: StartAt, limit: int | None, line: Any
) -> None:
    platform = settings.platform
    kafka = platform.kafka
    decoder = new_decoder(settings.pipeline, platform)
    await learn_types(decoder, settings.pipeline, platform)
    left = limit
    chunks = transport_for(platform).event_source().chunks(topics, start)
    async for chunk in chunks:
        decoded = DecodedChunk(())
        service = f"schema registry at {kafka.schema_registry_url}"
        async for attempt in retrying(service, None, platform.retry.initial_wait_seconds):
            with attempt:
                decoded = await asyncio.to_thread(decoder.decode, chunk)
        _report_rejected(chunk, decoded)
        for event in events(decoded):
            click.echo(line(event))
            if left is not None:
                left -= 1
                if left == 0:
                    return


def _report_rejected(chunk: Chunk, decoded: DecodedChunk) -> None:
    for rejected in decoded.rejected:
        where = f"{chunk.topic}/{chunk.partition} offset {chunk.offsets[rejected.index]}"
        click.secho(f"{where}: can't be read: {rejected.reason}", fg="yellow", err=True)


def events(decoded: DecodedChunk) -> Iterator[Event]:
    """The changes of a chunk, one by one, in offset order."""
    for batch in decoded.changes:
        yield from _of_batch(batch)


def _of_batch(batch: ChangeBatch) -> Iterator[Event]:
    for row in batch.rows.to_pylist():
        offset, op, ts = row.pop(CDC_OFFSET), row.pop(CDC_OP), row.pop(CDC_TS)
        key = {name: row[name] for name in batch.schema.key}
        # The other columns of a delete aren't known; null would be a value.
        yield Event(batch.topic, batch.partition, offset, op, ts, key, key if op == "d" else row)


def _json_line(event: Event) -> str:
    return json.dumps(asdict(event), default=_plain, ensure_ascii=False)


def _text_line(event: Event) -> str:
    where = click.style(f"{event.topic}/{event.partition}@{event.offset}", fg="cyan")
    ts = event.ts.isoformat(timespec="milliseconds") if event.ts else "-"
    return f"{where}  {event.op}  {ts}  key {_compact(event.key)}  {_compact(event.columns)}"


def _compact(values: Mapping[str, Any]) -> str:
    return json.dumps(values, default=_plain, ensure_ascii=False)


def _plain(value: Any) -> str:
    """A value that JSON has no type for, as exact text."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal | timedelta):
        return str(value)
    raise TypeError(f"{type(value).__name__} can't be printed")
