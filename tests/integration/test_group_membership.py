"""A worker and its consumer group: what hinders its membership is said, and ends it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import uuid4

import yaml
from aiokafka import AIOKafkaConsumer

from config.platform import KafkaConfig
from sources.kafka.provisioner import KafkaProvisioner
from sources.protocols import TopicSpec
from stack.manager import Endpoint
from stack.ports import free_port
from stack.worker import WorkerProcess


async def test_group_with_a_foreign_member_ends_the_worker_with_a_clear_error(kafka: Endpoint, tmp_path: Path) -> None:
    name = f"g{uuid4().hex[:8]}"
    topic = f"{name}.public.orders"
    pipeline, platform = tmp_path / "pipeline.yaml", tmp_path / "platform.yaml"
    delta = {"table_uri": f"{tmp_path}/{{table}}"}
    pipeline.write_text(
        yaml.safe_dump(
            {
                "pipeline_id": name,
                "topic_prefix": name,
                "source": {"database": "shop", "tables": ["public.orders"]},
                "sinks": [{"sink_id": "lake", "sink_type": "delta", "delta": delta}],
            }
        )
    )
    platform.write_text(yaml.safe_dump({"kafka": {"bootstrap_servers": kafka.address}}))
    await KafkaProvisioner(KafkaConfig(bootstrap_servers=kafka.address)).ensure([TopicSpec(topic, 1, 1)])
    worker = WorkerProcess(pipeline, platform, tmp_path / "data", tmp_path / "worker.log", web_port=free_port())
    stranger = AIOKafkaConsumer(topic, bootstrap_servers=kafka.address, group_id=f"cdc-platform-{name}")
    await stranger.start()
    try:
        while not stranger.assignment():
            await stranger.getmany(timeout_ms=100)
        worker.start()
        status = await asyncio.to_thread(worker.wait, 120)  # the stranger's heartbeats go on meanwhile
    finally:
        await stranger.stop()
        if worker.running():
            worker.kill()
    assert status != 0
    assert f"group cdc-platform-{name} doesn't take this worker" in worker.log.read_text()
