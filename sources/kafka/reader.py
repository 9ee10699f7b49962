"""Reads topics as chunks outside of the worker, without a consumer group."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition as KafkaPartition

from config.platform import KafkaConfig, RetryConfig
from sources.changes import Chunk, TopicPartition
from sources.kafka.chunks import build_chunk
from sources.kafka.connection import reaching
from sources.kafka.provisioner import KafkaProvisioner
from sources.kafka.security import client_arguments
from sources.protocols import StartAt
from sources.retries import retrying

log = structlog.get_logger("lakeward.reader")

POLL_MS = 500
TOPIC_POLL_SECONDS = 1.0
STALLED_SECONDS = 60.0


class KafkaReader:
    """`sources.protocols.EventSource` over an aiokafka consumer that assigns itself all partitions."""

    def __init__(self, kafka: KafkaConfig, retry: RetryConfig) -> None:
        self._kafka = kafka
        self._retry = retry

    async def chunks(self, topics: Sequence[str], start: StartAt) -> AsyncGenerator[Chunk, None]:
        """What arrives, for ever. An offset to start at is clipped to what each partition's log holds."""
        partitions = await self._partitions(topics)
        with reaching(self._kafka, f"read {', '.join(topics)}"):
            consumer = AIOKafkaConsumer(**client_arguments(self._kafka), enable_auto_commit=False)
            try:
                await consumer.start()
                consumer.assign(partitions)
                position = await _seek(consumer, partitions, start)
                while True:
                    for tp, records in (await consumer.getmany(timeout_ms=POLL_MS)).items():
                        first, position[tp] = position[tp], await consumer.position(tp)
                        yield build_chunk(tp.topic, tp.partition, 0, first, position[tp], records)
            finally:
                await consumer.stop()

    async def between(self, ranges: Mapping[TopicPartition, tuple[int, int]]) -> AsyncGenerator[Chunk]:
        """What the log has of these offsets, then the end."""
        wanted = {KafkaPartition(*tp): span for tp, span in ranges.items() if span[0] < span[1]}
        if not wanted:
            return
        with reaching(self._kafka, f"read {', '.join(sorted({tp.topic for tp in wanted}))}"):
            consumer = AIOKafkaConsumer(
                **client_arguments(self._kafka), enable_auto_commit=False, isolation_level="read_committed"
            )
            try:
                await consumer.start()
                consumer.assign(list(wanted))
                position = {tp: first for tp, (first, _) in wanted.items()}
                for tp, first in position.items():
                    consumer.seek(tp, first)
                moved = time.monotonic()
                while left := [tp for tp, (_, end) in wanted.items() if position[tp] < end]:
                    consumer.pause(*(wanted.keys() - set(left)))
                    found = await consumer.getmany(timeout_ms=POLL_MS)
                    for tp in left:  # a partition may move without records: compaction, aborted transactions
                        first, position[tp] = position[tp], await consumer.position(tp)
                        if position[tp] > first:
                            moved = time.monotonic()
                            yield build_chunk(tp.topic, tp.partition, 0, first, position[tp], found.get(tp, ()))
                    if time.monotonic() - moved > STALLED_SECONDS:
                        raise TimeoutError(f"nothing came of {left} for {STALLED_SECONDS:.0f} s")
            finally:
                await consumer.stop()

    async def _partitions(self, topics: Sequence[str]) -> list[KafkaPartition]:
        provisioner = KafkaProvisioner(self._kafka)
        waited_for: list[str] = []
        while True:
            counts = await self._counts(provisioner)
            missing = [topic for topic in topics if topic not in counts]
            if not missing:
                return [KafkaPartition(topic, p) for topic in topics for p in range(counts[topic])]
            if missing != waited_for:
                log.warning("topics.waiting", topics=missing, hint="`cdc deploy` creates topics and connector")
                waited_for = missing
            await asyncio.sleep(TOPIC_POLL_SECONDS)

    async def _counts(self, provisioner: KafkaProvisioner) -> Mapping[str, int]:
        counts: Mapping[str, int] = {}
        retry = self._retry
        service = f"Kafka at {self._kafka.bootstrap_servers}"
        async for attempt in retrying(service, retry.max_attempts, retry.initial_wait_seconds, retry.max_wait_seconds):
            with attempt:
                counts = await provisioner.existing()
        return counts


async def _seek(
    consumer: AIOKafkaConsumer, partitions: Sequence[KafkaPartition], start: StartAt
) -> dict[KafkaPartition, int]:
    """Position every partition; returns where each stands."""
    begin = await consumer.beginning_offsets(partitions)
    end = await consumer.end_offsets(partitions)
    position: dict[KafkaPartition, int] = {}
    for tp in partitions:
        if start == "earliest":
            position[tp] = begin[tp]
        elif start == "latest":
            position[tp] = end[tp]
        else:
            position[tp] = min(max(start, begin[tp]), end[tp])
        consumer.seek(tp, position[tp])
    return position
