"""The page, the probes and `cdc watermarks` over a worker as users start it: Kafka, Faust's tables, a Delta table."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import httpx
import yaml
from aiokafka import AIOKafkaProducer
from click.testing import CliRunner
from playwright.async_api import Browser, expect

from app.commands.watermarks import watermarks
from config.platform import KafkaConfig
from sources.kafka.provisioner import KafkaProvisioner
from sources.protocols import TopicSpec
from stack.manager import Endpoint
from stack.ports import free_port

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "tests/data/debezium"
DEADLINE_SECONDS = 90


class Worker:
    """The files of a pipeline with one Delta table, and the worker process that runs it."""

    def __init__(self, kafka: Endpoint, folder: Path) -> None:
        self.brokers = kafka.address
        self.prefix = f"t{uuid4().hex[:8]}"
        self.topic = f"{self.prefix}.shop.notes"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "worker.log"
        self.files = (folder / "pipeline.yaml", folder / "platform.yaml")
        self._data = folder / "data"
        pipeline = {
            "pipeline_id": self.prefix,
            "topic_prefix": self.prefix,
            "source": {"database": "src", "password": "hunter2-secret", "tables": ["shop.notes"]},
            "sinks": [
                {
                    "sink_id": "lake",
                    "sink_type": "delta",
                    "delta": {"table_uri": f"file://{folder}/lake/{{table}}", "flush_interval_seconds": 0.2},
                }
            ],
        }
        platform = {
            "kafka": {"bootstrap_servers": self.brokers},
            "connector": {"connect_url": f"http://127.0.0.1:{free_port()}"},
            "health_port": self.port,
            "lag_monitor_interval_seconds": 0.5,
        }
        for path, content in zip(self.files, (pipeline, platform), strict=True):
            path.write_text(yaml.safe_dump(content))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        environment = {
            **os.environ,
            "CDC_PIPELINE": str(self.files[0]),
            "CDC_PLATFORM": str(self.files[1]),
            "CDC_DATA_DIR": str(self._data),
        }
        command = [sys.executable, "-m", "faust", "-A", "app", "worker", "-l", "info", "--web-port", str(self.port)]
        with self.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        try:
            yield
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
                try:
                    await asyncio.wait_for(process.wait(), 20)
                except TimeoutError:
                    process.kill()
                    await process.wait()

    async def create_topic(self, partitions: int) -> None:
        await KafkaProvisioner(KafkaConfig(bootstrap_servers=self.brokers)).ensure(
            [TopicSpec(self.topic, partitions, 1)]
        )

    async def insert(self, first: int, count: int, partition: int) -> None:
        """Debezium's own records (JSON with schema) of inserts, with other ids."""
        schema = json.loads((SAMPLES / "pgs_schemas.json").read_text())[2]
        lines = (SAMPLES / "pgs.jsonl").read_text().splitlines()
        payload = next(r["value"]["payload"] for r in map(json.loads, lines) if r["topic"] == "pgs.shop.nopk_default")
        async with AIOKafkaProducer(bootstrap_servers=self.brokers) as producer:
            for number in range(first, first + count):
                row = payload | {"op": "c", "after": {"a": number, "b": "x"}}
                await producer.send(
                    self.topic, json.dumps({"schema": schema, "payload": row}).encode(), partition=partition
                )
            await producer.flush()

    async def until(self, condition: Callable[[httpx.AsyncClient], Awaitable[bool]], what: str) -> None:
        """Poll a condition; on the deadline, the worker's log says why it never came."""
        async with httpx.AsyncClient(base_url=self.url) as http:
            try:
                async with asyncio.timeout(DEADLINE_SECONDS):
                    while True:
                        try:
                            if await condition(http):
                                return
                        except httpx.TransportError:
                            pass  # its web server isn't up yet
                        await asyncio.sleep(0.1)
            except TimeoutError:
                raise AssertionError(f"{what}: never. The worker's log ends:\n{self.log.read_text()[-6000:]}") from None


