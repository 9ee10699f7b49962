"""Writers of one table that run at once, in threads."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from contract_base import committed, inserts
from contract_events import TOPIC, batch, folded, log_rows
from delta_harness import DeltaHarness
from iceberg_harness import IcebergHarness

from config.errors import Unavailable
from sources.changes import TopicPartition


@pytest.mark.parametrize(
    ("make", "mode"),
    [
        (IcebergHarness, "append"),
        (IcebergHarness, "upsert"),
        (DeltaHarness, "append"),
        (DeltaHarness, "upsert"),
        (partial(DeltaHarness, upserts="deletion_vectors"), "upsert"),
    ],
)
def test_writers_that_really_race_lose_and_double_nothing(make: Any, mode: Any, tmp_path: Path) -> None:
    """Two owners of a partition each and a zombie of both, all at once; each retries as an agent would."""
    harness = make(mode, tmp_path)
    steps, size = 8, 3
    failures: list[BaseException] = []

    def run(partitions: Sequence[int]) -> None:
        sink = harness.new_sink()
        try:
            sink.open()
            for first in range(0, steps * size, size):
                todo = batch(*(inserts(0, first + size, partition=p) for p in partitions))
                for _ in range(20):
                    try:
                        sink.write(todo)
                        break
                    except Unavailable:
                        continue
        except BaseException as error:
            failures.append(error)
        finally:
            sink.close()

    threads = [threading.Thread(target=run, args=(owned,)) for owned in ([0], [1], [0, 1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    parts = [inserts(0, steps * size, partition=p) for p in (0, 1)]
    assert harness.rows() == (folded if mode == "upsert" else log_rows)(*parts)
    assert committed(harness) == {TopicPartition(TOPIC, p): steps * size for p in (0, 1)}
