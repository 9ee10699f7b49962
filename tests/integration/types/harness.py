"""Tables of every type through real Debezium into Iceberg and Delta, under several configurations at once.

The connectors run beside each other over one database; their topics are read, decoded and written in this process, as
a worker does it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml
from deployments import gone, quiet, written
from verify_place import Damage

from app.deployment import deploy
from config.environment import Settings
from sinks.base import Batch, OffsetRange
from sinks.factory import plan_tables
from sources.changes import CDC_NAMES, Chunk
from sources.debezium.decoding import learn_types, new_decoder
from sources.kafka.reader import KafkaReader
from stack.manager import Endpoints
from verify.lake import read_sink_table
from verify.report import Verdict
from verify.run import verify_pipeline

TIMEOUT_SECONDS = 120.0
STREAMED = 1000
"""Rows that are written while the connectors stream have ids from here on."""


@dataclass(frozen=True)
class Variant:
    """One pipeline over the database: the connector's settings that differ, and `source.columns`."""

    name: str
    converter: str = "avro-apicurio"
    options: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, Any] = field(default_factory=dict)
    tables: tuple[str, ...] = ()


@dataclass
class Found:
    """What a variant brought: per table and sink the rows by id, per table the reasons of the dead letters by id, per
    topic the columns' types on Kafka; what `cdc deploy` warned of, and how many records took a path of their own; what
    `cdc verify` says of each table and sink, and what it says of the table `every` when its row 0 has been damaged."""

    rows: dict[tuple[str, str], dict[int, dict[str, Any]]] = field(default_factory=dict)
    dead: dict[str, dict[int, str]] = field(default_factory=dict)
    wire: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    fallback_rows: int = 0
    verdicts: dict[tuple[str, str], Verdict] = field(default_factory=dict)
    damaged: dict[str, Verdict] = field(default_factory=dict)


def settings_of(variant: Variant, source: Mapping[str, Any], services: Endpoints, folder: Path) -> Settings:
    """The variant's files, loaded as users' files are."""
    folder.mkdir(parents=True)
    tables = [t for t in source["tables"] if not variant.tables or t.rpartition(".")[2] in variant.tables]
    columns = {t: variant.columns[t.rpartition(".")[2]] for t in tables if t.rpartition(".")[2] in variant.columns}
    shared = {"write_mode": "upsert"}
    sinks = [
        {
            "sink_id": "iceberg",
            "sink_type": "iceberg",
            "iceberg": {
                "catalog_uri": f"sqlite:///{folder}/catalog.db",
                "warehouse": f"file://{folder}/lake",
                **shared,
            },
        },
        {"sink_id": "delta", "sink_type": "delta", "delta": {"table_uri": f"{folder}/delta/{{table}}", **shared}},
    ]
    own = {"slot_name": variant.name, "publication_name": variant.name} if "slot_name" in source else {}
    return written(
        folder,
        services,
        variant.name,
        {**source, **own, "tables": tables, "columns": columns},
        sinks,
        partitions=1,
        connector={"converter": variant.converter, "extra_config": dict(variant.options)},
    )


async def capture(
    variants: Sequence[Variant],
    source: Mapping[str, Any],
    services: Endpoints,
    folder: Path,
    fill: Callable[[int], Awaitable[Mapping[str, int]]],
) -> dict[str, Found]:
    """Run all variants. `fill` writes the rows, with ids from its argument on, and returns how many by table."""

    settings = {v.name: settings_of(v, source, services, folder / v.name) for v in variants}
    expected = dict(await fill(0))
    try:
        warnings: dict[str, list[str]] = {name: [] for name in settings}
        await asyncio.gather(
            *(deploy(s.pipeline, s.platform, quiet, warnings[name].append) for name, s in settings.items())
        )
        await asyncio.gather(*(_read(s, expected) for s in settings.values()))
        for table, rows in (await fill(STREAMED)).items():
            expected[table] += rows
        chunks = await asyncio.gather(*(_read(s, expected) for s in settings.values()))
        landed = await asyncio.gather(
            *(_land(settings[name], folder / name, read) for name, read in zip(settings, chunks, strict=True))
        )
        found = dict(zip(settings, landed, strict=True))
        for name, said in warnings.items():
            found[name].warnings = said
        return found
    finally:
        await asyncio.gather(*map(gone, settings.values()))


