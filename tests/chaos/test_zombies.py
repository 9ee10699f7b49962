"""SIGSTOP in a step that publishes something, until another worker has gone on: the zombie lands nothing twice.

The tables lie in an object store and a REST catalog (a worker that sleeps in a transaction of SQLite locks everybody
out). `STEPS=all` takes each kind of such a step; without it, some are drawn.
"""

from __future__ import annotations

import random
import signal

from test_worker_steps import ALL, Steps, finish

from chaos.pipeline import StoredPipeline
from stack.worker_log import WorkerLog

PUBLISHING = ("PUT ", "POST ", "DELETE ", "Kafka Produce", "Kafka OffsetCommit")
SOME = 3


def test_a_worker_that_froze_in_a_step_lands_nothing_twice(stored: StoredPipeline) -> None:
    rng = random.Random(3)
    steps = Steps(stored)
    wanted = steps.drawn(rng, *PUBLISHING)[: None if ALL else SOME]
    missed = []
    for kind, after in wanted:
        numbers = rng.randrange(steps.seen[kind]), 0
        if not any(steps.strike(kind, number, signal.SIGSTOP, after=after) for number in numbers):
            missed.append(kind)
            continue
        other = stored.worker("other")
        other.start()
        stored.load.send(300)
        stored.catch_up(WorkerLog(other))
        steps.worker.thaw()
        assert other.terminate() == 0, other.tail()
        if steps.ending:
            assert steps.worker.wait(40) == 0, steps.worker.tail()
            continue
        stored.catch_up(WorkerLog(steps.worker))
        assert steps.worker.terminate() == 0, steps.worker.tail()
    print(f"{len(wanted) - len(missed)} zombies, of {len(steps.seen)} kinds of step; not come again: {missed}")  # noqa: T201
    assert len(missed) < len(wanted)
    finish(stored, stored.worker("last"))
