"""SIGKILL at each change of the store or the catalog that a tidying step makes, in a process of its own."""

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
from typing import Any

import pytest
from contract_base import expected, opened
from contract_events import TOPIC, batch
from contract_harness import target
from iceberg_harness import NAME, IcebergHarness
from iceberg_upkeep import commit, small_sizes
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.io.pyarrow import PyArrowFileIO

from config.pipeline import IcebergConfig
from sinks.iceberg.sink import IcebergSink
from sources.changes import ChangeBatch
from tables.key_index import KeyIndex


@dataclass(frozen=True)
class Worker:
    """What a worker does before it is killed: commits that are tidied each time, commits that aren't, and one tidying
    step, with the tiers of a small table or not."""

    config: IcebergConfig
    index: Path
    tidied: Sequence[ChangeBatch]
    untidied: Sequence[ChangeBatch]
    small: bool

    def run(self, killed_at: int, steps: Connection) -> None:
        """Sends the number of changes, if it lives on."""
        index = KeyIndex.shared(self.index) if self.config.write_mode == "upsert" else None
        sink = IcebergSink(self.config, target((TOPIC,), f"{self.config.table_namespace}.{NAME}"), index)
        with small_sizes() if self.small else nullcontext(), closing(sink):
            sink.open()
            commit(sink, *self.tidied)
            for part in self.untidied:
                sink.write(batch(part))
            with _killed_at(killed_at) as made:
                sink.tidy()
            steps.send(len(made))


def tidied_under_kills(
    folder: Path,
    make: Callable[[Path], IcebergHarness],
    tidied: Sequence[ChangeBatch],
    untidied: Sequence[ChangeBatch],
    after: Sequence[ChangeBatch],
    *,
    small: bool = True,
) -> int:
    """Kill a worker at each change of store or catalog that one tidying step makes; return how many there are.

    The changes are counted, not listed: as often as it takes `make` makes a table in a new folder, and a worker is
    killed one change later than the last time. The rows are right then, and once another worker, which takes up the
    index of the killed one, has written `after`.
    """
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["iceberg_kills"])
    for step in range(1_000):
        place = folder / str(step)
        place.mkdir()
        harness = make(place)
        worker = Worker(harness.config, place / "killed", tidied, untidied, small)
        receiver, sender = processes.Pipe(duplex=False)
        process = processes.Process(target=worker.run, args=(step, sender))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # for the server, which imports what it preloads
            process.start()
        sender.close()
        process.join(120)
        assert process.exitcode in (0, -signal.SIGKILL)
        assert harness.rows() == expected(harness, *tidied, *untidied)
        if harness.upsert:
            harness.free.append(worker.index)
        with closing(opened(harness)) as sink:
            commit(sink, *after)
        assert harness.rows() == expected(harness, *tidied, *untidied, *after)
        if process.exitcode == 0:
            made: int = receiver.recv()
            assert made == step
            return made
    raise AssertionError("the step never ended")


@contextmanager
def _killed_at(step: int) -> Iterator[list[str]]:
    """The process is killed when it is about to make change number `step` (from 0) of the store or the catalog."""
    made: list[str] = []

    def counted(kind: type, name: str) -> Callable[..., Any]:
        original = getattr(kind, name)

        def around(*args: Any, **more: Any) -> Any:
            if len(made) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            made.append(name)
            return original(*args, **more)

        return around

    changes = [(PyArrowFileIO, "new_output"), (PyArrowFileIO, "delete")]
    with pytest.MonkeyPatch.context() as patch:
        for kind, name in [*changes, (SqlCatalog, "commit_table"), (RestCatalog, "commit_table")]:
            patch.setattr(kind, name, counted(kind, name))
        yield made
