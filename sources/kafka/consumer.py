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
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import structlog
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage
from mode import Service

from config.errors import OffsetBeyondLog, OffsetGap
from sources.changes import Chunk, TopicPartition
from sources.kafka.consumer_thread import ColumnarConsumerThread
from sources.kafka.group_errors import group_error
from sources.kafka.positions import Positions
from sources.kafka.record_batches import unpack_by_batch

log = structlog.get_logger("lakeward.consumer")

GROUP_CHECK_SECONDS = 1.0
"""How often the group's coordination is asked for errors."""


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
        self._positioning: asyncio.Task[None] | None = None
        self._positioned_generation = 0

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
        # Faust's recovery takes a call that outlasts its time limit for the worker's end, and is never heard of again.
        # Until the destinations have answered nothing is delivered anyway, however long they are away.
        positioning = self._positioned()
        done, _ = await asyncio.wait({positioning}, timeout=self.app.conf.broker_request_timeout / 2)
        for task in done:
            await task

    def _positioned(self) -> asyncio.Task[None]:
        """The positioning of this generation: the one that is under way, or a new one. Two at the same time could
        reach the consumer's thread in another order than the application."""
        generation = self.app.consumer_generation_id
        if self._positioning is None or self._positioning.done() or self._positioned_generation != generation:
            self._positioned_generation = generation
            self._positioning = asyncio.create_task(self._seek_to_destinations(generation))
            self._positioning.add_done_callback(lambda task: task.cancelled() or task.exception())  # it has been told
        return self._positioning

    async def _seek_to_destinations(self, generation: int) -> None:
        sources = [TopicPartition(*tp) for tp in self.assignment() if self.positions.is_source(tp.topic)]
        try:
            epoch, wanted = await self.positions.wanted(sources, generation)
            starts = await self._starts([tp for tp in sources if wanted[tp] is None])
        except Exception as error:
            await self.crash(error)
            raise
        if starts is None or generation != self.app.consumer_generation_id:
            return  # another rebalance began meanwhile; its own seek follows
        offsets = {tp: offset if offset is not None else starts[tp] for tp, offset in wanted.items()}
        self.positions.backlog.assign(sources)
        for tp, offset in offsets.items():
            # A group offset ahead of the destination must be lowered: Faust only commits offsets above this one.
            self._committed_offset[TP(*tp)] = None if offset == 0 else offset - 1
        await self._thread.seek_sources(offsets, epoch)

    async def _starts(self, unknown: list[TopicPartition]) -> dict[TopicPartition, int] | None:
        """Where partitions begin that no destination has an offset of: the log's beginning, or (`latest`) its end. The
        group keeps that end: what comes until the first commit would be skipped by the next start. None: the group is
        rebalancing again."""
        bounds = await self._thread.log_bounds(unknown)
        if self.app.conf.consumer_auto_offset_reset != "latest":
            for tp, (first, _) in bounds.items():
                if first:
                    log.warning("consumer.begins_late", topic=tp.topic, partition=tp.partition, first=first,
                                reason="the log doesn't hold the records before: without a snapshot of the source"
                                " made since, tables lack what they said; cdc verify tells")  # fmt: skip
            return {tp: first for tp, (first, _) in bounds.items()}
        kept = await self._thread.group_offsets(unknown)
        for tp, offset in kept.items():
            if offset < bounds[tp][0]:
                raise OffsetGap(
                    f"{tp.topic}/{tp.partition}: of what came since the first start, at offset {offset}, nothing was"
                    f" written, and the log starts at {bounds[tp][0]} by now. Delete the group's offset"
                    f" (kafka-consumer-groups --delete-offsets --group {self.app.conf.id} --topic {tp.topic}) to begin"
                    " at the log's end again, and raise the topic's retention"
                )
        ends = {tp: end for tp, (_, end) in bounds.items() if tp not in kept}
        if ends and not await self._thread.commit({TP(*tp): end for tp, end in ends.items()}):
            return None
        return kept | ends

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
