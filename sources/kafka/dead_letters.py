"""The dead-letter topics: records that can't be read, kept as they came, with the reason in their headers.

A dead letter has the record's own key and value, byte by byte, and goes to the partition that the record came from,
so their order is kept. Headers (`dlq.…`) depend on the record and its error alone: when a crash makes a record be set
aside twice, both copies are equal. When that happened is the letter's own Kafka timestamp.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from config.errors import PipelineStopped, Unavailable
from config.pipeline import PipelineConfig
from config.platform import PlatformConfig
from sources.changes import Chunk, Headers, Rejected
from sources.kafka.security import client_arguments
from sources.retries import retrying

MAX_TEXT = 4_000
"""Most characters of a message or stack trace in a header: a letter must still fit the broker's limit."""

MAX_REQUEST_BYTES = 64 << 20
"""aiokafka's own check is made before compression; the broker's limit is the one that counts."""


class DeadLetters:
    """`sources.protocols.ErrorRouter` over a Kafka producer, which is started by the first dead letter."""

    def __init__(self, platform: PlatformConfig) -> None:
        self._kafka = platform.kafka
        self._retry = platform.retry
        self._suffix = platform.dlq.topic_suffix
        self._keep_headers = platform.dlq.include_headers
        self._producer: AIOKafkaProducer | None = None
        self._starting = asyncio.Lock()

    async def send(self, chunk: Chunk, rejected: Sequence[Rejected], sink_ids: Sequence[str]) -> None:
        """Returns when the brokers have acknowledged every letter; waits as long as they are away.

        Raises PipelineStopped when they refuse: passing the record's offset would lose it.
        """
        topic = PipelineConfig.dlq_topic(chunk.topic, self._suffix)
        where = f"Kafka at {self._kafka.bootstrap_servers}, dead-letter topic {topic}"
        async for attempt in retrying(where, None, self._retry.initial_wait_seconds, self._retry.max_wait_seconds):
            with attempt:
                await self._send_once(topic, chunk, rejected, sink_ids)

    async def close(self) -> None:
        """Stop the producer. Idempotent."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await producer.stop()

    async def _send_once(self, topic: str, chunk: Chunk, rejected: Sequence[Rejected], sink_ids: Sequence[str]) -> None:
        try:
            producer = await self._started()
            # aiokafka's own wait for a topic that doesn't exist lasts 40 s and logs ten errors a second.
            there = await producer.client.fetch_all_metadata()
            partitions = sorted(there.partitions_for_topic(topic) or ())
            if not partitions:
                raise Unavailable(f"dead-letter topic {topic} doesn't exist: `cdc deploy` creates it")
            acknowledgements = [
                await producer.send(
                    topic,
                    key=chunk.keys[letter.index],
                    value=chunk.values[letter.index],
                    partition=partitions[chunk.partition % len(partitions)],
                    headers=letter_headers(chunk, letter, sink_ids, keep_headers=self._keep_headers),
                )
                for letter in rejected
            ]
            await asyncio.gather(*acknowledgements)
        except (KafkaError, OSError) as error:
            reason = str(error) or type(error).__name__
            offset = int(chunk.offsets[rejected[0].index])
            if isinstance(error, KafkaError) and not error.retriable:
                raise PipelineStopped(
                    f"{chunk.topic}/{chunk.partition}: the record at offset {offset} can't be read and can't be set"
                    f" aside: {topic} refused it ({reason}). Check the topic's rights and max.message.bytes"
                ) from error
            raise Unavailable(
                f"dead-letter topic {topic} didn't take the record at offset {offset} of {chunk.topic}/"
                f"{chunk.partition}: {reason}"
            ) from error

    async def _started(self) -> AIOKafkaProducer:
        async with self._starting:
            if self._producer is None:
                acks = self._kafka.acks
                producer = AIOKafkaProducer(
                    **client_arguments(self._kafka),
                    acks="all" if acks == "all" else int(acks),
                    enable_idempotence=self._kafka.enable_idempotence,
                    compression_type="gzip",
                    max_request_size=MAX_REQUEST_BYTES,
                )
                try:
                    await producer.start()
                except BaseException:
                    await producer.stop()
                    raise
                self._producer = producer
            return self._producer


def letter_headers(
    chunk: Chunk, letter: Rejected, sink_ids: Sequence[str], *, keep_headers: bool
) -> list[tuple[str, bytes | None]]:
    """The headers of a dead letter: where it came from, why it is here; after them its own, if they are kept."""
    error = letter.reason
    millis = int(chunk.timestamps[letter.index])
    ours = {
        "dlq.source_topic": chunk.topic,
        "dlq.source_partition": str(chunk.partition),
        "dlq.source_offset": str(int(chunk.offsets[letter.index])),
        "dlq.error_type": type(error).__name__,
        "dlq.error_message": str(error)[:MAX_TEXT],
        "dlq.stacktrace": "".join(traceback.format_exception(error))[-MAX_TEXT:],
        "dlq.timestamp": datetime.fromtimestamp(millis / 1000, UTC).isoformat(timespec="milliseconds"),
        "dlq.sink_id": ",".join(sink_ids),
    }
    own: Headers = chunk.headers[letter.index] if keep_headers else ()
    return [*((name, text.encode("utf-8", "replace")) for name, text in ours.items()), *own]
