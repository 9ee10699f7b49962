"""The thread that owns the aiokafka consumer: records are parsed, checked and made into chunks here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from itertools import chain
from typing import Any, Protocol

import aiokafka
import structlog
from aiokafka.errors import NoOffsetForPartitionError, OffsetOutOfRangeError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode.utils.futures import maybe_set_exception

from sources.changes import TopicPartition
from sources.kafka.chunks import build_chunk
from sources.kafka.positions import Positions

log = structlog.get_logger("lakeward.consumer")

FETCH_MAX_WAIT_MS, FETCH_MIN_BYTES = 100, 64 << 10
"""How long the broker may hold a fetch, and what it waits for: a trickle of changes comes in ten fetches a second. Each
chunk costs milliseconds in every sink, however few records it has."""

FETCH_MAX_BYTES = 16 << 20
"""Most bytes that one broker's response may bring over all partitions."""

UNPOSITIONED_SECONDS = 0.05
"""How long the next fetch waits while a partition has no position: the fetcher would ask over and over."""

LEAVING_SECONDS = 3.0
"""How long a worker that ends waits for a rebalance."""


class ThreadEnded(asyncio.CancelledError):
    """The consumer's thread has ended: it answers no call any more. Who waits for one ends as if cancelled: it is no
    error, and takes the place of none by which the worker ends."""


class Owner(Protocol):
    """The consumer that the thread works for."""

    positions: Positions