async def _read(settings: Settings, expected: Mapping[str, int]) -> list[Chunk]:
    """The chunks of all topics, once as many records have come as there are rows."""
    topics = {settings.pipeline.topic(t): expected[t.rpartition(".")[2]] for t in settings.pipeline.source.tables}
    found: list[Chunk] = []
    counts = dict.fromkeys(topics, 0)
    reader = KafkaReader(settings.platform.kafka, settings.platform.retry).chunks(tuple(topics), "earliest")
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            async for chunk in reader:
                found.append(chunk)
                counts[chunk.topic] += sum(value is not None for value in chunk.values)
                if all(counts[topic] >= rows for topic, rows in topics.items()):
                    break
    except TimeoutError as error:
        raise AssertionError(f"{settings.pipeline.pipeline_id}: {counts} records instead of {topics}") from error
    finally:
        await reader.aclose()
    assert counts == topics
    return found


async def _land(settings: Settings, folder: Path, chunks: Sequence[Chunk]) -> Found:
    """Decode the chunks, write them into both sinks, and read the tables."""
    decoder = new_decoder(settings.pipeline, settings.platform)
    await learn_types(decoder, settings.pipeline, settings.platform)
    found = await asyncio.to_thread(_write, settings, folder, chunks, decoder)
    found.verdicts = await _verify(settings)
    for plan in plan_tables(settings.pipeline):
        if plan.target.topics[0].endswith(".every"):
            await asyncio.to_thread(Damage(plan).replace, 0, damaged)
    found.damaged = {sink: verdict for (table, sink), verdict in (await _verify(settings)).items() if table == "every"}
    return found


async def _verify(settings: Settings) -> dict[tuple[str, str], Verdict]:
    report = await verify_pipeline(settings.pipeline, settings.platform, timeout=TIMEOUT_SECONDS, examples=1000)
    return {(verdict.table.rpartition(".")[2], verdict.sink_id): verdict for verdict in report.verdicts}


def damaged(row: dict[str, Any]) -> dict[str, Any]:
    """The row of the table `every` with another value in each column."""
    return {name: value if name == "id" or name in CDC_NAMES else other(value) for name, value in row.items()}


def other(value: Any) -> Any:
    """Another value of the same type, as like it as can be."""
    match value:
        case bool():
            return not value
        case int():
            return value ^ 1
        case float() | Decimal():
            return value * 2 + 1
        case str():
            return value[:-1] + ("x" if value[-1:] != "x" else "y")
        case bytes():
            return value + b"\0"
        case datetime() | date():
            return value - timedelta(days=1)
        case time():
            return value.replace(microsecond=value.microsecond ^ 1)
        case {**fields}:
            name = next(name for name, part in fields.items() if part is not None)
            return fields | {name: other(fields[name])}
        case [*items, (key, value)]:
            return [*items, (key, other(value))]
        case [_, *items]:
            return items
    return value


def _write(settings: Settings, folder: Path, chunks: Sequence[Chunk], decoder: Any) -> Found:
    found = Found()
    decoded = [chunk.decoded(decoder.decode) for chunk in chunks]
    for chunk, part in zip(chunks, decoded, strict=True):
        table = chunk.topic.rpartition(".")[2]
        found.fallback_rows += part.fallback_rows
        for rejected in part.rejected:
            key = _id(chunk, rejected.index)
            found.dead.setdefault(table, {})[key] = str(rejected.reason)
    found.wire = wire_types(decoder)
    for plan in plan_tables(settings.pipeline):
        (topic,) = plan.target.topics
        sink = plan.create(folder / plan.target.sink_id)
        sink.open()
        try:
            for chunk, part in zip(chunks, decoded, strict=True):
                if chunk.topic == topic:
                    ranges = {chunk.tp: OffsetRange(chunk.first, chunk.next)}
                    sink.write(Batch(ranges, part.changes, {topic: 1}))
        finally:
            sink.close()
        rows = read_sink_table(plan, topic)
        assert rows is not None
        where = topic.rpartition(".")[2], plan.target.sink_id
        found.rows[where] = {row["id"]: row for row in rows.to_pylist()}
        assert len(found.rows[where]) == rows.num_rows
    return found


def wire_types(decoder: Any) -> dict[str, Any]:
    """The columns' Connect types as the records' schemas say them, by topic."""
    return {
        topic: dict(decoder.reader(value_kind).type.child("after").fields) for topic, _, value_kind in decoder._tables
    }


def _id(chunk: Chunk, index: int) -> int:
    """The id in a record's key: JSON says it, Avro has it as a zigzag number at the end."""
    key = chunk.keys[index]
    assert key is not None
    if key[:1] == b"{":
        document = yaml.safe_load(key)
        return int(document.get("payload", document)["id"])
    number = 0
    for shift, byte in enumerate(key[5:]):
        number |= (byte & 127) << (7 * shift)
    return (number >> 1) ^ -(number & 1)
