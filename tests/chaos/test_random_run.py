"""A short run of `make chaos`: its own stack, both databases, seven sinks, faults by a seed; every table equals its
source. (A longer one: `make chaos MINUTES=20`.)"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

STATE = Path(__file__).parents[2] / ".stack/chaos-test"
"""PostgreSQL's user may not enter pytest's folders."""

SEED, MINUTES = 284, 2.0
LONGEST_SECONDS = 900


def test_every_table_equals_its_source_after_a_random_run() -> None:
    command = [sys.executable, "-m", "chaos", "--seed", str(SEED), "--minutes", str(MINUTES), "--state", str(STATE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LONGEST_SECONDS)
    assert done.returncode == 0, f"{done.stdout[-8_000:]}\n{done.stderr[-4_000:]}"
    assert "every table equals its source" in done.stdout
