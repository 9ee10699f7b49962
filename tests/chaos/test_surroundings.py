"""A full disk, names that nobody knows, a wall clock that jumps, too little memory: said, and got over without a hand."""

from __future__ import annotations

import pytest
from chaos_pipeline import SINKS, ChaosPipeline
from test_two_workers import alone

from chaos.outside import Outside
from stack.worker import WorkerProcess
from stack.worker_log import WorkerLog

SAID_WITHIN = 60.0
"""Seconds from the fault to a line in the log."""


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


def finish(chaos: ChaosPipeline, worker: WorkerProcess) -> None:
    """Let it write the rest, and look at the tables."""
    chaos.load.stop()
    log = WorkerLog(worker)
    alone(log, chaos)
    chaos.catch_up(log)
    assert worker.terminate() == 0
    chaos.assert_tables_exact()


def test_a_full_disk_is_said_and_written_on_when_there_is_room(chaos: ChaosPipeline, outside: Outside) -> None:
    worker, _ = running(chaos, outside)
    outside.fill()
    told = worker.wait_for(
        lambda: [*worker.events("sink.unavailable"), *worker.events("worker.ended")], "word of it", 90
    )
    print(told)
    import time

    time.sleep(20)
    print(worker.running(), worker.tail(60))
    outside.fill(full=False)
    if not worker.running():
        worker.start()
    finish(chaos, worker)


@pytest.mark.parametrize("hours", [6.0, -6.0])
def test_a_wall_clock_that_jumps_changes_nothing(hours: float, chaos: ChaosPipeline, outside: Outside) -> None:
    worker, log = running(chaos, outside)
    outside.move_clock(hours * 3600)
    before = log.committed.copy()
    log.wait_for(lambda: all(log.committed[sink] > before[sink] + 2 for sink in SINKS), "commits of each sink")
    outside.move_clock(0)
    before = log.committed.copy()
    log.wait_for(lambda: all(log.committed[sink] > before[sink] + 2 for sink in SINKS), "commits of each sink")
    finish(chaos, worker)


def test_names_that_are_not_found_are_said_and_waited_for(chaos: ChaosPipeline, outside: Outside) -> None:
    platform = chaos.folder / "platform.yaml"
    platform.write_text(platform.read_text().replace("127.0.0.1", "localhost"))
    outside.forget_names()
    chaos.load.send(500)
    worker = chaos.worker("worker", outside.environment)
    worker.start()
    import time

    time.sleep(30)
    print(worker.running(), worker.tail(40))
    outside.forget_names(forgotten=False)
    if not worker.running():
        worker.start()
    finish(chaos, worker)
