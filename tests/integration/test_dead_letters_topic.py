"""Dead letters in a real Kafka: the record as it came, acknowledged before `send` returns, never given up."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from config.errors import BadRecord, PipelineStopped
from config.platform import PlatformConfig
from sources.changes import Chunk, Rejected
from sources.kafka.chunks import build_chunk
from sources.kafka.dead_letters import DeadLetters
from sources.kafka.provisioner import KafkaProvisioner
from sources.protocols import TopicSpec
from sources.registry import transport_for
from stack.manager import Endpoint

BODIES: list[tuple[bytes | None, bytes | None]] = [(b"k", b"\x00\xff\x80"), (None, b"v"), (b"", None)]


@pytest.fixture
def platform(kafka: Endpoint) -> PlatformConfig:
    return PlatformConfig.model_validate(
        {"kafka": {"bootstrap_servers": kafka.address}, "retry": {"initial_wait_seconds": 0.1, "max_wait_seconds": 0.2}}
    )


def chunk(topic: str, partition: int) -> Chunk:
    from aiokafka.structs import ConsumerRecord

    records = [
        ConsumerRecord(topic, partition, 7 + i, 1_000, 0, key, value, None, 1, 1, (("own", b"h"),))
        for i, (key, value) in enumerate(BODIES)
    ]
    return build_chunk(topic, partition, 1, 7, 10, records)


async def read(platform: PlatformConfig, topic: str, count: int) -> list[Chunk]:
    """The chunks that hold the topic's first `count` records."""
    chunks: list[Chunk] = []
    source = transport_for(platform).event_source()
    async with asyncio.timeout(30):
        async for one in source.chunks([topic], "earliest"):
            chunks.append(one)
            if sum(map(len, chunks)) >= count:
                break
    return chunks


async def test_a_letter_is_the_record_byte_by_byte_in_the_partition_it_came_from(platform: PlatformConfig) -> None:
    topic = f"t{uuid4().hex}"
    await KafkaProvisioner(platform.kafka).ensure([TopicSpec(f"{topic}.dlq", 4, 1)])
    letters = DeadLetters(platform)
    reason = Rejected(0, BadRecord("no such schema"))
    await letters.send(chunk(topic, 2), [Rejected(i, reason.reason) for i in range(3)], ["lake"])
    monitor = transport_for(platform).monitor()
    ends = await monitor.end_offsets([f"{topic}.dlq"])  # acknowledged: they are there the moment that send returns
    assert sum(ends.values()) == 3
    [kept] = await read(platform, f"{topic}.dlq", 3)
    assert kept.partition == 2
    assert list(zip(kept.keys, kept.values, strict=True)) == BODIES
    headers = dict(kept.headers[1])
    assert headers["dlq.source_offset"] == b"8"
    assert headers["dlq.error_message"] == b"no such schema"
    assert headers["own"] == b"h"
    await monitor.close()
    await letters.close()


async def test_a_missing_dead_letter_topic_is_waited_for_not_passed_over(platform: PlatformConfig) -> None:
    topic = f"t{uuid4().hex}"
    letters = DeadLetters(platform)
    with capture_logs() as logs:
        sending = asyncio.ensure_future(letters.send(chunk(topic, 0), [Rejected(0, BadRecord("x"))], ["lake"]))
        async with asyncio.timeout(30):
            while not any(log["event"] == "service.waiting" for log in logs):
                assert not sending.done()
                await asyncio.sleep(0.05)
    assert f"{topic}.dlq" in logs[0]["error"]
    assert "cdc deploy" in logs[0]["error"]
    await KafkaProvisioner(platform.kafka).ensure([TopicSpec(f"{topic}.dlq", 1, 1)])
    async with asyncio.timeout(30):
        await sending
    assert sum(map(len, await read(platform, f"{topic}.dlq", 1))) == 1
    await letters.close()


async def test_a_letter_that_the_broker_refuses_stops_the_pipeline(platform: PlatformConfig) -> None:
    topic = f"t{uuid4().hex}"
    tiny = TopicSpec(f"{topic}.dlq", 1, 1, {"max.message.bytes": "100"})
    await KafkaProvisioner(platform.kafka).ensure([tiny])
    letters = DeadLetters(platform)
    with pytest.raises(PipelineStopped, match=r"offset 7 can't be read and can't be set aside.*max\.message\.bytes"):
        await letters.send(chunk(topic, 0), [Rejected(0, BadRecord("x"))], ["lake"])
    await letters.close()
