"""SIGKILL at each step of a commit or of tidying, in a process of its own. The steps are those that the process makes:
each change of a file and each request over the network (`chaos.outside`), whatever library makes it."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import TypeVar

import pytest
from contract_base import commit, committed, expected, opened
from contract_events import batch
from contract_harness import SinkHarness
from iceberg_upkeep import small_sizes

from chaos.outside import Outside, kinds
from sinks.base import Sink
from sources.changes import ChangeBatch

FEWER = 5
"""Steps that a run may make fewer than another."""
ALL = os.environ.get("STEPS") == "all"
H = TypeVar("H", bound=SinkHarness)


@dataclass(frozen=True)
class Worker:
    """What a worker does before it is killed: commits that are tidied each time, commits that aren't, and, killed at a
    step of it, a commit (if there is one) or a tidying step; with the tiers of a small table or not."""

    make_sink: Callable[[], Sink]
    tidied: Sequence[ChangeBatch]
    untidied: Sequence[ChangeBatch]
    last: ChangeBatch | None
    small: bool

    def run(self, killed_at: int | None, after: bool) -> None:
        """In a process that ends with it, or before."""
        outside = Outside.of_this_process()
        with small_sizes() if self.small else nullcontext(), closing(self.make_sink()) as sink:
            sink.open()
            commit(sink, *self.tidied)
            for part in self.untidied:
                sink.write(batch(part))
            outside.arm(killed_at, after=after)
            if self.last is None:
                sink.tidy()
            else:
                sink.write(batch(self.last))
            outside.disarm()


def under_kills(
    folder: Path,
    make: Callable[[Path], H],
    worker: Callable[[H, Path], Worker],
    after: Sequence[ChangeBatch],
    check: Callable[[H], None] = lambda _: None,
) -> list[str]:
    """Kill a worker at each step of its last action; return the steps as they are written down.

    A first worker lives on and shows the steps. Then, for the last of each kind (for each one with `STEPS=all`, see
    `make kills`), `make` makes a table in a new folder, and `worker`
    (which gets the table and a folder for its index) is killed before it, and if it is a request once more when it has
    been sent: nobody gets the answer. All or nothing of its last commit is in the table then, and the rows are right
    once another worker, which takes up the index of the killed one, has written `after`; so is what `check` looks at.
    """
    outside = _outside()
    places = count()

    def run(step: int | None, *, sent: bool = False) -> bool:
        """Whether the worker was killed."""
        place = folder / str(next(places))
        place.mkdir()
        outside.watch(place)
        harness = make(place)
        killed = worker(harness, place / "killed")
        status = _in_process(killed, step, sent)
        assert status in (0, -signal.SIGKILL)
        before = [*killed.tidied, *killed.untidied]
        last = [] if killed.last is None else [killed.last]
        landed = bool(last) and committed(harness, last[0].tp) == {last[0].tp: last[0].next}
        # a request that is on its way may land between two looks, but not when the next worker has looked
        if not sent:
            assert harness.rows() == expected(harness, *before, *(last if landed else []))
        if harness.upsert:
            harness.free.append(place / "killed")  # type: ignore[attr-defined]  # both formats' harnesses have it
        with closing(opened(harness)) as sink:
            commit(sink, *last, *after)
        assert harness.rows() == expected(harness, *before, *last, *after)
        check(harness)
        return status != 0

    assert not run(None)
    lines = outside.log.read_text().splitlines()
    assert lines, "no step was made"
    numbers = list(range(len(lines))) if ALL else [found[-1] for found in kinds(lines).values()]
    requests = [number for number in numbers if lines[number].split()[1].startswith(":")]
    # threads that write beside each other make some steps more or fewer from run to run
    struck = [any(run(at) for at in range(number, max(-1, number - FEWER), -1)) for number in numbers]
    struck += [run(number, sent=True) for number in requests]
    assert sum(struck) >= len(numbers) - len(requests)  # how often a request is tried may differ; the files don't
    print(f"{sum(struck)} kills, {len(requests)} of them in requests; {len(kinds(lines))} kinds of step")  # noqa: T201
    return lines


@cache
def _outside() -> Outside:
    """The page of all processes that are killed here, one after the other."""
    place = Path(tempfile.mkdtemp(prefix="lakeward-kills-"))
    atexit.register(shutil.rmtree, place)
    return Outside(place)


def _in_process(worker: Worker, killed_at: int | None, after: bool) -> int:
    """The exit status of a process that was forked from one that has imported all."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["kills", "iceberg_kills", "delta_kills"])
    process = processes.Process(target=worker.run, args=(killed_at, after))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # for the server, which imports what it preloads
        for name, value in _outside().environment.items():
            patch.setenv(name, value)
        process.start()
    process.join(120)
    assert process.exitcode is not None
    return process.exitcode
