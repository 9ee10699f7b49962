"""How a worker ends and how it stands still: what is buffered at SIGTERM, a second signal, a network that swallows."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from chaos.load import Load
from chaos.pipeline import SESSION_TIMEOUT, ChaosPipeline, StoredPipeline
from config.pipeline import PipelineConfig
from sinks.factory import plan_tables
from stack.gate import Gate
from stack.manager import Endpoint, Endpoints
from stack.places import bucket, storage_options
from stack.worker import WorkerProcess
from stack.worker_log import WorkerLog
from verify.lake import read_sink_table

LATE = {"batch_size": 1_000_000, "flush_interval_seconds": 600}


class LatePipeline(ChaosPipeline):
    """Its worker has everything buffered for the next ten minutes."""

    def sinks(self) -> list[dict[str, Any]]:
        catalog = {"catalog_uri": f"sqlite:///{self.folder}/late.db", "warehouse": f"file://{self.folder}/late"}
        return [
            {"sink_id": "iceberg", "sink_type": "iceberg", "iceberg": {"table_name": "{table}", **catalog, **LATE}},
            {"sink_id": "delta", "sink_type": "delta", "delta": {"table_uri": f"{self.folder}/delta", **LATE}},
        ]

    def offsets(self) -> dict[str, list[int]]:
        """Each table's offsets, in order."""
        found = {}
        for plan in plan_tables(PipelineConfig.model_validate(self.content)):
            rows = read_sink_table(plan, self.load.topic)
            found[plan.target.sink_id] = sorted(rows.column("_cdc_offset").to_pylist()) if rows is not None else []
        return found


@pytest.fixture
def late(streaming: Endpoints, tmp_path: Path) -> Iterator[LatePipeline]:
    pipeline = LatePipeline(tmp_path, streaming, Load(streaming))
    yield pipeline
    pipeline.close()


def last_line(worker: WorkerProcess) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(worker.log.read_text().splitlines()[-1])
    return {name: line[name] for name in ("event", "exit_status", "reason")}


def stats(worker: WorkerProcess) -> dict[str, Any]:
    try:
        found: dict[str, Any] = httpx.get(f"http://127.0.0.1:{worker.web_port}/api/stats", timeout=10).json()
    except httpx.TransportError:
        return {"topics": [{"records": 0}]}
    return found


def all_read(worker: WorkerProcess, load: Load) -> Callable[[], bool]:
    return lambda: stats(worker)["topics"][0]["records"] >= sum(load.ends.values())


def test_what_is_buffered_is_committed_at_sigterm(late: LatePipeline) -> None:
    late.load.send(3_000)
    worker = late.worker()
    worker.start()
    worker.wait_for(all_read(worker, late.load), "every record read", 120)
    assert late.offsets() == {"iceberg": [], "delta": []}
    assert worker.terminate() == 0
    assert last_line(worker) == {"event": "worker.ended", "exit_status": 0, "reason": "SIGTERM"}
    sent = sorted(late.load.changelog()["offset"].to_list())
    assert late.offsets() == {"iceberg": sent, "delta": sent}


def test_a_second_signal_ends_a_worker_at_once_that_cannot_flush(late: LatePipeline) -> None:
    worker = late.worker()
    worker.start()
    worker.wait_for(lambda: list(worker.events("pipeline.partitions_assigned")), "assignment", 120)
    late.load.send(1_000)
    worker.wait_for(all_read(worker, late.load), "every record read", 120)
    with sqlite3.connect(late.folder / "late.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")  # the catalog can't be written
        worker.signal_end()
        worker.wait_for(lambda: list(worker.events("sink.commit_started")), "the flush")
        assert worker.running()
        assert worker.terminate(10) == 128 + 15
        other.execute("ROLLBACK")
    assert last_line(worker)["exit_status"] == 128 + 15
    worker.start()
    worker.wait_for(all_read(worker, late.load), "every record read again", 120)
    assert worker.terminate() == 0
    sent = sorted(late.load.changelog()["offset"].to_list())
    assert late.offsets() == {"iceberg": sent, "delta": sent}


