"""The writer's promises: group commit, retries that keep the batch, epochs that drop it, holes refused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from agents.writer import Commit, FlushPolicy, TableWriter
from config.errors import OffsetGap, SchemaRefused, Unavailable, ValuesUnknown
from config.platform import RetryConfig
from sinks.base import Batch, Receipt, Target
from sinks.memory import MemorySink, MemoryStore
from sources.changes import UNCHANGED_FIELD, ChangeBatch, Chunk, DecodedChunk, Rejected, TableSchema, TopicPartition

pytestmark = pytest.mark.timeout(120)  # a commit that never comes
TP = TopicPartition("t", 0)
SCHEMA = TableSchema(pa.schema([pa.field("id", pa.int64(), nullable=False)]), ("id",), 1)
RETRY = RetryConfig(initial_wait_seconds=0.01, max_wait_seconds=0.02)


def chunk(first: int, count: int, partition: int = 0) -> tuple[Chunk, DecodedChunk]:
    """`count` inserts from offset `first` on."""
    offsets = np.arange(first, first + count, dtype=np.int64)
    raw = Chunk(
        "t", partition, 1, first, first + count, offsets, offsets, [None] * count, [b""] * count, [()] * count, 1
    )
    rows = pa.table(
        {
            "id": offsets,
            "_cdc_offset": offsets,
            "_cdc_op": pa.array(["c"] * count, pa.string()),
            "_cdc_ts": pa.array([0] * count, pa.timestamp("us", "UTC")),
        }
    )
    return raw, DecodedChunk((ChangeBatch("t", partition, first, first + count, SCHEMA, rows),) if count else ())


class Watched(MemorySink):
    """A memory sink whose writes can be held back or made to fail, and are counted."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(Target("p", "s", ("t",), "table"), "append", store)
        self.batches: list[Batch] = []
        self.fail: list[Exception] = []
        self.untidy: list[Exception] = []
        self.before: Callable[[], None] = lambda: None

    def write(self, batch: Batch) -> Receipt:
        self.batches.append(batch)
        self.before()
        if self.fail:
            raise self.fail.pop(0)
        return super().write(batch)

    def tidy(self, *, hurried: bool = False) -> None:
        if self.untidy:
            raise self.untidy.pop(0)


class Harness:
    """A running writer with its sink, and what it reported."""

    def __init__(self, policy: FlushPolicy, batch_bytes: int, sets_aside: bool, reads_again: bool) -> None:
        self.store = MemoryStore()
        self.sink = Watched(self.store)
        self.commits: asyncio.Queue[Commit] = asyncio.Queue()
        self.failures: asyncio.Queue[BaseException] = asyncio.Queue()
        self.errors: list[Exception] = []
        self.rejected: list[tuple[int, str]] = []
        self.asked: list[tuple[str, list[int]]] = []
        self.landed_after: list[list[object]] = []
        self.failed_attempt = asyncio.Event()
        self.pressed = False
        self.writer = TableWriter(
            self.sink,
            policy,
            RETRY,
            on_commit=self._on_commit,
            on_rejected=self._on_rejected,
            on_error=self._on_error,
            on_failure=self._on_failure,
            on_unknown=self._on_unknown if reads_again else None,
            partition_count=lambda _: 1,
            batch_bytes=batch_bytes,
            pressed=lambda: self.pressed,
            sets_aside=sets_aside,
        )

    async def _on_commit(self, _: TableWriter, commit: Commit) -> None:
        await self.commits.put(commit)

    async def _on_rejected(self, _: TableWriter, chunk: Chunk, rejected: Sequence[Rejected]) -> None:
        self.rejected += [(int(chunk.offsets[letter.index]), str(letter.reason)) for letter in rejected]

    async def _on_unknown(self, _: TableWriter, keys: Mapping[str, pa.Table]) -> None:
        self.asked += [(topic, rows.column("id").to_pylist()) for topic, rows in keys.items()]

    def _on_error(self, _: TableWriter, error: Exception) -> None:
        self.errors.append(error)
        self.failed_attempt.set()

    async def _on_failure(self, _: TableWriter, error: BaseException) -> None:
        await self.failures.put(error)

    def ids(self) -> list[int]:
        return sorted(self.store.rows().column("id").to_pylist())


@asynccontextmanager
async def running(
    batch_size: int = 10,
    interval: float = 60.0,
    batch_bytes: int = 1000,
    *,
    sets_aside: bool = False,
    reads_again: bool = False,
) -> AsyncIterator[Harness]:
    harness = Harness(FlushPolicy(batch_size, interval), batch_bytes, sets_aside, reads_again)
    await harness.writer.start()
    try:
        yield harness
    finally:
        await harness.writer.stop()


