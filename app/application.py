"""The Faust app: a columnar transport below, a `Pipeline` inside, and the checks at boot.

At start, before Kafka's consumer: the worker's folder is taken, the pages answer, the broker and every destination are
waited for (with a log line that says what and where), the writers start. The consumer then joins the group; its
rebalances call `Pipeline.revoked` and `Pipeline.wanted`.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faust
import structlog
from aiokafka import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError, KafkaError
from faust.exceptions import AlreadyConfiguredWarning
from faust.types import TP

from agents.pipeline import Pipeline
from app import memory
from app.boot import Arrival, WaitingBoot, collect_garbage_rarely
from app.worker_dir import WorkerDir
from config.errors import ConfigurationError, PipelineStopped
from sources.kafka.consumer import ColumnarTransport

log = structlog.get_logger("lakeward.app")

TOPIC_WAIT_LOG_SECONDS = 10.0


class LakewardApp(faust.App):
    """`build_pipeline(folder)` is called once, when a worker starts; commands like `agents` never call it."""

    BootStrategy = WaitingBoot

    def __init__(
        self,
        *args: Any,
        build_pipeline: Callable[[LakewardApp, Path], Pipeline],
        kafka_arguments: dict[str, Any],
        source_topics: frozenset[str],
        worker_root: Path,
        grace_seconds: float,
        **kwargs: Any,
    ) -> None:
        self._build_pipeline = build_pipeline
        self._kafka_arguments = kafka_arguments
        self._worker_root = worker_root
        self._grace_seconds = grace_seconds
        self.source_topics = source_topics
        self.expected_agents: tuple[str, ...] = ()
        self.pipeline: Pipeline | None = None
        self.worker_dir: WorkerDir | None = None
        self._arrival: Arrival | None = None
        super().__init__(*args, **kwargs)

    # -- what the consumer and the agents ask for

    @property
    def positions(self) -> Pipeline:
        """The running pipeline (`sources.kafka.positions.Positions`)."""
        return self.running_pipeline()

    def running_pipeline(self) -> Pipeline:
        """The pipeline of a started worker."""
        if self.pipeline is None:
            raise ConfigurationError("the worker hasn't started: there is no running pipeline")
        return self.pipeline

    @property
    def arrival(self) -> Arrival:
        """The service that stands between the web server and Kafka while something is away."""
        if self._arrival is None:
            self._arrival = Arrival(self._reach_everything, self)
        return self._arrival

    def _new_transport(self) -> Any:
        return ColumnarTransport(self.conf.broker_consumer, self, loop=self.loop)

    def partition_count(self, topic: str) -> int | None:
        """How many partitions the broker reports for a topic."""
        count: int | None = self.consumer.topic_partitions(topic)
        return count

    # -- life

    async def on_first_start(self) -> None:
        self.worker_dir = WorkerDir.acquire(self._worker_root)
        with warnings.catch_warnings():
            # Faust warns of settings that change late; nothing has used these two yet, and a command must not lock
            # a worker's folder.
            warnings.simplefilter("ignore", AlreadyConfiguredWarning)
            self.conf.datadir = self.worker_dir.path
            self.conf.consumer_group_instance_id = self.worker_dir.instance_id
        self._assert_agents()
        self.pipeline = self._build_pipeline(self, self.worker_dir.path)
        await super().on_first_start()

    async def _reach_everything(self) -> None:
        try:
            await self._reach_broker()
            pipeline = self.running_pipeline()
            await pipeline.start()
            memory.check(tables=len(set(pipeline.writers.values())))
            collect_garbage_rarely()
        except Exception as error:
            await self.running_pipeline().fail(error)

    async def on_stop(self) -> None:
        if self.pipeline is not None and not self.crashed:
            await self.pipeline.flush(self._grace_seconds)
        try:
            await super().on_stop()
        finally:
            if self.pipeline is not None:
                await self.pipeline.stop()

    def _assert_agents(self) -> None:
        """A pipeline that silently lacks an agent would silently lack a table."""
        missing = set(self.expected_agents) - set(self.agents)
        if missing:
            raise PipelineStopped(f"agents are missing: {sorted(missing)}; this is a defect, please report it")

    async def _reach_broker(self) -> None:
        attempt = 0
        while True:
            client = AIOKafkaClient(**self._kafka_arguments)
            try:
                await client.bootstrap()
            except (KafkaConnectionError, KafkaError, OSError) as error:
                attempt += 1
                log.warning(
                    "kafka.unavailable",
                    brokers=self._kafka_arguments["bootstrap_servers"],
                    attempt=attempt,
                    error=str(error),
                )
                await asyncio.sleep(min(10.0, 0.5 * 2**attempt))
            else:
                return
            finally:
                await client.close()

    async def log_missing_topics(self) -> None:
        """Say which topics are still waited for; they are picked up when the broker reports them."""
        while not self.should_stop and not any(map(self.partition_count, self.tables.changelog_topics)):
            await self.sleep(0.5)  # no metadata yet: nothing is known to be missing
        while not self.should_stop:
            missing = sorted(topic for topic in self.source_topics if not self.partition_count(topic))
            if not missing:
                return
            log.info("topics.waiting", topics=missing, hint="`cdc deploy` creates topics and connector")
            await self.sleep(TOPIC_WAIT_LOG_SECONDS)

    async def revoke(self, revoked: set[TP]) -> None:
        """A rebalance began."""
        if self.pipeline is not None:
            log.info("pipeline.partitions_revoked", partitions=sorted(f"{tp.topic}/{tp.partition}" for tp in revoked))
            self.pipeline.revoked()
