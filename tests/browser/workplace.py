"""The pages of a worker over real counters.

`Workplace` is the app as `faust -A app worker` builds it, with only its web server started: its pipeline is the real
one over memory sinks, its topics are on a real broker, and the test says when changes arrive and when a destination
is away.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import time
from uuid import uuid4

import numpy as np
import pyarrow as pa
import yaml
from aiokafka import AIOKafkaProducer

from agents.pipeline import Pipeline, SinkTable
from agents.writer import Commit, FlushPolicy
from app.application import LakewardApp
from app.factory import create_app
from config.environment import Settings, load_settings
from config.platform import RetryConfig
from sinks.base import Batch, Receipt, TableFiles
from sinks.factory import plan_tables
from sinks.memory import MemorySink
from sources.changes import ChangeBatch, Chunk, DecodedChunk, TableSchema, TopicPartition
from sources.protocols import TopicSpec
from sources.registry import transport_for
from stack.ports import free_port
from tables.sink_watermarks import NAME, watermark, watermark_key

SCHEMA = TableSchema(pa.schema([pa.field("id", pa.int64(), nullable=False)]), ("id",), 1)
RETRY = RetryConfig(initial_wait_seconds=0.1, max_wait_seconds=0.2)


class Destination(MemorySink):
    """A memory sink that can be told to be away."""

    away: Exception | None = None

    def write(self, batch: Batch) -> Receipt:
        if self.away is not None:
            raise self.away
        return replace(super().write(batch), files=TableFiles(44, 12, 26_000_000))


class OneColumn:
    """Takes every record for one row; every fiftieth is skipped, as a tombstone."""

    def decode(self, chunk: Chunk) -> DecodedChunk:
        rows = pa.table(
            {
                "id": chunk.offsets,
                "_cdc_offset": chunk.offsets,
                "_cdc_op": pa.array(["c"] * len(chunk), pa.string()),
                "_cdc_ts": pa.array(chunk.timestamps * 1000, pa.timestamp("us", "UTC")),
            }
        ).filter(pa.array(chunk.offsets % 50 != 49))
        change = ChangeBatch(chunk.topic, chunk.partition, chunk.first, chunk.next, SCHEMA, rows)
        decoded = DecodedChunk((change,))
        decoded.skipped["tombstone"] = len(chunk) - rows.num_rows
        return decoded


class Workplace:
    """See the module's docstring."""

    def __init__(self, app: LakewardApp, settings: Settings) -> None:
        self.app = app
        self.settings = settings
        self.url = f"http://127.0.0.1:{app.conf.web_port}"
        self.topics = sorted(app.source_topics)
        self.destinations: dict[str, list[Destination]] = {}
        self._next: dict[TopicPartition, int] = {}
        self._epoch = 0

    async def start_pipeline(self, flush_seconds: float = 0.05) -> None:
        """What `on_first_start` does in a worker, with memory sinks."""
        tables = []
        for plan in plan_tables(self.settings.pipeline):
            destination = Destination(plan.target, "append")
            self.destinations.setdefault(plan.target.sink_id, []).append(destination)
            tables.append(SinkTable(destination, FlushPolicy(1_000_000, flush_seconds), RETRY))
        self.app.pipeline = Pipeline(
            tables,
            OneColumn(),
            None,
            budget=self.settings.platform.max_buffered_bytes,
            retry=RETRY,
            partition_count=lambda _: None,
            generation=lambda: 1,
            on_watermark=self._watermark,
            crash=self.app.crash,
        )
        await self.app.pipeline.start()

    async def create_topics(self, partitions: int) -> None:
        specs = [TopicSpec(topic, partitions, 1) for topic in self.topics]
        await transport_for(self.settings.platform).provisioner().ensure(specs)

    async def assign(self, *partitions: int) -> None:
        """These partitions of every topic become this worker's."""
        tps = [TopicPartition(topic, number) for topic in self.topics for number in partitions]
        pipeline = self.app.running_pipeline()
        self._epoch = (await pipeline.wanted(tps, 1)).epoch
        pipeline.backlog.assign(tps)

    async def produce(self, topic: str, partition: int, count: int) -> None:
        """Records that no worker has fetched yet."""
        async with AIOKafkaProducer(bootstrap_servers=self.settings.platform.kafka.bootstrap_servers) as producer:
            await asyncio.gather(*[await producer.send(topic, b"x", partition=partition) for _ in range(count)])

    async def deliver(self, topic: str, partition: int, count: int) -> None:
        """Records go to the broker and, as one chunk, to every sink of the topic."""
        await self.produce(topic, partition, count)
        tp = TopicPartition(topic, partition)
        first = self._next.get(tp, 0)
        self._next[tp] = first + count
        offsets = np.arange(first, first + count, dtype=np.int64)
        timestamps = np.full(count, int(time() * 1000), dtype=np.int64)
        nothing: list[bytes | None] = [None] * count
        values: list[bytes | None] = [b"x"] * count
        chunk = Chunk(
            *tp, 1, first, first + count, offsets, timestamps, nothing, values, [()] * count, nbytes=250 * count,
            epoch=self._epoch,
        )  # fmt: skip
        pipeline = self.app.running_pipeline()
        pipeline.backlog.add(chunk)
        for fed, sink_id in pipeline.writers:
            if fed == topic:
                await pipeline.ingest(chunk, sink_id)

    def another_worker_committed(self, sink_id: str, tp: TopicPartition, next_offset: int, age: timedelta) -> None:
        """What the shared table then says."""
        row = watermark(next_offset, 4_611_686_018_427_387_905, datetime.now(UTC) - age)
        self.app.tables[NAME].data[watermark_key(sink_id, tp)] = row

    async def _watermark(self, sink_id: str, commit: Commit) -> None:
        for tp, offset in commit.receipt.next_offsets.items():
            row = watermark(offset, commit.receipt.version, commit.receipt.committed_at)
            self.app.tables[NAME].data[watermark_key(sink_id, tp)] = row


@asynccontextmanager
async def open_workplace(brokers: str, folder: Path) -> AsyncIterator[Workplace]:
    """A workplace of its own topics, whose web server runs. Its pipeline isn't started yet."""
    pipeline = {
        "pipeline_id": "shop",
        "topic_prefix": f"t{uuid4().hex[:8]}",
        "source": {"database": "shop", "password": "hunter2-secret", "tables": ["public.customers", "public.orders"]},
        "sinks": [
            {"sink_id": name, "sink_type": "delta", "delta": {"table_uri": f"s3://lake/{name}/{{schema}}_{{table}}"}}
            for name in ("lake", "archive")
        ],
    }
    platform = {
        "kafka": {"bootstrap_servers": brokers},
        "connector": {"connect_url": f"http://127.0.0.1:{free_port()}"},
        "health_port": free_port(),
    }
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(pipeline))
    (folder / "platform.yaml").write_text(yaml.safe_dump(platform))
    settings = load_settings(folder / "pipeline.yaml", folder / "platform.yaml", {"CDC_DATA_DIR": str(folder / "data")})
    app = create_app(settings)
    app.conf.store = "memory://"
    app.loop = asyncio.get_running_loop()
    app.finalize()
    await app.web.start()
    place = Workplace(app, settings)
    try:
        yield place
    finally:
        await app.on_before_shutdown.send()
        await app.web.stop()
        if app.pipeline is not None:
            await app.pipeline.stop()