async def test_a_commit_is_due_when_batch_size_rows_are_there() -> None:
    async with running(batch_size=10) as h:
        h.writer.add(*chunk(0, 6))
        h.writer.add(*chunk(6, 6))
        commit = await h.commits.get()
        assert commit.receipt.next_offsets == {TP: 12}
        assert h.ids() == list(range(12))


async def test_a_commit_is_due_when_the_oldest_chunk_is_old_enough() -> None:
    async with running(batch_size=1_000_000, interval=0.05) as h:
        h.writer.add(*chunk(0, 3))
        await h.commits.get()
        assert h.ids() == [0, 1, 2]


async def test_after_a_commit_the_next_one_pauses_so_that_chunks_gather() -> None:
    async with running(batch_size=1) as h:
        h.sink.before = lambda: time.sleep(0.1)  # a commit that takes its time
        h.writer.add(*chunk(0, 1))
        await h.commits.get()
        h.sink.before = lambda: None
        started = time.monotonic()
        h.writer.add(*chunk(1, 1))
        h.writer.add(*chunk(2, 1))
        commit = await h.commits.get()
        assert commit.ranges[TP] == (1, 3)
        assert time.monotonic() - started > 0.15


@pytest.mark.parametrize("error", [Unavailable("the store is away"), pa.ArrowMemoryError("malloc of size 9 failed")])
async def test_upkeep_that_fails_does_not_keep_changes_from_being_written(error: Exception) -> None:
    async with running(batch_size=1) as h:
        h.sink.untidy = [error]
        for offset in (0, 1):
            h.writer.add(*chunk(offset, 1))
            await h.commits.get()
        assert (h.ids(), h.sink.untidy) == ([0, 1], [])
        assert h.failures.empty()


async def test_a_defect_in_upkeep_ends_the_writer() -> None:
    async with running(batch_size=1) as h:
        h.sink.untidy = [KeyError("a defect")]
        h.writer.add(*chunk(0, 1))
        assert isinstance(await h.failures.get(), KeyError)


async def test_memory_that_runs_short_ends_the_pause() -> None:
    async with running(batch_size=1, interval=60) as h:
        h.pressed = True
        h.sink.before = lambda: time.sleep(0.5)
        h.writer.add(*chunk(0, 1))
        await h.commits.get()
        h.sink.before = lambda: None
        started = time.monotonic()
        h.writer.add(*chunk(1, 1))
        await h.commits.get()
        assert time.monotonic() - started < 0.9  # the pause would be a second


async def test_a_commit_takes_chunks_up_to_a_size_and_leaves_the_rest_to_the_next_ones() -> None:
    async with running(batch_size=1, interval=60, batch_bytes=3) as h:
        h.pressed = True
        h.sink.before = lambda: time.sleep(0.2)
        h.writer.add(*chunk(0, 1))
        await asyncio.sleep(0.05)  # its commit is under way; these gather meanwhile, of one byte each
        for first in range(1, 8):
            h.writer.add(*chunk(first, 1))
        commits = [await h.commits.get() for _ in range(4)]
        assert [sum(commit.rows.values()) for commit in commits] == [1, 3, 3, 1]
        assert h.ids() == list(range(8))
        assert (h.writer.buffered_rows, h.writer.buffered_bytes) == (0, 0)


async def test_a_chunk_without_changes_moves_the_offset() -> None:
    async with running(interval=0.05) as h:
        h.writer.add(*chunk(0, 0)[:1], DecodedChunk(()))  # an empty chunk moves nothing
        raw, _ = chunk(0, 3)
        h.writer.add(raw, DecodedChunk(()))  # three tombstones
        commit = await h.commits.get()
        assert commit.receipt.next_offsets == {TP: 3}


async def test_chunks_that_arrive_during_a_commit_form_one_next_commit() -> None:
    async with running(batch_size=1) as h:
        loop, gate, entered = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()

        def hold() -> None:
            loop.call_soon_threadsafe(entered.set)
            asyncio.run_coroutine_threadsafe(gate.wait(), loop).result()

        h.sink.before = hold
        h.writer.add(*chunk(0, 1))
        await entered.wait()
        for first in range(1, 9):
            h.writer.add(*chunk(first, 1))
        h.sink.before = lambda: None
        gate.set()
        await h.commits.get()
        second = await h.commits.get()
        assert second.ranges[TP] == (1, 9)


async def test_an_unavailable_destination_is_retried_with_the_same_batch() -> None:
    async with running(batch_size=1) as h:
        h.sink.fail = [Unavailable("away"), Unavailable("still away")]
        h.writer.add(*chunk(0, 4))
        await h.commits.get()
        assert len(h.sink.batches) == 3
        assert [str(error) for error in h.errors] == ["away", "still away"]
        assert h.ids() == [0, 1, 2, 3]


