"""Topics: those that a pipeline needs, created and removed through Kafka's admin interface."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import for_code

from config.errors import ConfigurationError
from config.pipeline import PipelineConfig
from config.platform import KafkaConfig, PlatformConfig
from sources.kafka.connection import reaching
from sources.kafka.security import client_arguments
from sources.protocols import TopicOutcome, TopicSpec

HEARTBEAT_PREFIX = "__debezium-heartbeat"

_TOPIC_ALREADY_EXISTS = 36
_UNKNOWN_TOPIC = 3


def wanted_topics(pipeline: PipelineConfig, platform: PlatformConfig) -> tuple[TopicSpec, ...]:
    """The topics that `cdc deploy` creates: one per table, its dead letters, the connector's own: heartbeats, and
    the rows of its signalling table, which it reads like any other."""
    kafka = platform.kafka
    replication = kafka.topic_replication_factor
    data = [TopicSpec(topic, kafka.topic_num_partitions, replication) for topic in pipeline.topics]
    letters = []
    if platform.dlq.enabled:
        # The default retention would drop, a week later, what was set aside for a human to look at.
        keep = {"retention.ms": "-1"}
        letters = [
            TopicSpec(pipeline.dlq_topic(spec.name, platform.dlq.topic_suffix), spec.partitions, replication, keep)
            for spec in data
        ]
    # Brokers that don't create topics by themselves would let the connector wait for these for ever.
    own = [heartbeat_topic(pipeline)]
    if pipeline.source.signal_table is not None:
        own.append(pipeline.topic(pipeline.source.signal_table))
    return (*data, *letters, *(TopicSpec(name, 1, replication) for name in own))


def heartbeat_topic(pipeline: PipelineConfig) -> str:
    """Where Debezium writes its heartbeats."""
    return f"{HEARTBEAT_PREFIX}.{pipeline.topic_prefix}"


class KafkaProvisioner:
    """`sources.protocols.Provisioner` over aiokafka's admin client; each call opens its own connection."""

    def __init__(self, kafka: KafkaConfig, *, timeout_seconds: float = 15.0) -> None:
        self._kafka = kafka
        self._timeout_ms = int(timeout_seconds * 1000)

    async def existing(self) -> Mapping[str, int]:
        """All topics with their number of partitions."""
        async with self._admin("list topics") as admin:
            return await _existing(admin)

    async def ensure(self, topics: Sequence[TopicSpec]) -> tuple[TopicOutcome, ...]:
        """Create the missing topics. Raises ConfigurationError with the broker's reason if it refuses one."""
        async with self._admin("create topics") as admin:
            before = await _existing(admin)
            missing = [spec for spec in topics if spec.name not in before]
            raced = await self._create(admin, missing) if missing else set()
            now = await _existing(admin) if raced else before
        return tuple(
            TopicOutcome(spec, False, now[spec.name])
            if spec.name in before or spec.name in raced
            else TopicOutcome(spec, True, spec.partitions)
            for spec in topics
        )

    async def remove(self, topics: Sequence[str]) -> tuple[str, ...]:
        """Delete the topics that exist."""
        async with self._admin("delete topics") as admin:
            there = await _existing(admin)
            doomed = [topic for topic in topics if topic in there]
            if not doomed:
                return ()
            response = await admin.delete_topics(doomed)
        for topic, code in response.topic_error_codes:
            if code not in (0, _UNKNOWN_TOPIC):
                raise ConfigurationError(
                    f"Kafka at {self._kafka.bootstrap_servers} refused to delete topic {topic}: {_name(code)}"
                )
        return tuple(doomed)

    async def _create(self, admin: AIOKafkaAdminClient, specs: Sequence[TopicSpec]) -> set[str]:
        """Create topics; returns those that somebody else created meanwhile."""
        response = await admin.create_topics(
            [
                NewTopic(spec.name, spec.partitions, spec.replication_factor, topic_configs=dict(spec.config))
                for spec in specs
            ]
        )
        raced: set[str] = set()
        for topic, code, *message in response.topic_errors:
            if code == _TOPIC_ALREADY_EXISTS:
                raced.add(topic)
            elif code != 0:
                detail = message[0] if message and message[0] else _name(code)
                raise ConfigurationError(
                    f"Kafka at {self._kafka.bootstrap_servers} refused to create topic {topic}: {detail}"
                    " (kafka.topic_num_partitions, kafka.topic_replication_factor)"
                )
        return raced

    @asynccontextmanager
    async def _admin(self, purpose: str) -> AsyncIterator[AIOKafkaAdminClient]:
        with reaching(self._kafka, purpose):
            admin = AIOKafkaAdminClient(**client_arguments(self._kafka), request_timeout_ms=self._timeout_ms)
            try:
                await admin.start()
                yield admin
            finally:
                await admin.close()


async def _existing(admin: AIOKafkaAdminClient) -> dict[str, int]:
    # Asking for topics by name would create them where the broker creates topics by itself.
    return {topic["topic"]: len(topic["partitions"]) for topic in await admin.describe_topics()}


def _name(code: int) -> str:
    return str(for_code(code).__name__)
