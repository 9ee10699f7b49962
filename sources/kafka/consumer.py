"""A Faust consumer that delivers chunks: one message per fetch and partition, positioned by the destinations.

Faust calls a consumer for three things, and this one changes how each is done:

- *fetching*: the records that a fetch brought of one partition become one `Chunk`, built in the consumer's thread.
  Its `first` is where the previous chunk ended, its `next` where the fetcher stands after it, so compaction and
  aborted transactions leave no holes between chunks. Records that were fetched elsewhere (the consumer was moved
  meanwhile) are thrown away and read again from where the previous chunk ended. Partitions whose backlog is full are
  left out of a fetch.
- *seeking*: after a rebalance the source partitions are positioned where the destinations say (`Positions.wanted`),
  whatever the group's offset is. A partition delivers nothing before that, and nobody else moves it.
- *committing*: the group's offset is what `Positions.committable` says. Faust's own acknowledgement bookkeeping,
  which is per message, isn't used for source topics.

Offsets that the log doesn't hold any more (or not yet) are never reset silently: they stop the worker.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, NamedTuple, Protocol

import aiokafka
import structlog
from aiokafka.errors import KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage
from mode import Service

from config.errors import OffsetBeyondLog, OffsetGap
from sources.changes import Chunk, TopicPartition
from sources.kafka.backlog import Backlog
from sources.kafka.chunks import build_chunk
from sources.kafka.group_errors import group_error
from sources.kafka.record_batches import unpack_by_batch

log = structlog.get_logger("lakeward.consumer")

FETCH_MAX_WAIT_MS, FETCH_MIN_BYTES = 100, 64 << 10
"""How long the broker may hold a fetch, and what it waits for: a trickle of changes comes in ten fetches a second. Each
chunk costs milliseconds in every sink, however few records it has."""

FETCH_MAX_BYTES = 16 << 20
"""Most bytes that one broker's response may bring over all partitions."""

GROUP_CHECK_SECONDS = 1.0
"""How often the group's coordination is asked for errors."""

LEAVING_SECONDS = 3.0
"""How long a worker that ends waits for a rebalance."""


class Positioning(NamedTuple):
    """The next offset to read of each partition (None where no destination has one yet), and the epoch that begins
    with it: chunks of an older one are not wanted any more."""

    epoch: int
    offsets: Mapping[TopicPartition, int | None]


class Positions(Protocol):
    """What the consumer asks the application: which topics are sources, and where the sinks stand."""

    backlog: Backlog

    def is_source(self, topic: str) -> bool:
        """Whether this topic's records are delivered as chunks."""

    async def wanted(self, partitions: list[TopicPartition], generation: int) -> Positioning:
        """Where to read each partition from, by the destinations; begins a new epoch."""

    def committable(self, tp: TopicPartition) -> int | None:
        """The offset that the group may commit for this partition."""

    def assigned(self) -> Iterable[TopicPartition]:
        """The source partitions that `wanted` has positioned."""


class ColumnarConsumerThread(driver.AIOKafkaConsumerThread):
    """The thread that owns the aiokafka consumer; builds chunks right where records are parsed."""

    consumer: ColumnarConsumer

    def __post_init__(self) -> None:
        super().__post_init__()
        # Where the next chunk of each positioned source partition starts. Touched in this thread only.
        self._next: dict[TopicPartition, int] = {}
        self._epoch = 0

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
            return {}  # not positioned yet: perform_seek will do it
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


class ReadOffsets(defaultdict[TP, int | None]):
    """Faust's memory of the last message per partition, by which it drops what comes again; none of source topics.

    A message that is on its way while the consumer seeks back would be remembered after the seek, and the first chunk
    of the new position dropped. Chunks that come twice are told by their epoch and their offsets.
    """

    def __init__(self, is_source: Callable[[str], bool]) -> None:
        super().__init__(lambda: None)
        self._is_source = is_source

    def __setitem__(self, tp: TP, offset: int | None) -> None:
        if not self._is_source(tp.topic):
            super().__setitem__(tp, offset)

    def update(self, offsets: Mapping[TP, int | None]) -> None:  # type: ignore[override]  # Faust's only use of it
        for tp, offset in offsets.items():
            self[tp] = offset


