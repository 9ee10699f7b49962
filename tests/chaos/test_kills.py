"""`kill -9` under load, again and again, in the middle of commits: nothing lost or doubled in all five tables."""

from __future__ import annotations

import random
import time
from collections import Counter

from chaos.pipeline import SINKS, ChaosPipeline
from stack.worker_log import WorkerLog

KILLS = 20
KILLS_IN_COMMIT = 5
MOST_KILLS = 40


def test_no_change_is_lost_or_doubled_by_kills_in_the_middle_of_commits(chaos: ChaosPipeline) -> None:
    """20 kills and more, each aimed at a seeded moment of a commit of one of the five sinks in turn.

    A kill counts for a sink as one between the start of a commit and the watermark's write by the worker's log, read
    to its end after the worker is dead.
    """
    rng = random.Random(20)
    in_commit: Counter[str] = Counter()
    landed: Counter[str] = Counter()
    typical = dict.fromkeys(SINKS, 0.05)
    chaos.load.send(3_000)
    chaos.load.start(per_second=500)
    worker = chaos.worker()
    kills = 0
    before: dict[str, dict[str, int]] = {}
    while kills < KILLS or min(in_commit[sink] for sink in SINKS) < KILLS_IN_COMMIT:
        assert kills < MOST_KILLS, f"{kills} kills, in commits: {dict(in_commit)}"
        aim = min(SINKS, key=lambda sink: (in_commit[sink], rng.random()))
        worker.start()
        log = WorkerLog(worker)
        log.wait_for(lambda: log.assigned, "assignment")  # noqa: B023 - called here
        for sink, offsets in before.items():
            # what the dead worker's log showed as committed is in the destination
            assert all(log.next[sink][tp] >= offset for tp, offset in offsets.items()), (sink, offsets, log.next)
            landed[sink] += any(log.next[sink][tp] > offset for tp, offset in offsets.items())
        nth = rng.randint(1, 4)
        log.wait_for(lambda: log.started[aim] >= nth, f"commit {nth} of {aim}")  # noqa: B023 - called here
        _wait_until(time.monotonic() + rng.uniform(0, typical[aim]))
        worker.kill()
        log.read()
        in_commit.update(sink for sink in SINKS if log.in_commit(sink))
        for sink, seconds in log.seconds.items():
            typical[sink] = sorted(seconds)[len(seconds) // 2]
        before = {sink: dict(offsets) for sink, offsets in log.next.items()}
        log.close()
        kills += 1
    chaos.load.stop()
    print(f"{kills} kills; in commits: {dict(in_commit)}; of them landed unseen: {dict(landed)}")  # noqa: T201
    worker.start()
    log = WorkerLog(worker)
    chaos.catch_up(log)
    assert worker.terminate() == 0
    chaos.assert_tables_exact()


def _wait_until(moment: float) -> None:
    """To the millisecond, as far as the machine allows."""
    while (left := moment - time.monotonic()) > 0:
        time.sleep(min(left, 0.001))
