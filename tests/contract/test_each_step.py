"""SIGKILL at each step of a commit, in every sink and mode: all or nothing of it is there, and the next worker goes on.

The steps come from the running code (`chaos.outside`): what a commit newly does is killed at without a list.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from contract_base import updates
from contract_events import changes, order
from delta_harness import DeltaHarness, vector_harness
from delta_kills import written_under_kills as delta_under_kills
from iceberg_harness import IcebergHarness
from iceberg_kills import written_under_kills as iceberg_under_kills

BEFORE = updates(4)
PART = changes([order("u", 4, "killed"), order("d", 6), order("c", 990)], BEFORE[-1].next)
AFTER = updates(3, seed=2, start=PART.next)

SINKS: dict[str, tuple[Callable[[Path], Any], Callable[..., list[str]], str]] = {
    "iceberg-append": (lambda folder: IcebergHarness("append", folder), iceberg_under_kills, "write*catalog.db"),
    "iceberg-upsert": (lambda folder: IcebergHarness("upsert", folder), iceberg_under_kills, "write*catalog.db"),
    "delta-append": (lambda folder: DeltaHarness("append", folder), delta_under_kills, "link*.json"),
    "delta-merge": (lambda folder: DeltaHarness("upsert", folder), delta_under_kills, "link*.json"),
    "delta-vectors": (vector_harness, delta_under_kills, "link*.json"),
}


@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize("first", [False, True], ids=["later", "first"])
def test_a_commit_that_is_killed_at_any_step_is_whole_or_not_there(sink: str, first: bool, tmp_path: Path) -> None:
    """The first one makes the table."""
    make, under_kills, point_of_no_return = SINKS[sink]
    parts = (BEFORE[:0], BEFORE[0], BEFORE[1:]) if first else (BEFORE, PART, AFTER)
    steps = under_kills(tmp_path, make, *parts)
    call, what = point_of_no_return.split("*")
    assert any(call in step and what in step for step in steps), steps
