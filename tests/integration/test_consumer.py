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
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.structs import OffsetAndMetadata
from structlog.testing import capture_logs

from config.errors import OffsetGap
from config.platform import KafkaConfig
from sources.changes import Chunk, TopicPartition
from sources.kafka.backlog import Backlog
from sources.kafka.chunk_schema import ChunkSchema
from sources.kafka.consumer import ColumnarConsumer, ColumnarTransport
from sources.kafka.positions import Positioning
from sources.kafka.provisioner import KafkaProvisioner
from sources.protocols import TopicSpec
from stack.manager import Endpoint
from tables.recovery import Tables

pytestmark = pytest.mark.timeout(120)

IMPATIENT: dict[str, Any] = {
    "broker_request_timeout": 6.5,
    "broker_session_timeout": 6.0,
    "broker_heartbeat_interval": 1.0,
}
"""Faust's time limits, as short as the broker lets them be; of 90 seconds otherwise."""


class Wanted:
    """Destinations that want `offset` next of every partition (None: they know none), and say so when `there`. Each
    answer begins an epoch."""

    def __init__(self, topic: str, offset: int | None) -> None:
        self.backlog = Backlog(1 << 30)
        self.there = asyncio.Event()
        self.there.set()
        self.epoch = 0
        self.offset = offset
        self.next: int | None = None
        self._topic = topic

    def is_source(self, topic: str) -> bool:
        return topic == self._topic

    async def wanted(self, partitions: list[TopicPartition], generation: int) -> Positioning:
        await self.there.wait()
        self.epoch += 1
        return Positioning(self.epoch, dict.fromkeys(partitions, self.offset))

    def committable(self, tp: TopicPartition) -> int | None:
        return self.next

    def assigned(self) -> tuple[TopicPartition, ...]:
        return (TopicPartition(self._topic, 0),)


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
        self.app = app
        self._arrived = asyncio.Event()

    def keep(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)
        self._arrived.set()

    @property
    def offsets(self) -> list[int]:
        return [offset for chunk in self.chunks for offset in chunk.offsets.tolist()]

    @property
    def consumer(self) -> ColumnarConsumer:
        consumer: ColumnarConsumer = self.app.consumer
        return consumer

    async def until(self, next: int) -> None:
        """Wait until chunks cover the offsets before `next`."""
        while not self.chunks or self.chunks[-1].next < next:
            await self._arrived.wait()
            self._arrived.clear()

    async def until_ready(self) -> None:
        """Wait until Faust's rebalance is over."""
        while True:
            if not self.app.rebalancing and self.app.consumer_generation_id > 0:
                return
            await asyncio.sleep(0.05)

    async def until_crashed(self) -> None:
        while True:
            if self.app.crash_reason is not None:
                return
            await asyncio.sleep(0.05)

    async def rejoin(self) -> None:
        """Have the group rebalance, and wait until it did."""
        generation = self.app.consumer_generation_id
        thread = self.consumer._thread

        async def request() -> None:
            thread._ensure_consumer()._coordinator.request_rejoin()

        await thread.call_thread(request)
        while True:
            if self.app.consumer_generation_id != generation and not self.app.rebalancing:
                return
            await asyncio.sleep(0.05)

    async def move(self, offset: int) -> None:
        """Put the consumer elsewhere, behind the application's back."""
        thread = self.consumer._thread

        async def seek() -> None:
            thread._ensure_consumer().seek(self.tp, offset)

        await thread.call_thread(seek)


@asynccontextmanager
async def reading(
    kafka: Endpoint, topic: str, *, wanted: int | None, there: bool = True, tables: bool = False, **settings: Any
) -> AsyncIterator[Reading]:
    """`there`: whether the destinations answer from the beginning. `tables`: whether the app has one of Faust's."""
    app = App(
        topic,
        broker=f"kafka://{kafka.address}",
        web_enabled=False,
        topic_disable_leader=True,
        autodiscover=False,
        stream_wait_empty=False,
        stream_recovery_delay=0.0,
        TableManager=Tables,
        topic_replication_factor=1,
        **settings,
    )
    app.source_topics = frozenset((topic,))
    app.positions = Wanted(topic, wanted)
    if not there:
        app.positions.there.clear()
    if tables:
        app.GlobalTable("t", partitions=1)
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
        reason = app.crash_reason
        await app.stop()
        assert app.crash_reason is reason


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


async def test_destinations_may_be_away_for_longer_than_faust_waits(kafka: Endpoint, topic: str) -> None:
    """Whatever happens meanwhile: rebalances are followed, and records come when they are back."""
    await send(kafka, topic, 50)
    async with reading(kafka, topic, wanted=30, there=False, tables=True, **IMPATIENT) as found:
        await found.until_ready()
        await found.rejoin()
        assert found.chunks == []
        found.app.positions.there.set()
        await found.until(50)
        found.app.positions.offset = 40
        await found.rejoin()
        await send(kafka, topic, 10)
        await found.until(60)
    assert found.offsets[:20] == list(range(30, 50))
    assert found.offsets[-20:] == list(range(40, 60))


