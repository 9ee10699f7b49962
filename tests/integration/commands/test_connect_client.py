"""The Connect client against a real Connect: every verb, and what it says when there is nothing or too much."""

from __future__ import annotations

import asyncio
import time

import pytest
from workbench import Workbench, until

from config.loader import load_pipeline
from sources.changes import TopicPartition
from sources.debezium import DebeziumClient
from sources.debezium.connect_errors import ConnectError, ConnectorExists, ConnectorMissing
from sources.debezium.connectors import connector_for
from sources.kafka.provisioner import wanted_topics
from sources.registry import transport_for


async def test_a_connectors_whole_life(bench: Workbench) -> None:
    platform = bench.platform_config()
    pipeline = load_pipeline(bench.write()[0])
    name = pipeline.pipeline_id
    config = connector_for(pipeline, platform).to_connector_config()
    transport = transport_for(platform)
    await transport.provisioner().ensure(wanted_topics(pipeline, platform))
    async with DebeziumClient.from_config(platform.connector) as client:
        assert any("PostgresConnector" in plugin for plugin in await client.plugins())
        assert (await client.get(name), await client.delete(name)) == (None, False)

        await client.create(name, config)
        with pytest.raises(ConnectorExists, match=f"Connector {name} already exists"):
            await client.create(name, config)
        status = await client.wait_until_running(name, 60)
        assert [task.state for task in status.tasks] == ["RUNNING"]
        # A snapshot that is interrupted starts again; here it is over before the connector is touched.
        topic, monitor = TopicPartition(bench.topic("customers"), 0), transport.monitor()

        async def records() -> int:
            return (await monitor.end_offsets([topic.topic]))[topic]

        async def more_than(count: int) -> bool:
            return await records() > count

        await until(lambda: more_than(1))
        assert name in await client.list()
        assert await client.get(name) == {**config, "name": name}

        await client.update(name, {**config, "poll.interval.ms": "50"})
        assert ((await client.get(name)) or {})["poll.interval.ms"] == "50"
        with pytest.raises(ConnectError, match=r"snapshot\.mode"):
            await client.update(name, {**config, "snapshot.mode": "sometimes"})

        await client.pause(name)

        async def paused() -> bool:
            status = await client.status(name)
            return status is not None and status.state == "PAUSED"

        await until(paused)
        assert await client.is_running(name) is False
        await client.resume(name)
        await client.restart(name)
        await client.wait_until_running(name, 60, steady=1.0)

        async def says_its_topic() -> bool:
            return topic.topic in await client.topics(name)

        await until(says_its_topic)
        before = await records()
        committed = time.monotonic()
        await asyncio.to_thread(bench.sql, "INSERT INTO customers VALUES (3, 'Joan', 1)")
        await until(lambda: more_than(before))
        assert [lag.lag for lag in await monitor.lag({topic: before})] == [1]
        assert time.monotonic() - committed < 5
        await monitor.close()

        await client.reset_offsets(name)
        assert await client.ensure_deleted(name) is True
        assert await client.ensure_deleted(name) is False
        assert (await client.exists(name), await client.status(name)) == (False, None)
        with pytest.raises(ConnectorMissing):
            await client.resume(name)
