"""A worker whose broker is away waits for it, says so, and answers its health checks meanwhile."""

from __future__ import annotations

from pathlib import Path

import httpx
import yaml

from stack.ports import free_port
from stack.worker import WorkerProcess


def test_a_broker_that_is_away_is_waited_for_while_the_pages_answer(tmp_path: Path) -> None:
    broker = free_port()
    pipeline, platform = tmp_path / "pipeline.yaml", tmp_path / "platform.yaml"
    delta = {"table_uri": f"{tmp_path}/{{table}}"}
    pipeline.write_text(
        yaml.safe_dump(
            {
                "pipeline_id": "waiting",
                "topic_prefix": "cdc",
                "source": {"database": "shop", "tables": ["public.orders"]},
                "sinks": [{"sink_id": "lake", "sink_type": "delta", "delta": delta}],
            }
        )
    )
    platform.write_text(yaml.safe_dump({"kafka": {"bootstrap_servers": f"127.0.0.1:{broker}"}}))
    worker = WorkerProcess(pipeline, platform, tmp_path / "data", tmp_path / "worker.log", web_port=free_port())
    worker.start()
    try:
        waiting = worker.wait_for(lambda: list(worker.events("kafka.unavailable")), "word of the broker")
        assert waiting[0]["brokers"] == f"127.0.0.1:{broker}"
        url = f"http://127.0.0.1:{worker.web_port}"
        assert httpx.get(f"{url}/healthz", timeout=10).status_code == httpx.codes.OK
        assert httpx.get(f"{url}/readyz", timeout=20).status_code == httpx.codes.SERVICE_UNAVAILABLE
    finally:
        status = worker.terminate()
    assert status == 0