async def test_brokers_that_do_not_answer_a_recovery_are_asked_again(
    kafka: Endpoint, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await send(kafka, topic, 50)
    asked = 0
    highwaters = ColumnarConsumer.highwaters

    async def slow(self: ColumnarConsumer, *partitions: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == 1:
            await asyncio.Event().wait()
        return await highwaters(self, *partitions)

    monkeypatch.setattr(ColumnarConsumer, "highwaters", slow)
    with capture_logs() as logs:
        async with reading(kafka, topic, wanted=30, tables=True, **IMPATIENT) as found:
            await found.until(50)
    assert_covered(found, 30, 50)
    assert [entry["event"] for entry in logs if entry["event"].startswith("recovery.")] == ["recovery.begun_anew"]


async def test_positionings_at_the_same_time_leave_the_newest_epoch(
    kafka: Endpoint, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faust's fetcher and its recovery both ask for one; the first may be overtaken while brokers are slow."""
    await send(kafka, topic, 50)
    async with reading(kafka, topic, wanted=None) as found:
        await found.until(50)
        thread = found.consumer._thread
        bounds, held, asked = thread.log_bounds, asyncio.Event(), asyncio.Event()

        async def first_is_slow(partitions: Any) -> Any:
            if not asked.is_set():
                asked.set()
                await held.wait()
            return await bounds(partitions)

        monkeypatch.setattr(thread, "log_bounds", first_is_slow)
        first = asyncio.ensure_future(found.consumer.perform_seek())
        await asked.wait()
        second = asyncio.ensure_future(found.consumer.perform_seek())
        await asyncio.wait({second}, timeout=1)
        held.set()
        await asyncio.gather(first, second)
        assert thread._epoch == found.app.positions.epoch
        await send(kafka, topic, 10)
        await found.until(60)


async def test_what_came_before_the_first_commit_is_not_skipped_by_latest(kafka: Endpoint, topic: str) -> None:
    """The first start is at the log's end; the next ones, with no commit in between, where the first was."""
    await send(kafka, topic, 50)
    async with reading(kafka, topic, wanted=None, consumer_auto_offset_reset="latest") as found:
        await found.until_ready()
        await send(kafka, topic, 10)
        await found.until(60)
        await found.rejoin()
        await send(kafka, topic, 1)
        await found.until(61)
    assert found.offsets == [*range(50, 60), *range(50, 61)]
    await send(kafka, topic, 4)
    async with reading(kafka, topic, wanted=None, consumer_auto_offset_reset="latest") as found:
        await found.until(65)
    assert_covered(found, 50, 65)


async def remove(kafka: Endpoint, topic: str, before: int) -> None:
    """As retention does."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.address)
    await admin.start()
    try:
        await admin.delete_records({KafkaPartition(topic, 0): RecordsToDelete(before)})
    finally:
        await admin.close()


async def test_a_first_start_behind_records_that_are_gone_is_told(kafka: Endpoint, topic: str) -> None:
    await send(kafka, topic, 20)
    await remove(kafka, topic, 5)
    with capture_logs() as logs:
        async with reading(kafka, topic, wanted=None) as found:
            await found.until(20)
    assert_covered(found, 5, 20)
    [told] = [line for line in logs if line["event"] == "consumer.begins_late"]
    assert (told["topic"], told["partition"], told["first"]) == (topic, 0, 5)


async def test_records_that_went_after_the_first_start_of_latest_end_the_worker(kafka: Endpoint, topic: str) -> None:
    await send(kafka, topic, 10)
    async with reading(kafka, topic, wanted=None, consumer_auto_offset_reset="latest") as found:
        await found.until_ready()
    await send(kafka, topic, 10)
    await remove(kafka, topic, 15)
    async with reading(kafka, topic, wanted=None, consumer_auto_offset_reset="latest") as found:
        await found.until_crashed()
        assert isinstance(found.app.crash_reason, OffsetGap)
        assert f"--delete-offsets --group {topic} --topic {topic}" in str(found.app.crash_reason)


async def test_a_commit_that_comes_when_the_thread_ends_does_not_wait_for_ever(
    kafka: Endpoint, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error ends the thread by itself, beside the application, which commits once more when it stops."""
    await send(kafka, topic, 10)
    async with reading(kafka, topic, wanted=0) as found:
        await found.until(10)
        thread = found.consumer._thread
        ending, held = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        stop = thread._ensure_consumer().stop

        async def slow_stop() -> None:
            loop.call_soon_threadsafe(ending.set)
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(held.wait(), loop))
            await stop()

        monkeypatch.setattr(thread._ensure_consumer(), "stop", slow_stop)
        found.app.positions.next = 10
        await found.app.crash(RuntimeError("something else"))
        await ending.wait()
        late = asyncio.ensure_future(found.consumer.commit())
        await asyncio.sleep(0.1)
        held.set()
        assert await late is False
        assert await found.consumer.commit() is False
