"""The ingest agents under Faust's own test context, and the pipeline behind them, over memory sinks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import faust
import numpy as np
import pyarrow as pa
import pytest

from agents.ingest import agent_name, register_ingest_agents
from agents.pipeline import Pipeline, SinkTable
from agents.writer import Commit, FlushPolicy
from config.errors import BadRecord, PipelineStopped, Unavailable
from config.platform import RetryConfig
from sinks.base import Target
from sinks.memory import MemorySink, MemoryStore
from sources.changes import ChangeBatch, Chunk, DecodedChunk, Rejected, TableSchema, TopicPartition

TOPIC = "cdc.public.t"
pytestmark = pytest.mark.timeout(120)  # a commit that never comes
TP = TopicPartition(TOPIC, 0)
SCHEMA = TableSchema(pa.schema([pa.field("id", pa.int64(), nullable=False)]), ("id",), 1)
RETRY = RetryConfig(initial_wait_seconds=0.01, max_wait_seconds=0.02)


class Decoder:
    """Every value is a number's text; `bad` ones are rejected; counts its calls; fails as told."""

    def __init__(self) -> None:
        self.calls = 0
        self.failures: list[Exception] = []

    def decode(self, chunk: Chunk) -> DecodedChunk:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        good = [i for i, value in enumerate(chunk.values) if value != b"bad"]
        rows = pa.table(
            {
                "id": pa.array([int(chunk.values[i] or b"") for i in good], pa.int64()),
                "_cdc_offset": pa.array(chunk.offsets[good], pa.int64()),
                "_cdc_op": pa.array(["c"] * len(good), pa.string()),
                "_cdc_ts": pa.array([0] * len(good), pa.timestamp("us", "UTC")),
            }
        )
        rejected = tuple(Rejected(i, BadRecord("not a number")) for i, v in enumerate(chunk.values) if v == b"bad")
        return DecodedChunk((ChangeBatch(chunk.topic, 0, chunk.first, chunk.next, SCHEMA, rows),), rejected)


