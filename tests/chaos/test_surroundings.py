"""A full disk, a wall clock that jumps, names that nobody knows: said in the log, and got over without a hand."""

from __future__ import annotations

import httpx
import pytest
from test_two_workers import alone

from chaos.outside import Outside
from chaos.pipeline import SINKS, ChaosPipeline
from stack.worker import WorkerProcess
from stack.worker_log import WorkerLog

SAID_WITHIN = 60.0
"""Seconds from the fault to a line in the log that names it."""


@pytest.fixture
def outside(chaos: ChaosPipeline) -> Outside:
    """What can happen to the pipeline's worker."""
    return Outside(chaos.folder / "outside", chaos.data, chaos.lake)


def running(chaos: ChaosPipeline, outside: Outside) -> tuple[WorkerProcess, WorkerLog]:
    """A worker that has everything, with a load that goes on."""
    worker = chaos.worker("worker", outside.environment)
    chaos.load.send(2_000)
    worker.start()
    log = WorkerLog(worker)
    chaos.catch_up(log)
    chaos.load.start(per_second=200)
    return worker, log


def more_commits(log: WorkerLog) -> None:
    """Wait until each sink has committed thrice."""
    before = log.committed.copy()
    log.wait_for(lambda: all(log.committed[sink] > before[sink] + 2 for sink in SINKS), "commits of each sink")


def finish(chaos: ChaosPipeline, worker: WorkerProcess) -> None:
    """Let it write the rest, and look at the tables."""
    chaos.load.stop()
    log = WorkerLog(worker)
    alone(log, chaos)
    chaos.catch_up(log)
    assert worker.terminate() == 0
    chaos.assert_tables_exact()


def test_a_full_disk_is_said_for_each_sink_and_written_on_when_there_is_room(
    chaos: ChaosPipeline, outside: Outside
) -> None:
    worker, log = running(chaos, outside)

    def said() -> set[str]:
        errors = worker.events("pipeline.sink_write_error")
        return {e["writer"].split(" → ")[0] for e in errors if "no space left" in e["error"].lower()}

    outside.fill()
    worker.wait_for(lambda: said() == set(SINKS), "word of it by each sink", SAID_WITHIN)
    ready = httpx.get(f"http://127.0.0.1:{worker.web_port}/readyz", timeout=10)
    assert ready.status_code == httpx.codes.SERVICE_UNAVAILABLE
    assert ready.json()["state"]["name"] == "retrying"
    outside.fill(full=False)
    more_commits(log)
    finish(chaos, worker)


def test_a_full_data_directory_is_said_and_got_over(chaos: ChaosPipeline, outside: Outside) -> None:
    """It holds caches alone: the key index, which is written out once in a while, and Faust's tables."""
    worker, log = running(chaos, outside)
    outside.watch(chaos.data)
    outside.fill()

    def said() -> bool:
        return any("key index" in error["error"] for error in worker.events("pipeline.sink_write_error"))

    worker.wait_for(said, "word of it", 180)
    assert list(worker.events("watermark.not_written"))
    outside.fill(full=False)
    more_commits(log)
    finish(chaos, worker)


@pytest.mark.parametrize("hours", [6.0, -6.0])
def test_a_wall_clock_that_jumps_changes_nothing(hours: float, chaos: ChaosPipeline, outside: Outside) -> None:
    worker, log = running(chaos, outside)
    outside.move_clock(hours * 3600)
    more_commits(log)
    outside.move_clock(0)
    more_commits(log)
    finish(chaos, worker)


def test_names_that_are_not_found_are_said_and_waited_for(chaos: ChaosPipeline, outside: Outside) -> None:
    platform = chaos.folder / "platform.yaml"
    platform.write_text(platform.read_text().replace("127.0.0.1", "localhost"))
    outside.forget_names()
    chaos.load.send(500)
    worker = chaos.worker("worker", outside.environment)
    worker.start()
    said = worker.wait_for(lambda: list(worker.events("kafka.unavailable")), "word of it", SAID_WITHIN)
    assert "localhost" in said[0]["brokers"]
    outside.forget_names(forgotten=False)
    finish(chaos, worker)