def test_a_network_that_swallows_a_commit_is_said_within_a_minute_and_got_over(
    streaming: Endpoints, s3: Endpoint, tmp_path: Path
) -> None:
    with Gate(s3.host, s3.port) as gate:
        pipeline = SwallowedPipeline(tmp_path, streaming, Load(streaming), gate, s3)
        try:
            worker = pipeline.worker()
            pipeline.load.send(1_000)
            worker.start()
            worker.wait_for(lambda: list(worker.events("sink.committed")), "a first commit", 120)
            gate.freeze()
            pipeline.load.send(1_000)
            stalled = worker.wait_for(lambda: list(worker.events("pipeline.stalled")), "word of the stall", 70)
            assert "has stood at offset" in stalled[0]["text"]
            assert "`write` has been under way for" in stalled[0]["text"]
            ready = httpx.get(f"http://127.0.0.1:{worker.web_port}/readyz", timeout=10)
            assert ready.status_code == 503
            assert ready.json()["state"]["name"] in {"stalled", "retrying"}  # the attempt may have timed out by now
            gate.open()
            worker.wait_for(lambda: list(worker.events("pipeline.goes_on")), "progress", 120)
            assert worker.terminate() == 0
        finally:
            pipeline.close()


class SwallowedPipeline(ChaosPipeline):
    """Writes to an object store behind a gate."""

    def __init__(self, folder: Path, services: Endpoints, load: Load, gate: Gate, store: Endpoint) -> None:
        self._gate, self._store = gate, store
        super().__init__(folder, services, load)

    def sinks(self) -> list[dict[str, Any]]:
        options = storage_options(replace(self._store, url=f"http://127.0.0.1:{self._gate.port}"))
        uri = f"{bucket(self._store)}/gate/{self.load.table}"
        return [{"sink_id": "delta", "sink_type": "delta", "delta": {"table_uri": uri, "storage_options": options}}]


def test_a_worker_ends_while_its_group_waits_for_a_member_that_froze(chaos: ChaosPipeline) -> None:
    """A rebalance may take as long as a session does: an orchestrator doesn't wait for that."""
    platform = chaos.folder / "platform.yaml"
    platform.write_text(platform.read_text().replace(f": {SESSION_TIMEOUT}", ": 60"))
    worker, frozen, new = (chaos.worker(name) for name in ("worker", "frozen", "new"))
    chaos.load.send(500)
    worker.start()
    chaos.catch_up(WorkerLog(worker))
    frozen.start()
    frozen.wait_for(lambda: list(frozen.events("pipeline.partitions_assigned")), "its partitions")
    begun = sum(1 for _ in worker.events("pipeline.partitions_revoked"))
    frozen.freeze()
    new.start()
    worker.wait_for(lambda: sum(1 for _ in worker.events("pipeline.partitions_revoked")) > begun, "a rebalance")
    assert worker.terminate() == 0
    assert list(worker.events("consumer.cut_off"))
    assert last_line(worker) == {"event": "worker.ended", "exit_status": 0, "reason": "SIGTERM"}
    frozen.thaw()
    assert frozen.terminate() == 0
    assert new.terminate() == 0
    chaos.assert_tables_exact()


def test_a_worker_ends_though_its_catalog_answers_nothing(
    streaming: Endpoints, s3: Endpoint, rest_catalog: Endpoint, tmp_path: Path
) -> None:
    """Orchestrators kill after 30 s what they told to end."""
    with Gate(rest_catalog.host, rest_catalog.port) as gate:
        catalog = replace(rest_catalog, url=rest_catalog.url.replace(f":{rest_catalog.port}", f":{gate.port}"))
        pipeline = StoredPipeline(tmp_path, streaming, Load(streaming), s3, catalog)
        try:
            pipeline.load.send(1_000)
            worker = pipeline.worker()
            worker.start()
            pipeline.catch_up(WorkerLog(worker))
            gate.freeze()
            pipeline.load.send(1_000)
            begun = sum(1 for _ in worker.events("sink.commit_started"))
            worker.wait_for(lambda: sum(1 for _ in worker.events("sink.commit_started")) > begun, "a commit")
            assert worker.terminate(45) == 0
            left = {str(line["writer"]).split(" → ")[0] for line in worker.events("sink.left_behind")}
            assert left == {"iceberg-append", "iceberg-upsert"}
            assert last_line(worker) == {"event": "worker.ended", "exit_status": 0, "reason": "SIGTERM"}
            gate.open()
            worker.start()
            pipeline.catch_up(WorkerLog(worker))
            assert worker.terminate() == 0
            pipeline.assert_tables_exact()
        finally:
            pipeline.close()