async def all_written(http: httpx.AsyncClient) -> bool:
    totals = (await http.get("/api/stats")).json()["totals"]
    return bool(totals["commits"] and totals["lag_rows"] == totals["lag_unknown"] == 0)


async def waiting(http: httpx.AsyncClient) -> bool:
    return bool((await http.get("/api/stats")).json()["state"]["name"] == "waiting")


async def test_running_worker_is_seen_by_page_probe_and_command(
    browser: Browser, kafka: Endpoint, tmp_path: Path
) -> None:
    worker = Worker(kafka, tmp_path)
    async with worker.running():
        await worker.until(waiting, "the worker waits for its topic")
        page = await browser.new_page()
        expect.set_options(timeout=60_000)
        await page.goto(f"{worker.url}/stats/")
        await expect(page.locator("#empty")).to_contain_text(worker.topic)
        await worker.create_topic(2)
        await worker.insert(0, 70, 0)
        await worker.insert(70, 30, 1)
        await worker.until(all_written, "100 rows are written")
        await expect(page.locator("#state")).to_have_text("running")
        await expect(page.locator("#rate-note")).to_contain_text("100 rows")
        await expect(page.locator("#lag")).to_have_text("0 rows")
        await expect(page.locator("#progress tr.part").nth(0).locator("td").nth(0)).to_have_text("70")
        await expect(page.locator("#progress tr.part").nth(1).locator("td").nth(0)).to_have_text("30")
        # records that were being read when the group shared its partitions out are decoded twice, and written once
        await expect(page.locator("#topics tbody tr td").nth(1)).to_have_text(re.compile(r"^[1-9]\d\d$"))
        async with httpx.AsyncClient(base_url=worker.url) as http:
            ready = await http.get("/readyz")
            assert ready.status_code == 200, ready.text
            assert {(lag["partition"], lag["lag"], lag["offset"]) for lag in ready.json()["consumer_lag"]} == {
                (0, 0, 70),
                (1, 0, 30),
            }
            assert 'partition="0"} 70\n' in (await http.get("/metrics")).text

        async def lag_logged(_: httpx.AsyncClient) -> bool:
            return '"total_lag": 0' in worker.log.read_text()

        await worker.until(lag_logged, "the log says consumer.lag")
    await expect(page.locator("#silence")).to_contain_text("The worker doesn't answer")

    # the worker is gone: what it wrote down is still there, and the lag grows
    await worker.insert(100, 5, 1)
    arguments = [str(worker.files[0]), "--platform-config", str(worker.files[1])]
    found = await asyncio.to_thread(CliRunner().invoke, watermarks, [*arguments, "--format", "json"])
    assert found.exit_code == 0, found.output
    rows = json.loads(found.stdout)
    assert [(r["sink_id"], r["topic"], r["partition"], r["next_offset"], r["lag"]) for r in rows] == [
        ("lake", worker.topic, 0, 70, 0),
        ("lake", worker.topic, 1, 30, 5),
    ]
    table = await asyncio.to_thread(CliRunner().invoke, watermarks, arguments)
    assert "next offset" in table.stdout
    assert worker.topic in table.stdout

    # and after a restart the page shows them again before anything new is committed to partition 0
    async with worker.running():
        await worker.until(all_written, "the 5 rows are written")
        await expect(page.locator("#silence")).to_be_hidden()
        first = page.locator("#progress tr.part").nth(0).locator("td")
        await expect(first.nth(0)).to_have_text("70")
        await expect(first.nth(6)).not_to_have_text("–")  # the version, from the table sink_watermarks


async def test_watermarks_of_a_pipeline_that_never_ran_says_so(kafka: Endpoint, tmp_path: Path) -> None:
    worker = Worker(kafka, tmp_path)
    arguments = [str(worker.files[0]), "--platform-config", str(worker.files[1])]
    found = await asyncio.to_thread(CliRunner().invoke, watermarks, arguments)
    assert found.exit_code == 1
    assert "no worker of the group" in str(found.exception)