class ColumnarConsumerThread(driver.AIOKafkaConsumerThread):
    """The thread that owns the aiokafka consumer; builds chunks right where records are parsed."""

    consumer: Owner

    def __post_init__(self) -> None:
        super().__post_init__()
        # Where the next chunk of each positioned source partition starts. Touched in this thread only.
        self._next: dict[TopicPartition, int] = {}
        self._epoch = 0
        # What the main thread waits for, and whether anybody answers it. Touched in the main thread only.
        self._calls: set[asyncio.Future[Any]] = set()
        self._has_ended = False

    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        # Faust hard-wires the first three; there is no setting for them.
        consumer._fetch_max_wait_ms = FETCH_MAX_WAIT_MS
        consumer._fetch_min_bytes = FETCH_MIN_BYTES
        consumer._fetch_max_bytes = FETCH_MAX_BYTES
        # A silent reset would jump over records that no sink has: out-of-range offsets must surface.
        consumer._auto_offset_reset = "none"
        # A connector with exactly-once support (KIP-618) aborts transactions: their records never happened.
        consumer._isolation_level = "read_committed"
        return consumer

    async def call_thread(self, fun: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        """Run a function in this thread. Raises ThreadEnded if the thread has ended, or does so before it answers."""
        if self._has_ended:
            raise ThreadEnded
        call = self.parent_loop.create_future()
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        await self.method_queue.call(call, fun, *args, **kwargs)
        return await call

    def set_shutdown(self) -> None:
        """Nobody takes calls any more. mode would leave those that came last without an answer, and who waits for one
        (a commit, when an error ends the worker) for ever."""
        super().set_shutdown()
        self.parent_loop.call_soon_threadsafe(self._end_calls)

    def _end_calls(self) -> None:
        self._has_ended = True
        for call in list(self._calls):
            maybe_set_exception(call, ThreadEnded())

    async def commit(self, offsets: Mapping[TP, int]) -> bool:
        """Commit the group's offsets; whether that was possible: not while it rebalances, or after the end."""
        try:
            return bool(await super().commit(offsets))
        except ThreadEnded:
            return False

    async def group_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The group's offsets, of the partitions that have one."""
        consumer = self._ensure_consumer()
        found = {tp: await self.call_thread(consumer.committed, driver.ensure_aiokafka_TP(tp)) for tp in partitions}
        return {tp: offset for tp, offset in found.items() if offset is not None}

    def topic_partitions(self, topic: str) -> int | None:
        """How many partitions a topic has, by the cluster's metadata: Faust asks the group's leader's only."""
        if self._consumer is None:
            return None
        partitions = self._consumer._client.cluster.partitions_for_topic(topic)
        return len(partitions) if partitions else None

    def read_to(self, tp: TopicPartition) -> int | None:
        """Where the fetcher stands after the last record that it handed over; None if the partition isn't read."""
        assignment = self._consumer._subscription.subscription if self._consumer is not None else None
        if assignment is None or assignment.assignment is None or tp not in assignment.assignment.tps:
            return None
        position: int | None = assignment.assignment.state_value(driver.ensure_aiokafka_TP(tp))._position
        return position

    async def on_thread_stop(self) -> None:
        """Let go of the group, within `LEAVING_SECONDS`: a rebalance that is under way waits for the other members, or
        for a callback whose next call into this thread nobody takes any more, and aiokafka's stop waits for it."""
        try:
            async with asyncio.timeout(LEAVING_SECONDS):
                await super().on_thread_stop()
        except TimeoutError:
            log.warning("consumer.cut_off", reason=f"a rebalance was still under way after {LEAVING_SECONDS:g} s")

    async def raise_group_error(self) -> None:
        """Raise the error for which the group's coordination waits, if there is one."""
        if self._consumer is not None:
            await self.call_thread(self._raise_group_error)

    async def _raise_group_error(self) -> None:
        self._ensure_consumer()._coordinator.check_errors()

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        self._next.clear()  # nothing is delivered until the destinations have been asked again
        await super().on_partitions_revoked(revoked)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Seek Faust's own topics to the group's offsets; sources are the destinations' to position.

        Faust calls this in rebalances and, beside them, from its fetcher: one call may end after the seek that another
        one began.
        """
        offsets: Mapping[TP, int] = await self.call_thread(self._seek_internal_to_committed)
        return offsets

    async def _seek_internal_to_committed(self) -> Mapping[TP, int]:
        consumer = self._ensure_consumer()
        internal = [tp for tp in consumer.assignment() if not self.consumer.positions.is_source(tp.topic)]
        if not internal:
            return {}
        offsets: Mapping[TP, int] = await consumer.seek_to_committed(*internal)
        return offsets

    async def seek_sources(self, offsets: Mapping[TopicPartition, int], epoch: int) -> None:
        """Position source partitions and let them deliver from there, as chunks of `epoch`."""
        await self.call_thread(self._seek_sources, offsets, epoch)

    async def _seek_sources(self, offsets: Mapping[TopicPartition, int], epoch: int) -> None:
        self._epoch = epoch
        consumer = self._ensure_consumer()
        assigned = consumer.assignment()
        for tp, offset in offsets.items():
            if tp in assigned:
                consumer.seek(driver.ensure_aiokafka_TP(tp), offset)
                self._next[tp] = offset

    async def log_bounds(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        """First and next offset of the log of each partition."""
        tps = [driver.ensure_aiokafka_TP(tp) for tp in partitions]
        consumer = self._ensure_consumer()
        first = await self.call_thread(consumer.beginning_offsets, tps)
        end = await self.call_thread(consumer.end_offsets, tps)
        return {TopicPartition(*tp): (first[tp], end[tp]) for tp in tps}

    async def _fetch_records(
        self,
        consumer: aiokafka.AIOKafkaConsumer,
        active_partitions: set[TP],
        timeout: float | None = None,
        max_records: int | None = None,
    ) -> dict[TP, list[Any]]:
        try:
            fetched = await super()._fetch_records(consumer, active_partitions, timeout, max_records)
        except NoOffsetForPartitionError:
            # not positioned yet: perform_seek will do it, when the destinations answer
            await asyncio.sleep(UNPOSITIONED_SECONDS)
            return {}
        except OffsetOutOfRangeError as error:
            if missing := {tp: at for tp, at in error.args[0].items() if self._is_wanted(consumer, tp, at)}:
                raise OffsetOutOfRangeError(missing) from error
            return {}
        positions = self.consumer.positions
        generation = consumer._coordinator.generation
        result: dict[TP, list[Any]] = {}
        for tp, records in fetched.items():
            if not positions.is_source(tp.topic):
                result[tp] = records
                continue
            first, end = records[0].first, records[-1].next
            if not self._is_wanted(consumer, tp, first):
                continue
            chunk = build_chunk(tp.topic, tp.partition, generation, first, end, list(chain.from_iterable(records)))
            chunk.epoch = self._epoch
            self._next[chunk.tp] = end
            positions.backlog.add(chunk)
            result[tp] = [chunk]
        return result

    def _is_wanted(self, consumer: aiokafka.AIOKafkaConsumer, tp: TP, offset: int) -> bool:
        """Whether a fetch at `offset` goes on where the partition's last chunk ended. If something else moved the
        consumer it is moved back: records from before would be doubled, and those from behind would hide a gap."""
        if not self.consumer.positions.is_source(tp.topic):
            return True
        wanted = self._next.get(TopicPartition(*tp))
        if wanted is not None and wanted != offset:
            log.warning("consumer.moved_back", topic=tp.topic, partition=tp.partition, wanted=wanted, found=offset)
            consumer.seek(tp, wanted)
        return wanted == offset  # None: it isn't positioned yet, and stands at the group's offset only
