"""How far the log reaches, and how far a position is behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition as KafkaPartition

from config.platform import KafkaConfig
from sources.changes import TopicPartition
from sources.kafka.connection import reaching
from sources.kafka.security import client_arguments
from sources.protocols import PartitionLag


class KafkaMonitor:
    """`sources.protocols.SourceMonitor` over one aiokafka consumer without a group, opened by the first question."""

    def __init__(self, kafka: KafkaConfig, *, timeout_seconds: float = 15.0) -> None:
        self._kafka = kafka
        self._timeout_ms = int(timeout_seconds * 1000)
        self._consumer: AIOKafkaConsumer | None = None
        self._starting = asyncio.Lock()

    async def end_offsets(self, topics: Sequence[str]) -> dict[TopicPartition, int]:
        """End offsets of all partitions of the topics that exist."""
        with reaching(self._kafka, "read end offsets"):
            consumer = await self._started()
            # All topics, not these by name: a broker that creates topics by itself would create them.
            there = await consumer._client.fetch_all_metadata()
            partitions = [
                KafkaPartition(topic, partition)
                for topic in topics
                for partition in sorted(there.partitions_for_topic(topic) or ())
            ]
            ends = await consumer.end_offsets(partitions) if partitions else {}
        return {TopicPartition(*tp): end for tp, end in ends.items()}

    async def lag(self, positions: Mapping[TopicPartition, int]) -> tuple[PartitionLag, ...]:
        """The lag of each position, in the given order; partitions that don't exist have none and are left out."""
        ends = await self.end_offsets(sorted({tp.topic for tp in positions}))
        return tuple(
            PartitionLag(tp.topic, tp.partition, max(0, ends[tp] - offset), offset)
            for tp, offset in positions.items()
            if tp in ends
        )

    async def close(self) -> None:
        """Close the consumer. Idempotent."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.stop()

    async def _started(self) -> AIOKafkaConsumer:
        async with self._starting:
            if self._consumer is None:
                consumer = AIOKafkaConsumer(**client_arguments(self._kafka), request_timeout_ms=self._timeout_ms)
                try:
                    await consumer.start()
                except BaseException:
                    await consumer.stop()
                    raise
                self._consumer = consumer
            return self._consumer
