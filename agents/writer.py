"""The one writer of a (sink, table): buffers decoded chunks, and commits them in groups.

The run loop is `TableWriter._run`. While a commit is under way in the writer's thread, arriving chunks accumulate for
the next one: a slow catalog makes batches bigger, not the stream slower. A commit is due when `batch_size` rows are
there or the oldest chunk is `flush_interval` seconds old. After a commit the next one pauses for `PAUSE` times as long
as that one took (at most `LONGEST_PAUSE`), unless memory fills up: commits of a single chunk each would spend the
worker's time on metadata.

Every call into the sink runs in this writer's only thread, one after the other. `assign` starts a new epoch: what was
buffered is dropped, and a retry of an older epoch's batch is given up (the consumer delivers those records again, or
another worker has them).
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import structlog

from config.errors import BadRecord, ConfigurationError, OffsetGap, RecordsRefused, Unavailable, ValuesUnknown
from config.platform import RetryConfig
from sinks.base import Batch, OffsetRange, Receipt, Sink
from sinks.unchanged import keys_of, without
from sources.changes import ChangeBatch, Chunk, DecodedChunk, Rejected, TopicPartition

log = structlog.get_logger("lakeward.writer")

T = TypeVar("T")

PAUSE = 4.0
LONGEST_PAUSE = 1.0
"""Seconds."""
CLOSING_SECONDS = 6.0
"""How long a writer that stops waits for its sink; with the grace time of a flush, less than orchestrators wait."""


@dataclass(frozen=True)
class FlushPolicy:
    """When a commit is due: `batch_size` rows are buffered, or the oldest chunk waits for `interval` seconds."""

    batch_size: int
    interval: float


@dataclass(frozen=True)
class Buffered:
    """A chunk's changes that wait for a commit: the offsets that they cover, the broker timestamp (milliseconds) of
    the chunk's last record, its raw size in bytes, and when it arrived (monotonic seconds); the chunk itself if the
    sink may find that it can't apply some of its records."""

    tp: TopicPartition
    span: OffsetRange
    changes: Sequence[ChangeBatch]
    timestamp: int | None
    nbytes: int
    arrived: float
    chunk: Chunk | None

    @property
    def rows(self) -> int:
        return sum(change.rows.num_rows for change in self.changes)


@dataclass(frozen=True)
class Commit:
    """What `on_commit` is told: the receipt, the batch's ranges and rows per partition, the broker timestamp
    (milliseconds) of the last record of each partition, and how long the commit took (seconds)."""

    receipt: Receipt
    ranges: Mapping[TopicPartition, OffsetRange]
    rows: Mapping[TopicPartition, int]
    timestamps: Mapping[TopicPartition, int]
    seconds: float