class ColumnarConsumer(driver.Consumer):
    """Faust's consumer over `ColumnarConsumerThread`. `app.positions` has to be set before the worker starts."""

    _thread: ColumnarConsumerThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._read_offset = ReadOffsets(lambda topic: self.positions.is_source(topic))

    @property
    def positions(self) -> Positions:
        positions: Positions = self.app.positions
        return positions

    def _new_consumer_thread(self) -> ColumnarConsumerThread:
        return ColumnarConsumerThread(self, loop=self.loop, beacon=self.beacon)

    @Service.task
    async def _watch_group(self) -> None:
        """End the worker when it can't be a member of its group.

        aiokafka hands such errors to the next fetch, and before a worker's first assignment there is none.
        """
        while not self.should_stop:
            await self.sleep(GROUP_CHECK_SECONDS)
            try:
                await self._thread.raise_group_error()
            except KafkaError as error:
                raise group_error(self.app.conf.id, error) from error

    # -- fetching

    def read_to(self, tp: TopicPartition) -> int | None:
        """Up to which offset a partition was read; None if it isn't read."""
        return self._thread.read_to(tp) if self._thread is not None else None

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> dict[TP, list[Any]]:
        if active_partitions is None:
            return dict(await super()._getmany(active_partitions, timeout))
        positions = self.positions
        active = {
            tp
            for tp in active_partitions
            if not positions.is_source(tp.topic) or positions.backlog.has_room(TopicPartition(*tp))
        }
        if not active:  # an empty set would mean all partitions to aiokafka
            await asyncio.sleep(0.01)
            return {}
        try:
            # A partition may get room again while the others have nothing: don't wait long without it.
            return dict(await super()._getmany(active, timeout if len(active) == len(active_partitions) else 0.05))
        except OffsetOutOfRangeError as error:
            await self._explain_out_of_range(error.args[0])
            return {}

    async def _explain_out_of_range(self, wanted: Mapping[TP, int]) -> None:
        bounds = await self._thread.log_bounds(TopicPartition(*tp) for tp in wanted)
        for tp, (first, end) in bounds.items():
            offset = wanted[TP(*tp)]
            if offset < first:
                raise OffsetGap(
                    f"{tp.topic}/{tp.partition}: a sink wants offset {offset} next, but the log starts at {first}:"
                    f" {first - offset} records were removed by retention before they were written. Snapshot the source"
                    " anew into a new table, and raise the topic's retention"
                )
            if offset > end:
                raise OffsetBeyondLog(
                    f"{tp.topic}/{tp.partition}: a sink wants offset {offset} next, but the log ends at {end}:"
                    " the topic was created anew (or truncated). Point the sink at a new table, or restore the topic"
                )

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        if not isinstance(record, Chunk):
            return super()._to_message(tp, record)
        last_ms = int(record.timestamps[-1]) if len(record) else None
        return ConsumerMessage(
            record.topic,
            record.partition,
            record.first,
            last_ms / 1000.0 if last_ms is not None else None,
            0,
            [],
            None,
            record,
            None,
            0,
            record.nbytes,
            tp,
            generation_id=record.generation,
        )

    # -- seeking

    async def perform_seek(self) -> None:
        await super().perform_seek()
        unread = [
            tp for tp in self.assignment() if self._read_offset[tp] is None and not self.positions.is_source(tp.topic)
        ]
        if unread:  # internal topics without a group offset; aiokafka was told not to reset by itself
            await self._thread.seek_wait(await self._thread.earliest_offsets(*unread))
        # Faust bounds this call by a timeout and then goes on regardless; the seek must not be cut short by that.
        await asyncio.shield(asyncio.ensure_future(self._seek_to_destinations()))

    async def _seek_to_destinations(self) -> None:
        generation = self.app.consumer_generation_id
        sources = [TopicPartition(*tp) for tp in self.assignment() if self.positions.is_source(tp.topic)]
        try:
            epoch, wanted = await self.positions.wanted(sources, generation)
            bounds = await self._thread.log_bounds(tp for tp in sources if wanted[tp] is None)
        except Exception as error:
            await self.crash(error)
            raise
        if generation != self.app.consumer_generation_id:
            return  # another rebalance began meanwhile; its own seek follows
        earliest = self.app.conf.consumer_auto_offset_reset != "latest"
        offsets = {
            tp: offset if offset is not None else bounds[tp][0 if earliest else 1] for tp, offset in wanted.items()
        }
        self.positions.backlog.assign(sources)
        for tp, offset in offsets.items():
            # A group offset ahead of the destination must be lowered: Faust only commits offsets above this one.
            self._committed_offset[TP(*tp)] = None if offset == 0 else offset - 1
        await self._thread.seek_sources(offsets, epoch)

    # -- committing

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        yield from super()._filter_tps_with_pending_acks(topics)
        for tp in self.positions.assigned():
            if topics is None or tp in topics or tp.topic in topics:
                yield TP(*tp)

    def _new_offset(self, tp: TP) -> int | None:
        if self.positions.is_source(tp.topic):
            return self.positions.committable(TopicPartition(*tp))
        offset: int | None = super()._new_offset(tp)
        return offset

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        if not self.positions.is_source(tp.topic):
            await super()._add_gap(tp, offset_from, offset_to)


class ColumnarTransport(driver.Transport):
    """Faust's aiokafka transport with the columnar consumer, for `app.source_topics`."""

    Consumer = ColumnarConsumer

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        unpack_by_batch(self.app.source_topics)