async def test_a_retry_is_given_up_when_the_partitions_are_taken_away() -> None:
    async with running(batch_size=1) as h:
        h.sink.before = lambda: h.writer.drop()
        h.sink.fail = [Unavailable("away")]
        h.writer.add(*chunk(0, 4))
        await h.failed_attempt.wait()
        h.sink.before = lambda: None
        h.writer.assign({TP: 0})
        h.writer.add(*chunk(0, 2))
        commit = await h.commits.get()
        assert commit.ranges[TP] == (0, 2)
        assert h.ids() == [0, 1]


async def test_what_the_destination_has_is_left_out_and_a_hole_is_refused() -> None:
    async with running(batch_size=1) as h:
        h.writer.assign({TP: 5})
        h.writer.add(*chunk(0, 5))
        assert h.writer.buffered_rows == 0
        h.writer.add(*chunk(3, 4))
        commit = await h.commits.get()
        assert commit.ranges[TP] == (5, 7)
        with pytest.raises(OffsetGap, match="wants offset 7 next, but a chunk starts at 9"):
            h.writer.add(*chunk(9, 1))


async def test_an_unexpected_error_is_reported_once_and_nothing_more_is_written() -> None:
    async with running(batch_size=1) as h:
        h.sink.fail = [RuntimeError("a defect")]
        h.writer.add(*chunk(0, 1))
        failure = await h.failures.get()
        assert str(failure) == "a defect"
        assert len(h.sink.batches) == 1


async def test_records_that_the_sink_cannot_apply_are_set_aside_before_the_others_land() -> None:
    async with running(batch_size=6) as h:
        parts = [chunk(0, 3), chunk(3, 3)]
        unsent = pa.array([None, ["name"], None], UNCHANGED_FIELD.type)
        for raw, decoded in parts:
            change = decoded.changes[0]
            rows = change.rows.append_column(UNCHANGED_FIELD, unsent)
            h.writer.add(raw, DecodedChunk((replace(change, rows=rows),)))
        h.sink.fail = [ValuesUnknown({("t", 0, 1): "no name", ("t", 0, 4): "no name either"})]
        h.sink.before = lambda: h.landed_after.append(list(h.rejected))
        commit = await h.commits.get()
        assert h.rejected == [(1, "no name"), (4, "no name either")]
        assert h.landed_after == [[], h.rejected]
        assert h.ids() == [0, 2, 3, 5]
        assert commit.receipt.next_offsets == {TP: 6}
        assert commit.rows == {TP: 4}
        assert h.errors == []


async def test_rows_of_unknown_values_are_asked_for_before_the_others_land() -> None:
    async with running(batch_size=4, reads_again=True) as h:
        h.sink.fail = [ValuesUnknown({("t", 0, 1): "no name", ("t", 0, 2): "no name either"})]
        h.sink.before = lambda: h.landed_after.append(list(h.asked))
        h.writer.add(*chunk(0, 4))
        commit = await h.commits.get()
        assert [(topic, sorted(ids)) for topic, ids in h.asked] == [("t", [1, 2])]
        assert h.landed_after == [[], h.asked]
        assert h.ids() == [0, 3]
        assert h.rejected == []
        assert commit.receipt.next_offsets == {TP: 4}


async def test_records_of_a_refused_schema_are_dead_letters_where_rows_are_read_again() -> None:
    async with running(batch_size=2, sets_aside=True, reads_again=True) as h:
        h.sink.fail = [SchemaRefused({("t", 0, 1): "another type"})]
        h.writer.add(*chunk(0, 2))
        await h.commits.get()
        assert h.rejected == [(1, "another type")]
        assert h.asked == []


async def test_records_of_a_refused_schema_are_set_aside_from_any_chunk() -> None:
    async with running(batch_size=4, sets_aside=True) as h:
        h.sink.fail = [SchemaRefused({("t", 0, 1): "another type", ("t", 0, 2): "another type"})]
        h.writer.add(*chunk(0, 2))
        h.writer.add(*chunk(2, 2))
        commit = await h.commits.get()
        assert h.rejected == [(1, "another type"), (2, "another type")]
        assert h.ids() == [0, 3]
        assert commit.receipt.next_offsets == {TP: 4}


async def test_refused_record_whose_chunk_was_not_kept_ends_the_writer_and_is_not_left_out() -> None:
    async with running(batch_size=2) as h:
        h.sink.fail = [SchemaRefused({("t", 0, 1): "another type"})]
        h.writer.add(*chunk(0, 2))
        failure = await h.failures.get()
        assert isinstance(failure, SchemaRefused)
        assert h.rejected == []
        assert h.store.load() is None
