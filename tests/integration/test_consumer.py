"""The consumer delivers every record once and in order, whoever moves it: a real broker, and a Faust app around it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any
from uuid import uuid4

import faust
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.structs import OffsetAndMetadata
from structlog.testing import capture_logs

from config.platform import KafkaConfig
from sources.changes import Chunk, TopicPartition
from sources.kafka.backlog import Backlog
from sources.kafka.chunk_schema import ChunkSchema
from sources.kafka.consumer import ColumnarConsumer, ColumnarTransport, Positioning
from sources.kafka.provisioner import KafkaProvisioner
from sources.protocols import TopicSpec
from stack.manager import Endpoint

pytestmark = pytest.mark.timeout(120)


class Wanted:
    """Destinations that want `offset` next of every partition."""

    def __init__(self, topic: str, offset: int) -> None:
        self.backlog = Backlog(1 << 30)
        self._topic = topic
        self._offset = offset

    def is_source(self, topic: str) -> bool:
        return topic == self._topic

    async def wanted(self, partitions: list[TopicPartition], generation: int) -> Positioning:
        return Positioning(1, dict.fromkeys(partitions, self._offset))

    def committable(self, tp: TopicPartition) -> int | None:
        return None

    def assigned(self) -> tuple[TopicPartition, ...]:
        return ()


class App(faust.App):  # type: ignore[misc]  # Faust is untyped here
    """Faust with the columnar consumer, and nothing else of ours."""

    source_topics: frozenset[str]
    positions: Wanted

    def _new_transport(self) -> Any:
        return ColumnarTransport(self.conf.broker_consumer, self, loop=self.loop)


class Reading:
    """A running app that keeps the chunks of one topic of one partition."""

    def __init__(self, app: App, topic: str) -> None:
        self.chunks: list[Chunk] = []
        self.tp = KafkaPartition(topic, 0)
        self._app = app
        self._arrived = asyncio.Event()

    def keep(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)
        self._arrived.set()

    @property
    def offsets(self) -> list[int]:
        return [offset for chunk in self.chunks for offset in chunk.offsets.tolist()]

    @property
    def consumer(self) -> ColumnarConsumer:
        consumer: ColumnarConsumer = self._app.consumer
        return consumer

    async def until(self, next: int) -> None:
        """Wait until chunks cover the offsets before `next`."""
        while not self.chunks or self.chunks[-1].next < next:
            await self._arrived.wait()
            self._arrived.clear()

    async def move(self, offset: int) -> None:
        """Put the consumer elsewhere, behind the application's back."""
        thread = self.consumer._thread

        async def seek() -> None:
            thread._ensure_consumer().seek(self.tp, offset)

        await thread.call_thread(seek)


@asynccontextmanager
async def reading(kafka: Endpoint, topic: str, *, wanted: int) -> AsyncIterator[Reading]:
    app = App(
        topic,
        broker=f"kafka://{kafka.address}",
        web_enabled=False,
        topic_disable_leader=True,
        autodiscover=False,
        stream_wait_empty=False,
        stream_recovery_delay=0.0,
    )
    app.source_topics = frozenset((topic,))
    app.positions = Wanted(topic, wanted)
    found = Reading(app, topic)

    async def keep(stream: Any) -> None:
        async for chunk in stream.noack():
            found.keep(chunk)

    app.agent(app.topic(topic, schema=ChunkSchema(), acks=False))(keep)
    app.finalize()
    await app.start()
    try:
        yield found
    finally:
        await app.stop()


@pytest.fixture
async def topic(kafka: Endpoint) -> str:
    name = f"c{uuid4().hex[:10]}"
    await KafkaProvisioner(KafkaConfig(bootstrap_servers=kafka.address)).ensure([TopicSpec(name, 1, 1)])
    return name


async def send(kafka: Endpoint, topic: str, count: int) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=kafka.address)
    await producer.start()
    try:
        for number in range(count):
            await producer.send(topic, b"%d" % number, partition=0)
    finally:
        await producer.stop()