class TableWriter:
    """Feeds one sink table. `on_commit` is awaited after each landed batch, `on_rejected` with a chunk's records that
    the sink can't apply (instead of it `on_unknown`, if given, with the keys by topic of those that lack values);
    `on_error` is told of each retry, `on_failure` once, with what ends this writer. `pressed` says whether what is
    buffered takes too much memory; `buffered_bytes` is this writer's part: the raw bytes of the chunks that wait for
    the next commit. One commit takes chunks of at most `batch_bytes` raw bytes (or one chunk): what a sink needs to
    write it is bounded, too. `sets_aside`: the sink may refuse any record for its schema, so chunks are kept until they
    are written (otherwise those alone that lack values)."""

    def __init__(
        self,
        sink: Sink,
        policy: FlushPolicy,
        retry: RetryConfig,
        *,
        on_commit: Callable[[TableWriter, Commit], Awaitable[None]],
        on_rejected: Callable[[TableWriter, Chunk, Sequence[Rejected]], Awaitable[None]],
        on_error: Callable[[TableWriter, Exception], None],
        on_failure: Callable[[TableWriter, BaseException], Awaitable[None]],
        on_unknown: Callable[[TableWriter, Mapping[str, pa.Table]], Awaitable[None]] | None = None,
        partition_count: Callable[[str], int | None],
        batch_bytes: int,
        pressed: Callable[[], bool] = lambda: False,
        sets_aside: bool = False,
    ) -> None:
        self.sink = sink
        self.policy = policy
        self._retry = retry
        self._on_commit = on_commit
        self._on_rejected = on_rejected
        self._on_error = on_error
        self._on_failure = on_failure
        self._on_unknown = on_unknown
        self._partition_count = partition_count
        self._batch_bytes = batch_bytes
        self._pressed = pressed
        self._sets_aside = sets_aside
        self._paused_until = 0.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"writer-{sink.target.sink_id}")
        self._epoch = 0
        self._wanted: dict[TopicPartition, int] = {}
        self._buffer: deque[Buffered] = deque()
        self.buffered_rows = 0
        self.buffered_bytes = 0
        self._arrived = asyncio.Event()
        self._closing = False
        self._in_sink: tuple[str, float] | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """`sink_id → table`, for logs."""
        return f"{self.sink.target.sink_id} → {self.sink.target.name}"

    @property
    def doing(self) -> str:
        """What this writer does at the moment, for people."""
        if (call := self._in_sink) is not None:
            return f"`{call[0]}` has been under way for {monotonic() - call[1]:.0f} s"
        if self.buffered_rows:
            return f"{self.buffered_rows} rows wait for a commit"
        return "nothing arrives"

    # -- life

    async def start(self) -> None:
        """Reach the destination, waiting as long as it takes, and start the run loop."""
        await self._persist(self.sink.open, "open")
        self._task = asyncio.create_task(self._supervise(), name=f"writer {self.name}")

    async def flush(self, grace: float) -> None:
        """Take nothing more, and commit what is buffered, for at most `grace` seconds."""
        if self._task is not None:
            self._closing = True
            self._arrived.set()
            await asyncio.wait([self._task], timeout=grace)

    async def stop(self) -> None:
        """Let the call under way finish, drop the rest (the destination's offsets know), close the sink. A call that a
        destination doesn't answer is left to end with the process."""
        if self._task is not None:
            self._epoch += 1
            self._task.cancel()
            await asyncio.wait([self._task])
        closing = asyncio.ensure_future(self._call(self.sink.close, "close"))
        await asyncio.wait([closing], timeout=CLOSING_SECONDS)
        if closing.done():
            self._thread.shutdown()
            return closing.result()
        log.warning("sink.left_behind", writer=self.name, text=self.doing)
        return self._thread.shutdown(wait=False, cancel_futures=True)

    async def _supervise(self) -> None:
        try:
            await self._run()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # whatever it is, the worker must not go on without this writer
            await self._on_failure(self, error)

    # -- what the agents call

    async def committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The destination's next wanted offsets, read after whatever this writer has in flight."""
        wanted = list(partitions)
        committed: dict[TopicPartition, int] = await self._persist(lambda: self.sink.committed(wanted), "committed")
        return committed

    def drop(self) -> None:
        """Partitions are being revoked: begin a new epoch without any."""
        self.assign({})

    def assign(self, wanted: Mapping[TopicPartition, int | None]) -> None:
        """Begin a new epoch: forget what is buffered; expect these next offsets (None: whatever comes first)."""
        self._epoch += 1
        self._wanted = {tp: offset for tp, offset in wanted.items() if offset is not None}
        self._buffer.clear()
        self.buffered_rows = self.buffered_bytes = 0

    def add(self, chunk: Chunk, decoded: DecodedChunk) -> None:
        """Buffer a chunk for the next commit. What the destination has already is left out."""
        tp = chunk.tp
        wanted = self._wanted.get(tp, chunk.first)
        if chunk.next <= wanted or self._closing:
            return
        if chunk.first > wanted:
            raise OffsetGap(
                f"{tp.topic}/{tp.partition}: {self.name} wants offset {wanted} next, but a chunk starts at"
                f" {chunk.first}; restart the worker to read again from the destination's offset"
            )
        changes = [c if c.first >= wanted else c.after_offset(wanted) for c in decoded.changes if c.next > wanted]
        last = int(chunk.timestamps[-1]) if len(chunk) else None
        kept = chunk if self._sets_aside or any(change.lacks_values for change in changes) else None
        buffered = Buffered(tp, OffsetRange(wanted, chunk.next), changes, last, chunk.nbytes, monotonic(), kept)
        self._buffer.append(buffered)
        self.buffered_rows += buffered.rows
        self.buffered_bytes += buffered.nbytes
        self._wanted[tp] = chunk.next
        self._arrived.set()

    # -- the run loop

    async def _run(self) -> None:
        while await self._is_due():
            epoch, (timestamps, batch, chunks) = self._epoch, self._take()
            started = monotonic()
            log.info("sink.commit_started", writer=self.name, rows=batch.num_rows, ranges=_readable(batch.ranges))
            receipt, batch = await self._write(batch, chunks, epoch)
            if receipt is None:
                continue  # given up: the partitions were taken away while the destination was unavailable
            seconds = monotonic() - started
            self._paused_until = monotonic() + min(LONGEST_PAUSE, self.policy.interval, PAUSE * seconds)
            log.info(
                "sink.committed",
                writer=self.name,
                rows=receipt.rows,
                version=receipt.version,
                seconds=round(seconds, 3),
                next=_readable(receipt.next_offsets),
            )
            rows: Counter[TopicPartition] = Counter()
            for change in batch.changes:
                rows[change.tp] += change.rows.num_rows
            await self._on_commit(self, Commit(receipt, batch.ranges, rows, timestamps, seconds))
            if not self._closing:
                await self._tidy()

    async def _write(self, batch: Batch, chunks: Sequence[Chunk], epoch: int) -> tuple[Receipt | None, Batch]:
        """Write what can be applied, and return that; before the commit passes the offsets of the rest it is set aside,
        or its rows are asked for."""
        while True:
            try:
                receipt: Receipt | None = await self._persist(partial(self.sink.write, batch), "write", epoch)
            except RecordsRefused as error:
                if isinstance(error, ValuesUnknown) and self._on_unknown is not None:
                    await self._on_unknown(self, keys_of(batch, error.records.keys()))
                else:
                    await self._refuse(error, chunks)
                batch = without(batch, error.records.keys())
            else:
                return receipt, batch

    async def _refuse(self, error: RecordsRefused, chunks: Sequence[Chunk]) -> None:
        """Set the records aside. Raises `error` if some are in none of the chunks: they mustn't be left out."""
        left = len(error.records)
        for chunk in chunks:
            rejected = [
                Rejected(int(np.searchsorted(chunk.offsets, offset)), BadRecord(reason))
                for (topic, partition, offset), reason in error.records.items()
                if chunk.tp == (topic, partition) and chunk.first <= offset < chunk.next
            ]
            if rejected:
                left -= len(rejected)
                await self._on_rejected(self, chunk, rejected)
        if left:
            raise error

    async def _tidy(self) -> None:
        """The table's upkeep. What keeps it from working mustn't keep changes from being written."""
        try:
            hurried = self.buffered_rows >= self.policy.batch_size
            await self._call(partial(self.sink.tidy, hurried=hurried), "tidy")
        except (Unavailable, ConfigurationError, MemoryError) as error:
            log.warning("sink.not_tidied", writer=self.name, error=str(error) or repr(error))

    async def _is_due(self) -> bool:
        """Wait until a commit is due; False when nothing is left of a writer that takes nothing more."""
        while True:
            self._arrived.clear()
            if self._closing:
                return bool(self._buffer)
            if not self._buffer:
                await self._arrived.wait()
                continue
            now = monotonic()
            due = self._buffer[0].arrived + self.policy.interval
            if self.buffered_rows >= self.policy.batch_size:
                due = now if self._pressed() else min(due, self._paused_until)
            if due <= now:
                return True
            try:
                async with asyncio.timeout(due - now):
                    await self._arrived.wait()
            except TimeoutError:
                continue

    def _take(self) -> tuple[dict[TopicPartition, int], Batch, list[Chunk]]:
        """The oldest chunks as a batch, with the timestamp of each partition's last record, and the chunks that were
        kept."""
        ranges: dict[TopicPartition, OffsetRange] = {}
        changes: list[ChangeBatch] = []
        timestamps: dict[TopicPartition, int] = {}
        chunks: list[Chunk] = []
        room = self._batch_bytes
        while self._buffer and (self._buffer[0].nbytes <= room or not ranges):
            part = self._buffer.popleft()
            room -= part.nbytes
            self.buffered_bytes -= part.nbytes
            self.buffered_rows -= part.rows
            ranges[part.tp] = OffsetRange(ranges.get(part.tp, part.span).first, part.span.next)
            changes += part.changes
            if part.timestamp is not None:
                timestamps[part.tp] = part.timestamp
            if part.chunk is not None:
                chunks.append(part.chunk)
        counts = {topic: self._partition_count(topic) for topic in {tp.topic for tp in ranges}}
        return timestamps, Batch(ranges, changes, {topic: count for topic, count in counts.items() if count}), chunks

    # -- calling the sink

    async def _call(self, function: Callable[[], T], verb: str) -> T:
        def told() -> T:
            self._in_sink = verb, monotonic()
            try:
                return function()
            finally:
                self._in_sink = None

        return await asyncio.get_running_loop().run_in_executor(self._thread, told)

    async def _persist(self, function: Callable[[], T], verb: str, epoch: int | None = None) -> Any:
        """Call until it succeeds, backing off while the destination is unavailable; None once `epoch` is over."""
        attempt = 0
        while True:
            if epoch is not None and epoch != self._epoch:
                return None
            try:
                return await self._call(function, verb)
            except Unavailable as error:
                attempt += 1
                wait = max(self._retry.wait_after(attempt), error.retry_after or 0.0)
                log.error(  # noqa: TRY400 - expected and retried: one line, no traceback
                    "pipeline.sink_write_error" if verb == "write" else "sink.unavailable",
                    writer=self.name,
                    verb=verb,
                    attempt=attempt,
                    retry_in=round(wait, 1),
                    error=str(error),
                )
                self._on_error(self, error)
                await asyncio.sleep(wait)


def _readable(offsets: Mapping[TopicPartition, Any]) -> dict[str, Any]:
    """Offsets for a log line."""
    return {f"{tp.topic}/{tp.partition}": tuple(o) if isinstance(o, OffsetRange) else o for tp, o in offsets.items()}
