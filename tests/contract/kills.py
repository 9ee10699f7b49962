"""SIGKILL at each change of a store, a catalog or a log that a worker makes, in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import pytest
from contract_base import commit, committed, expected, opened
from contract_events import batch
from contract_harness import SinkHarness
from iceberg_upkeep import small_sizes

from sinks.base import Sink
from sources.changes import ChangeBatch

Places = Sequence[tuple[type, str]]
"""Methods that change something outside of the process."""

H = TypeVar("H", bound=SinkHarness)


@dataclass(frozen=True)
class Worker:
    """What a worker does before it is killed: commits that are tidied each time, commits that aren't, and, killed at
    one of these places, a commit (if there is one) or a tidying step; with the tiers of a small table or not."""

    make_sink: Callable[[], Sink]
    places: Places
    tidied: Sequence[ChangeBatch]
    untidied: Sequence[ChangeBatch]
    last: ChangeBatch | None
    small: bool

    def run(self, killed_at: int, steps: Connection) -> None:
        """Sends the number of changes, if it lives on."""
        with small_sizes() if self.small else nullcontext(), closing(self.make_sink()) as sink:
            sink.open()
            commit(sink, *self.tidied)
            for part in self.untidied:
                sink.write(batch(part))
            with _killed_at(killed_at, self.places) as made:
                if self.last is None:
                    sink.tidy()
                else:
                    sink.write(batch(self.last))
            steps.send(len(made))


def under_kills(
    folder: Path,
    make: Callable[[Path], H],
    worker: Callable[[H, Path], Worker],
    after: Sequence[ChangeBatch],
    check: Callable[[H], None] = lambda _: None,
) -> int:
    """Kill a worker at each change that its last action makes; return how many there are.

    The changes are counted, not listed: as often as it takes `make` makes a table in a new folder, and `worker` (which
    gets the table and a folder for its index) is killed one change later than the last time. All or nothing of its last
    commit is in the table then, and the rows are right once another worker, which takes up the index of the killed one,
    has written `after`; so is what `check` looks at.
    """
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["kills", "iceberg_kills", "delta_kills"])
    for step in range(1_000):
        place = folder / str(step)
        place.mkdir()
        harness = make(place)
        killed = worker(harness, place / "killed")
        receiver, sender = processes.Pipe(duplex=False)
        process = processes.Process(target=killed.run, args=(step, sender))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # for the server, which imports what it preloads
            process.start()
        sender.close()
        process.join(120)
        assert process.exitcode in (0, -signal.SIGKILL)
        before = [*killed.tidied, *killed.untidied]
        last = [] if killed.last is None else [killed.last]
        landed = bool(last) and committed(harness, last[0].tp) == {last[0].tp: last[0].next}
        assert harness.rows() == expected(harness, *before, *(last if landed else []))
        if harness.upsert:
            harness.free.append(place / "killed")  # type: ignore[attr-defined]  # both formats' harnesses have it
        with closing(opened(harness)) as sink:
            commit(sink, *last, *after)
        assert harness.rows() == expected(harness, *before, *last, *after)
        check(harness)
        if process.exitcode == 0:
            made: int = receiver.recv()
            assert made == step
            return made
    raise AssertionError("the step never ended")


@contextmanager
def _killed_at(step: int, places: Places) -> Iterator[list[str]]:
    """The process is killed when it is about to make change number `step` (from 0)."""
    made: list[str] = []

    def counted(kind: type, name: str) -> Callable[..., Any]:
        original = getattr(kind, name)

        def around(*args: Any, **more: Any) -> Any:
            if len(made) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            made.append(name)
            return original(*args, **more)

        return around

    with pytest.MonkeyPatch.context() as patch:
        for kind, name in places:
            patch.setattr(kind, name, counted(kind, name))
        yield made