async def commit(kafka: Endpoint, topic: str, offset: int) -> None:
    """Have the app's group start at `offset`."""
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka.address, group_id=topic, enable_auto_commit=False)
    await consumer.start()
    try:
        consumer.assign([KafkaPartition(topic, 0)])
        await consumer.commit({KafkaPartition(topic, 0): OffsetAndMetadata(offset, "")})
    finally:
        await consumer.stop()


def assert_covered(found: Reading, first: int, end: int) -> None:
    """Chunks without a hole or an overlap, whose records are exactly those of [first, end)."""
    assert found.chunks[0].first == first
    assert all(left.next == right.first for left, right in pairwise(found.chunks))
    assert found.offsets == list(range(first, end))


@pytest.mark.parametrize("group_offset", [None, 10, 90])
async def test_reading_starts_where_the_destinations_want(
    kafka: Endpoint, topic: str, group_offset: int | None
) -> None:
    await send(kafka, topic, 100)
    if group_offset is not None:
        await commit(kafka, topic, group_offset)
    async with reading(kafka, topic, wanted=30) as found:
        await found.until(100)
    assert_covered(found, 30, 100)


@pytest.mark.parametrize("elsewhere", [5, 60, 10_000])  # would be doubled, would be skipped, would never go on
async def test_a_consumer_that_something_else_moved_goes_on_where_it_was(
    kafka: Endpoint, topic: str, elsewhere: int
) -> None:
    await send(kafka, topic, 50)
    async with reading(kafka, topic, wanted=0) as found:
        await found.until(50)
        with capture_logs() as logs:
            await found.move(elsewhere)
            await send(kafka, topic, 50)
            await found.until(100)
    assert_covered(found, 0, 100)
    moved = [entry for entry in logs if entry["event"] == "consumer.moved_back"]
    assert {(entry["wanted"], entry["found"]) for entry in moved} == {(50, elsewhere)}


async def test_seeks_to_the_groups_offsets_leave_sources_where_they_are(kafka: Endpoint, topic: str) -> None:
    """Faust's fetcher seeks to the group's offsets when a rebalance has stopped the flow: at any time, also while the
    rebalance's own seek to the destinations is done or under way."""
    await send(kafka, topic, 50)
    await commit(kafka, topic, 10)
    async with reading(kafka, topic, wanted=30) as found:
        await found.until(50)
        with capture_logs() as logs:
            for _ in range(5):
                assert found.tp not in await found.consumer.seek_to_committed()
                await send(kafka, topic, 10)
            await found.until(100)
    assert_covered(found, 30, 100)
    assert [entry for entry in logs if entry["event"] == "consumer.moved_back"] == []


async def test_aborted_transactions_leave_no_hole(kafka: Endpoint, topic: str) -> None:
    """What was aborted isn't delivered; chunks cover its offsets, at the log's end too."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka.address, transactional_id=topic)
    await producer.start()
    committed: list[int] = []

    async def transaction(records: int, finish: Callable[[], Awaitable[None]]) -> list[int]:
        await producer.begin_transaction()
        sent = [await producer.send_and_wait(topic, b"x", partition=0) for _ in range(records)]
        await finish()
        return [record.offset for record in sent]

    try:
        async with reading(kafka, topic, wanted=0) as found:
            for _ in range(3):
                await transaction(7, producer.abort_transaction)
                committed += await transaction(5, producer.commit_transaction)
            await found.until(committed[-1] + 1)
            end = (await transaction(9, producer.abort_transaction))[-1] + 2  # the marker takes an offset, too
            await found.until(end)
    finally:
        await producer.stop()
    assert found.offsets == committed
    assert found.chunks[0].first == 0
    assert all(left.next == right.first for left, right in pairwise(found.chunks))
    assert found.chunks[-1].next == end
