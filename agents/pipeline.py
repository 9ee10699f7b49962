"""The running pipeline: what connects the consumer, the agents and the writers.

    consumer ─ chunk ─> agent (topic, sink) ─ decode ─> writer (sink, table) ─ commit ─> receipt
        ^                                                                                  │
        └────────── seek on assignment, group offset, room for more <── ledger, backlog <──┘

On assignment the destinations are asked for their offsets (`wanted`), the writers begin a new epoch there, and the
consumer seeks to the lowest of them. After each commit the ledger takes the receipt in, the backlog lets go of what
all sinks have, and the watermark is handed to the agent that keeps the table `sink_watermarks`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol
from weakref import WeakKeyDictionary

import pyarrow as pa
import structlog

from agents.stats import PipelineStats
from agents.writer import Commit, FlushPolicy, TableWriter
from config.errors import PipelineStopped, Unavailable
from config.platform import RetryConfig
from sinks.base import Sink
from sources.changes import Chunk, DecodedChunk, Rejected, TopicPartition
from sources.kafka.backlog import Backlog
from sources.kafka.positions import Positioning
from sources.ledger import OffsetLedger
from sources.protocols import ErrorRouter, Rereading

log = structlog.get_logger("lakeward.pipeline")


class Decoder(Protocol):
    """Turns a chunk into changes; called in worker threads."""

    def decode(self, chunk: Chunk) -> DecodedChunk: ...


@dataclass(frozen=True)
class SinkTable:
    """A sink bound to one of its tables, with its policies. `sets_aside`: it may refuse records that are sound."""

    sink: Sink
    flush: FlushPolicy
    retry: RetryConfig
    sets_aside: bool = False


class Pipeline:
    """Implements the consumer's `Positions`, the agents' decoding, and the life of the writers.

    `partition_count(topic)` is the number of partitions that the broker reports, None while unknown. `on_watermark`
    is awaited with (sink id, commit) after each landed commit; `crash` with what must end the worker; `prepare` before
    anything is decoded.
    """

    def __init__(
        self,
        tables: Sequence[SinkTable],
        decoder: Decoder,
        dead_letters: ErrorRouter | None,
        rereads: Rereading | None = None,
        *,
        budget: int,
        new_sinks_read_from: str = "earliest",
        retry: RetryConfig,
        partition_count: Callable[[str], int | None],
        generation: Callable[[], int],
        on_watermark: Callable[[str, Commit], Awaitable[None]],
        crash: Callable[[BaseException], Awaitable[None]],
        prepare: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.backlog = Backlog(budget)
        self.stats = PipelineStats()
        self._decoder = decoder
        self._dead_letters = dead_letters
        self._rereads = rereads
        self._retry = retry
        self._earliest = new_sinks_read_from != "latest"
        self._generation = generation
        self._epoch = 0
        self._on_watermark = on_watermark
        self._crash = crash
        self._prepare = prepare
        self._decoding = ThreadPoolExecutor(2, thread_name_prefix="decode")
        self._set_aside: WeakKeyDictionary[Chunk, asyncio.Task[None]] = WeakKeyDictionary()
        self.writers: dict[tuple[str, str], TableWriter] = {}
        for table in tables:
            writer = TableWriter(
                table.sink,
                table.flush,
                table.retry,
                on_commit=self._committed,
                on_rejected=self._refused,
                on_error=lambda writer, error: self.stats.on_error(writer.sink.target.sink_id, error),
                on_failure=self._failed,
                on_unknown=None if rereads is None else partial(self._read_again, rereads),
                partition_count=partition_count,
                batch_bytes=budget // 2,
                pressed=self._pressed,
                sets_aside=table.sets_aside,
            )
            for topic in table.sink.target.topics:
                self.writers[topic, table.sink.target.sink_id] = writer
        self._distinct = tuple(dict.fromkeys(self.writers.values()))
        sinks_of: dict[str, set[str]] = {}
        for topic, sink_id in self.writers:
            sinks_of.setdefault(topic, set()).add(sink_id)
        self._sinks_of = {topic: tuple(sorted(sinks)) for topic, sinks in sinks_of.items()}
        self.ledger = OffsetLedger(self._sinks_of)

    # -- life

    async def start(self) -> None:
        """Reach every destination (waiting for those that are away) and start the writers."""
        if self._prepare is not None:
            await self._prepare()
        if self._rereads is not None:
            await self._rereads.check()
        await asyncio.gather(*(writer.start() for writer in self._distinct))

    async def flush(self, grace: float) -> None:
        """Take nothing more, and commit what is buffered, for at most `grace` seconds; what isn't committed by then is
        read again by the next worker."""
        await asyncio.gather(*(writer.flush(grace) for writer in self._distinct))
        left = {writer.name: writer.buffered_rows for writer in self._distinct if writer.buffered_rows}
        log.info("pipeline.flushed", left=left)

    async def stop(self) -> None:
        """Finish the commits under way and close the sinks."""
        await asyncio.gather(*(writer.stop() for writer in self._distinct))
        if self._dead_letters is not None:
            await self._dead_letters.close()
        self._decoding.shutdown(cancel_futures=True)

    def _pressed(self) -> bool:
        """Whether the writers' buffers take more than half of the budget; what waits for decoding isn't theirs."""
        return sum(writer.buffered_bytes for writer in self._distinct) > self.backlog.budget // 2

    async def _failed(self, writer: TableWriter, error: BaseException) -> None:
        self.stats.on_error(writer.sink.target.sink_id, error)
        await self.fail(error, writer=writer.name)

    async def fail(self, error: BaseException, **context: str) -> None:
        """End the worker: going on without this part would skip events."""
        if isinstance(error, PipelineStopped):
            log.critical("pipeline.stopped", reason=type(error).__name__, error=str(error), **context)
        else:
            log.critical("pipeline.crashed", error=repr(error), exc_info=error, **context)
        await self._crash(error)

    # -- what the consumer asks

    def is_source(self, topic: str) -> bool:
        """Whether a topic feeds a sink."""
        return topic in self._sinks_of

    def assigned(self) -> Iterable[TopicPartition]:
        """The positioned source partitions."""
        return self.ledger.partitions()

    def committable(self, tp: TopicPartition) -> int | None:
        """The group's offset: the minimum over the sinks."""
        return self.ledger.committable(tp)

    def revoked(self) -> None:
        """A rebalance began: nothing that is buffered may be written any more, nor what is still being decoded."""
        self._epoch += 1
        for writer in self._distinct:
            writer.drop()
        self.ledger.assign({})
        self.backlog.assign([])

    async def wanted(self, partitions: list[TopicPartition], generation: int) -> Positioning:
        """Ask the destinations where they stand, and begin there."""
        by_writer: dict[TableWriter, list[TopicPartition]] = {}
        for tp in partitions:
            for sink_id in self._sinks_of[tp.topic]:
                by_writer.setdefault(self.writers[tp.topic, sink_id], []).append(tp)
        answers = await asyncio.gather(*(writer.committed(tps) for writer, tps in by_writer.items()))
        if generation != self._generation():
            return Positioning(self._epoch, dict.fromkeys(partitions))  # overtaken by the next rebalance
        self._epoch += 1
        offsets: dict[TopicPartition, dict[str, int | None]] = {tp: {} for tp in partitions}
        for (writer, tps), committed in zip(by_writer.items(), answers, strict=True):
            writer.assign({tp: committed.get(tp) for tp in tps})
            for tp in tps:
                offsets[tp][writer.sink.target.sink_id] = committed.get(tp)
        known = {tp: {s: o for s, o in sinks.items() if o is not None} for tp, sinks in offsets.items()}
        self.ledger.assign(known)
        wanted: dict[TopicPartition, int | None] = {}
        for tp, sinks in offsets.items():
            new = len(known[tp]) < len(sinks)
            wanted[tp] = None if not known[tp] or (new and self._earliest) else min(known[tp].values())
        log.info(
            "pipeline.partitions_assigned",
            generation=generation,
            partitions={f"{tp.topic}/{tp.partition}": sinks for tp, sinks in offsets.items()},
        )
        return Positioning(self._epoch, wanted)

    # -- what the agents call

    async def ingest(self, chunk: Chunk, sink_id: str) -> None:
        """Decode a chunk and buffer it for one sink; one of an older generation or epoch is dropped.

        The epoch alone tells between a revocation and the next assignment: the generation is still the old one then,
        but what a late chunk continues was dropped with the writer's buffer.
        """
        if self._is_late(chunk):
            return
        decoded = await self._decode(chunk)
        if decoded.rejected:
            await self._dead_letter(chunk, decoded.rejected)
        if not self._is_late(chunk):
            self.writers[chunk.topic, sink_id].add(chunk, decoded)

    def _is_late(self, chunk: Chunk) -> bool:
        return chunk.generation != self._generation() or chunk.epoch != self._epoch

    async def _decode(self, chunk: Chunk) -> DecodedChunk:
        loop = asyncio.get_running_loop()
        attempt = 0
        while True:
            try:
                return await loop.run_in_executor(self._decoding, chunk.decoded, self._decode_once)
            except Unavailable as error:
                attempt += 1
                wait = max(self._retry.wait_after(attempt), error.retry_after or 0.0)
                log.warning("decode.unavailable", topic=chunk.topic, error=str(error), retry_in=round(wait, 1))
                for sink_id in self._sinks_of[chunk.topic]:
                    self.stats.on_error(sink_id, error)
                await asyncio.sleep(wait)

    def _decode_once(self, chunk: Chunk) -> DecodedChunk:
        decoded = self._decoder.decode(chunk)
        self.stats.on_decoded(chunk, decoded)
        return decoded

    async def _dead_letter(self, chunk: Chunk, rejected: tuple[Rejected, ...]) -> None:
        """Set bad records aside, once per chunk, before any commit passes their offsets."""
        task = self._set_aside.get(chunk)
        if task is None:
            sending = self._send_aside(chunk, rejected, self._sinks_of[chunk.topic], "read")
            task = self._set_aside[chunk] = asyncio.ensure_future(sending)
        await asyncio.shield(task)

    async def _refused(self, writer: TableWriter, chunk: Chunk, rejected: Sequence[Rejected]) -> None:
        """Set aside what one sink can't apply; the others may have."""
        await self._send_aside(chunk, rejected, [writer.sink.target.sink_id], f"applied by {writer.name}")
        self.stats.on_refused(chunk, rejected)

    async def _read_again(self, rereads: Rereading, writer: TableWriter, keys: Mapping[str, pa.Table]) -> None:
        """Have the rows sent again of which one sink lacks values that the source didn't send."""
        for topic, rows in keys.items():
            log.warning("pipeline.rows_read_again", topic=topic, rows=len(rows), sink=writer.sink.target.sink_id)
            await rereads.ask(topic, rows)
            self.stats.on_read_again(topic, len(rows))

    async def _send_aside(
        self, chunk: Chunk, rejected: Sequence[Rejected], sink_ids: Sequence[str], not_done: str
    ) -> None:
        first = rejected[0]
        offset = int(chunk.offsets[first.index])
        if self._dead_letters is None:
            raise PipelineStopped(
                f"{chunk.topic}/{chunk.partition}: the record at offset {offset} can't be {not_done} ({first.reason}),"
                " and dlq.enabled is false. Enable the dead-letter topic, or repair the record"
            )
        log.warning("pipeline.dead_letters", topic=chunk.topic, partition=chunk.partition, records=len(rejected),
                    first_offset=offset, reason=str(first.reason), sinks=list(sink_ids))  # fmt: skip
        await self._dead_letters.send(chunk, rejected, sink_ids)

    # -- what the writers report

    async def _committed(self, writer: TableWriter, commit: Commit) -> None:
        sink_id = writer.sink.target.sink_id
        self.ledger.record(sink_id, commit.receipt.next_offsets)
        for tp in commit.ranges:
            passed = self.ledger.committable(tp)
            if passed is not None:
                self.backlog.release(tp, passed)
        self.stats.on_commit(sink_id, commit)
        await self._on_watermark(sink_id, commit)
