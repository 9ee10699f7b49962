"""SIGKILL at each kind of step that a whole worker makes, five sinks in it: nothing lost, nothing doubled.

A first worker shows the steps (`chaos.outside`): files of its tables, its key index and Faust's tables, requests to
Kafka and the registry, from its start to its end. `STEPS=all` takes every kind (`make kills`); without it, some are
drawn.
"""

from __future__ import annotations

import os
import random
import signal
from contextlib import suppress
from functools import partial

import pytest
from test_two_workers import alone

from chaos.outside import Outside, kinds
from chaos.pipeline import SINKS, ChaosPipeline
from stack.worker import WorkerDied, WorkerProcess
from stack.worker_log import WorkerLog

ALL = os.environ.get("STEPS") == "all"
SOME = 6
OWN_AFFAIR = ("/key-index/", ".db/")
"""When RocksDB writes its files out is its own affair: such a step may not come again."""


class Steps:
    """A pipeline whose worker is killed at steps, again and again."""

    def __init__(self, chaos: ChaosPipeline) -> None:
        self.chaos = chaos
        self.outside = Outside(chaos.folder / "outside", chaos.data, chaos.lake)
        self.worker = chaos.worker("struck", self.outside.environment)
        self.ending = False
        """Whether the worker had been told to end when it came to the last step that was struck."""
        self.seen = self._seen()

    def _seen(self) -> dict[str, int]:
        """Each kind of step that a restarted worker makes with some work, and how often."""
        self.chaos.load.send(3_000)
        for _ in range(2):
            self.outside.arm()
            self.worker.start()
            assert self._work()
            assert self.worker.terminate() == 0
        found = kinds(self.outside.log.read_text().splitlines())
        return {kind: len(numbers) for kind, numbers in found.items() if not kind.endswith(("/LOG", "/LOCK"))}

    def drawn(self, rng: random.Random, *calls: str) -> list[tuple[str, bool]]:
        """Kinds of step (those with one of `calls` in them), each before and after it; or `SOME` of them."""
        found = [(kind, after) for kind in self.seen if any(call in kind for call in calls) for after in (False, True)]
        return found if ALL else rng.sample(found, SOME)

    def strike(self, kind: str, number: int, signum: signal.Signals, *, after: bool) -> bool:
        """Start a worker that gets the signal at a step of a kind, be it while it ends; whether it came to that."""
        self.outside.arm(number, signum, after=after, only=kind)
        self.worker.start()
        self.ending = self._work()
        if self.ending:
            self._end()
        return self.outside.struck

    def _end(self) -> None:
        """SIGTERM; wait until the worker has ended well, or has come to the step (one that froze there doesn't end)."""
        self.worker.signal_end()
        with suppress(WorkerDied):  # told to, it isn't a fault
            self.worker.wait_for(lambda: self.outside.struck, "the worker's end", 40)
        assert self.outside.struck or self.worker.wait(0) == 0, self.worker.tail()

    def _is_over(self, log: WorkerLog, ends: dict[str, int]) -> bool:
        return self.outside.struck or log.has_all(ends, *SINKS)

    def _work(self) -> bool:
        """Let the worker catch up thrice, so that there are commits between which it goes on; whether it came to the
        end."""
        log = WorkerLog(self.worker)
        try:
            for _ in range(3):
                log.wait_for(partial(self._is_over, log, self.chaos.load.ends), "everything", 120)
                self.chaos.load.send(300)
        except WorkerDied:
            return False
        finally:
            log.close()
        return not self.outside.struck


@pytest.mark.parametrize("workers", [1, 2] if ALL else [1])
def test_killed_at_each_kind_of_step(workers: int, chaos: ChaosPipeline) -> None:
    rng = random.Random(workers)
    steps = Steps(chaos)
    other = chaos.worker("other")
    if workers > 1:
        other.start()
    wanted = steps.drawn(rng, "")
    missed = []
    for kind, after in wanted:
        numbers = rng.randrange(steps.seen[kind]), 0
        if any(steps.strike(kind, number, signal.SIGKILL, after=after) for number in numbers):
            assert steps.worker.wait(10) == -signal.SIGKILL, steps.worker.tail()
        else:
            missed.append(kind)
    print(f"{len(wanted) - len(missed)} kills, of {len(steps.seen)} kinds of step; not come again: {missed}")  # noqa: T201
    finish(chaos, other)
    assert [kind for kind in missed if not any(own in kind for own in OWN_AFFAIR)] == []


def finish(chaos: ChaosPipeline, worker: WorkerProcess) -> None:
    """Let a worker write the rest, and look at the tables."""
    if not worker.running():
        worker.start()
    log = WorkerLog(worker)
    alone(log, chaos)
    chaos.catch_up(log)
    assert worker.terminate() == 0
    chaos.assert_tables_exact()
