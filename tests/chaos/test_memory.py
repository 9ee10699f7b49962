"""A worker whose address space is bounded: it stays below the bound under a lag of wide rows, or refuses it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from test_two_workers import alone

from chaos.load import Load
from chaos.pipeline import SINKS, ChaosPipeline
from config.errors import ConfigurationError
from stack.manager import Endpoints
from stack.worker_log import WorkerLog

WIDE = b"lake " * 64_000
"""320 kB of a row, which all but vanish in a file."""
LAG = 1_500
ROOM = 1_200 << 20
"""Address space beside that of an idle worker, for five sinks."""
SMALL = 3 << 30
"""Address space in which such a worker begins, but couldn't work."""


@pytest.fixture
def wide(streaming: Endpoints, tmp_path: Path) -> Iterator[ChaosPipeline]:
    """A pipeline over rows of 320 kB."""
    pipeline = ChaosPipeline(tmp_path, streaming, Load(streaming, most=10_000, keys=200, note=WIDE))
    yield pipeline
    pipeline.close()


def test_a_lag_of_wide_rows_stays_below_a_limit(wide: ChaosPipeline) -> None:
    worker = wide.worker()
    wide.load.send(8)
    worker.start()
    log = WorkerLog(worker)
    wide.catch_up(log)
    worker.limit_memory(worker.address_space() + ROOM)
    worker.freeze()
    wide.load.send(LAG)
    worker.thaw()
    alone(log, wide)
    log.wait_for(lambda: log.reached(wide.load.ends, *SINKS), "everything in all tables", 300)
    assert not list(worker.events("sink.not_tidied"))
    assert worker.terminate() == 0
    wide.assert_tables_exact()


def test_too_small_a_limit_is_refused_with_the_way_out(wide: ChaosPipeline) -> None:
    worker = wide.worker()
    worker.start()
    worker.limit_memory(SMALL)
    assert worker.wait(120) == ConfigurationError.exit_status
    error = next(worker.events("worker.ended"))["error"]
    assert "RLIMIT_AS" in error
    assert "for 5 tables. Raise the limit, or" in error
