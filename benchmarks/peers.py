"""The peers, each run as a process of its own: `python -m benchmarks.peers raw|faust BROKER TOPIC REGISTRY COUNT`.

`raw`: aiokafka's `getmany`, nothing decoded: the ceiling of what a Python consumer of this library can bring.
`faust`: a plain Faust agent, one event at a time, decoded by fastavro, no sink: what one would write first.
Each prints one line of JSON: rows, seconds, CPU seconds, peak memory.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from typing import Any

import fastavro
import httpx

from benchmarks.measure import Watch


def report(rows: int, seconds: float, cpu_seconds: float) -> None:
    """The one line that the harness reads."""
    peak = Watch(os.getpid()).peak_rss_mb()  # getrusage would report the harness's, from before the exec
    line = {"rows": rows, "seconds": seconds, "cpu_s": cpu_seconds, "peak_rss_mb": peak}
    os.write(1, json.dumps(line).encode() + b"\n")  # Faust redirects print into its log


async def raw(broker: str, topic: str, count: int) -> None:
    """Drain `count` records with getmany."""
    from aiokafka import AIOKafkaConsumer

    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=broker,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_partition_fetch_bytes=2 << 20,
    )
    await consumer.start()
    rows = 0
    started, cpu = time.monotonic(), time.process_time()
    while rows < count:
        for records in (await consumer.getmany(timeout_ms=1000)).values():
            rows += len(records)
    report(rows, time.monotonic() - started, time.process_time() - cpu)
    await consumer.stop()


def plain_faust(broker: str, topic: str, registry: str, count: int) -> None:
    """Process `count` records in an ordinary agent."""
    import faust

    folder = tempfile.mkdtemp(prefix="plain-faust-")
    app = faust.App(
        f"plain-faust-{time.time_ns()}",
        broker=f"kafka://{broker}",
        store="memory://",
        datadir=folder,
        web_enabled=False,
        value_serializer="raw",
        key_serializer="raw",
        consumer_auto_offset_reset="earliest",
        topic_disable_leader=True,
        autodiscover=False,
    )
    schemas: dict[bytes, Any] = {}
    state = {"rows": 0, "started": 0.0, "cpu": 0.0}

    def schema(prefix: bytes) -> Any:
        if prefix not in schemas:
            answer = httpx.get(f"{registry}/schemas/ids/{int.from_bytes(prefix[1:], 'big')}")
            schemas[prefix] = fastavro.parse_schema(json.loads(answer.json()["schema"]))
        return schemas[prefix]

    @app.agent(app.topic(topic, value_type=bytes, key_type=bytes))  # type: ignore[untyped-decorator]
    async def ingest(stream: Any) -> None:
        from io import BytesIO

        async for value in stream:
            if state["rows"] == 0:
                state["started"], state["cpu"] = time.monotonic(), time.process_time()
            if value is not None:
                fastavro.schemaless_reader(BytesIO(value[5:]), schema(value[:5]))
            state["rows"] += 1
            if state["rows"] == count:
                report(count, time.monotonic() - state["started"], time.process_time() - state["cpu"])
                os._exit(0)  # nothing to save: the harness has its line

    faust.Worker(app, loglevel="WARN").execute_from_commandline()


def main() -> None:
    """Entry point of a peer's process."""
    kind, broker, topic, registry, count = sys.argv[1:6]
    if kind == "raw":
        asyncio.run(raw(broker, topic, int(count)))
    else:
        plain_faust(broker, topic, registry, int(count))


if __name__ == "__main__":
    main()