class Letters:
    """Dead letters, acknowledged when `gate` opens."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, tuple[str, ...]]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def send(self, chunk: Chunk, rejected: Sequence[Rejected], sink_ids: Sequence[str]) -> None:
        await self.gate.wait()
        self.sent += [(int(chunk.offsets[letter.index]), tuple(sink_ids)) for letter in rejected]

    async def close(self) -> None:
        """Nothing to let go of."""


class Harness:
    """A pipeline with two memory sinks on one topic, and its agents on a Faust app."""

    def __init__(self, *, dead_letters: bool = True) -> None:
        self.generation = 1
        self.decoder = Decoder()
        self.letters = Letters()
        self.crashes: list[BaseException] = []
        self.stores = {"a": MemoryStore(), "b": MemoryStore()}
        self.commits: asyncio.Queue[tuple[str, Commit]] = asyncio.Queue()
        tables = [
            SinkTable(MemorySink(Target("p", s, (TOPIC,), s), "append", store), FlushPolicy(1, 60.0), RETRY)
            for s, store in self.stores.items()
        ]
        self.pipeline = Pipeline(
            tables,
            self.decoder,
            self.letters if dead_letters else None,
            budget=1 << 20,
            retry=RETRY,
            partition_count=lambda _: 1,
            generation=lambda: self.generation,
            on_watermark=self._on_watermark,
            crash=self._crash,
        )
        self.app = faust.App("ingest-test", store="memory://", web_enabled=False, autodiscover=False)
        register_ingest_agents(self.app, [(TOPIC, "a"), (TOPIC, "b")], lambda: self.pipeline)

    async def _on_watermark(self, sink_id: str, commit: Commit) -> None:
        await self.commits.put((sink_id, commit))

    async def _crash(self, error: BaseException) -> None:
        self.crashes.append(error)

    def ids(self, sink: str) -> list[int]:
        rows = self.stores[sink].rows()
        return sorted(rows.column("id").to_pylist()) if rows.num_columns else []


def chunk(first: int, values: list[bytes], generation: int = 1, epoch: int = 1) -> Chunk:
    offsets = np.arange(first, first + len(values), dtype=np.int64)
    keys: list[bytes | None] = [None] * len(values)
    end = first + len(values)
    return Chunk(TOPIC, 0, generation, first, end, offsets, offsets, keys, list(values), [()] * len(values), 10, epoch)


@asynccontextmanager
async def running(**options: bool) -> AsyncIterator[Harness]:
    harness = Harness(**options)
    await harness.pipeline.start()
    await harness.pipeline.wanted([TP], 1)
    try:
        yield harness
    finally:
        await harness.pipeline.stop()


async def test_the_agent_brings_a_chunk_to_its_sink_under_fausts_test_context() -> None:
    async with running() as h:
        app = h.app
        app.loop = asyncio.get_running_loop()
        app.finalize()
        app.flow_control.resume()
        agent = next(agent for name, agent in app.agents.items() if agent_name(TOPIC, "a") in name)
        async with agent.test_context() as context:
            await context.channel.put(chunk(0, [b"1", b"2"]))
            sink, commit = await h.commits.get()
        assert (sink, commit.receipt.next_offsets) == ("a", {TP: 2})
        assert h.ids("a") == [1, 2]
        assert h.ids("b") == []


async def test_two_sinks_decode_a_chunk_once() -> None:
    async with running() as h:
        both = chunk(0, [b"1"])
        await asyncio.gather(h.pipeline.ingest(both, "a"), h.pipeline.ingest(both, "b"))
        await h.commits.get()
        await h.commits.get()
        assert h.decoder.calls == 1
        assert (h.ids("a"), h.ids("b")) == ([1], [1])


async def test_the_group_offset_waits_for_the_slower_sink() -> None:
    async with running() as h:
        assert h.pipeline.committable(TP) is None
        await h.pipeline.ingest(chunk(0, [b"1"]), "a")
        await h.commits.get()
        assert h.pipeline.committable(TP) is None
        await h.pipeline.ingest(chunk(0, [b"1"]), "b")
        await h.commits.get()
        assert h.pipeline.committable(TP) == 1


async def test_a_chunk_of_an_older_generation_is_dropped() -> None:
    async with running() as h:
        await h.pipeline.ingest(chunk(0, [b"1"], generation=0), "a")
        assert h.pipeline.writers[TOPIC, "a"].buffered_rows == 0
        assert h.decoder.calls == 0


async def test_a_late_chunk_of_a_revoked_partition_is_dropped_not_written_with_a_hole() -> None:
    async with running() as h:
        h.pipeline.revoked()  # the generation is still the old one until the join completes
        await h.pipeline.ingest(chunk(100, [b"1"]), "a")
        assert h.pipeline.writers[TOPIC, "a"].buffered_rows == 0
        epoch, _ = await h.pipeline.wanted([TP], 1)
        await h.pipeline.ingest(chunk(100, [b"1"]), "a")  # still late after the assignment
        await h.pipeline.ingest(chunk(0, [b"7"], epoch=epoch), "a")
        await h.commits.get()
        assert h.ids("a") == [7]


async def test_a_bad_record_is_acknowledged_as_a_dead_letter_before_the_commit_and_once() -> None:
    async with running() as h:
        h.letters.gate.clear()
        both = chunk(0, [b"1", b"bad", b"3"])
        ingesting = [asyncio.ensure_future(h.pipeline.ingest(both, sink)) for sink in "ab"]
        while h.decoder.calls == 0 or not all(h.pipeline.stats.decoding):
            await asyncio.wait(ingesting, timeout=0.01)
        assert h.ids("a") == []  # nothing is buffered, let alone committed, before the letter is acknowledged
        assert h.pipeline.writers[TOPIC, "a"].buffered_rows == 0
        h.letters.gate.set()
        await asyncio.gather(*ingesting)
        await h.commits.get()
        await h.commits.get()
        assert h.letters.sent == [(1, ("a", "b"))]
        assert (h.ids("a"), h.ids("b")) == ([1, 3], [1, 3])


async def test_without_a_dead_letter_topic_a_bad_record_stops_the_pipeline() -> None:
    async with running(dead_letters=False) as h:
        with pytest.raises(PipelineStopped, match=f"{TOPIC}/0: the record at offset 1 can't be read"):
            await h.pipeline.ingest(chunk(0, [b"1", b"bad"]), "a")


async def test_a_registry_that_is_away_is_waited_for() -> None:
    async with running() as h:
        h.decoder.failures = [Unavailable("registry is away"), Unavailable("still")]
        await h.pipeline.ingest(chunk(0, [b"1"]), "a")
        await h.commits.get()
        assert h.ids("a") == [1]


async def test_on_assignment_the_lowest_destination_decides_and_a_new_sink_reads_from_the_start() -> None:
    async with running() as h:
        await h.pipeline.ingest(chunk(0, [b"1", b"2", b"3"]), "a")
        await h.commits.get()
        assert await h.pipeline.wanted([TP], 1) == (2, {TP: None})
        await h.pipeline.ingest(chunk(0, [b"1"], epoch=2), "b")
        await h.commits.get()
        assert await h.pipeline.wanted([TP], 1) == (3, {TP: 1})


async def test_any_error_in_an_agent_ends_the_worker() -> None:
    from agents.ingest import ingest_chunk

    async with running() as h:
        h.decoder.failures = [RuntimeError("a defect")]
        with pytest.raises(RuntimeError):
            await ingest_chunk(h.pipeline, chunk(0, [b"1"]), "a")
        assert [str(error) for error in h.crashes] == ["a defect"]
