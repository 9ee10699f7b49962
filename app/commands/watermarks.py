"""`cdc watermarks`: where each sink of a pipeline stands, read from the changelog of the table `sink_watermarks`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition as KafkaPartition

from app.commands.options import pipeline_argument, platform_option, run
from config.environment import Settings, load_settings
from config.errors import ConfigurationError
from config.platform import KafkaConfig
from sources.kafka.connection import reaching
from sources.kafka.security import client_arguments
from sources.registry import transport_for
from tables.sink_watermarks import NAME, parse_watermark_key

POLL_MS = 500


@dataclass(frozen=True)
class Watermark:
    """One sink on one Kafka partition. `version` is the snapshot id or version; `lag` counts offsets to the log's end
    (None: the topic isn't there any more)."""

    sink_id: str
    topic: str
    partition: int
    next_offset: int
    lag: int | None
    version: str | None
    committed_at: str


@click.command()
@pipeline_argument()
@platform_option()
@click.option("--format", "style", type=click.Choice(["table", "json"]), default="table", show_default=True)
def watermarks(pipeline: Path, platform_config: Path | None, style: str) -> None:
    """Show where each sink of PIPELINE stands: next offset, snapshot or version, time of the last commit, lag.

    Reads what the workers wrote down after their commits, so it works without a running worker. The destinations
    themselves have the last word: after a crash they may be one commit ahead.
    """
    settings = load_settings(pipeline, platform_config)
    found = run(_watermarks(settings))
    if style == "json":
        click.echo(json.dumps([asdict(watermark) for watermark in found], ensure_ascii=False, indent=2))
    elif found:
        _print_table(found)
    else:
        click.echo("no sink has committed anything yet")


def changelog_topic(app_id: str) -> str:
    """The Kafka topic that Faust keeps the table in."""
    return f"{app_id}-{NAME}-changelog"


async def _watermarks(settings: Settings) -> list[Watermark]:
    topic = changelog_topic(settings.app_id)
    transport = transport_for(settings.platform)
    partitions = (await transport.provisioner().existing()).get(topic)
    if partitions is None:
        raise ConfigurationError(
            f"there is no topic {topic}: no worker of the group {settings.app_id} has started yet"
            " (workers that serve some sinks only have a group of their own: set CDC_SINKS as they have it)"
        )
    rows = await _read_table(settings.platform.kafka, [KafkaPartition(topic, p) for p in range(partitions)])
    stored = {parse_watermark_key(key): row for key, row in rows.items()}
    monitor = transport.monitor()
    try:
        ends = await monitor.end_offsets(sorted({tp.topic for _, tp in stored}))
    finally:
        await monitor.close()
    return [
        Watermark(
            sink_id,
            *tp,
            row["next_offset"],
            max(0, ends[tp] - row["next_offset"]) if tp in ends else None,
            row["version"],
            row["committed_at"],
        )
        for (sink_id, tp), row in sorted(stored.items())
    ]


async def _read_table(kafka: KafkaConfig, partitions: Sequence[KafkaPartition]) -> dict[str, Mapping[str, Any]]:
    """The last value of every key up to the end that the topic has now. Faust writes keys and values as JSON."""
    rows: dict[str, Mapping[str, Any]] = {}
    with reaching(kafka, f"read {partitions[0].topic}"):
        consumer = AIOKafkaConsumer(**client_arguments(kafka), enable_auto_commit=False)
        try:
            await consumer.start()
            consumer.assign(partitions)
            await consumer.seek_to_beginning(*partitions)
            left = {tp: end for tp, end in (await consumer.end_offsets(partitions)).items() if end > 0}
            while left := {tp: end for tp, end in left.items() if await consumer.position(tp) < end}:
                for records in (await consumer.getmany(*left, timeout_ms=POLL_MS)).values():
                    for record in records:
                        key = json.loads(record.key)
                        if record.value is None:
                            rows.pop(key, None)
                        else:
                            rows[key] = json.loads(record.value)
        finally:
            await consumer.stop()
    return rows


def _print_table(found: Sequence[Watermark]) -> None:
    header = ("sink", "topic", "partition", "next offset", "lag", "snapshot or version", "committed at")
    now = datetime.now(UTC)
    lines = [header, *(_cells(watermark, now) for watermark in found)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    for number, line in enumerate(lines):
        text = "  ".join(
            cell.rjust(width) if 2 <= i <= 5 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        click.secho(text, bold=number == 0)


def _cells(watermark: Watermark, now: datetime) -> tuple[str, ...]:
    committed_at = datetime.fromisoformat(watermark.committed_at)
    age = int((now - committed_at).total_seconds())
    return (
        watermark.sink_id,
        watermark.topic,
        str(watermark.partition),
        f"{watermark.next_offset:,}",
        "topic is gone" if watermark.lag is None else f"{watermark.lag:,}",
        watermark.version or "-",
        f"{committed_at:%Y-%m-%d %H:%M:%S}Z, {age} s ago",
    )
