"""A launched process ends with the supervisor that launched it, however that one ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from stack.service import LAUNCHER

PARENT = """
import subprocess, sys
from stack.layout import account
from stack.service import launched
child = subprocess.Popen(launched(["sleep", "60"], account()))
print(child.pid, flush=True)
child.wait()
"""


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Poll until the condition holds; False if it doesn't in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def runs(pid: int, name: str) -> bool:
    """Whether the launcher has become the command."""
    return psutil.Process(pid).name() == name


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_service_ends_when_its_supervisor_is_killed(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        service = int(supervisor.stdout.readline())
        assert eventually(lambda: runs(service, "sleep"))
        supervisor.send_signal(number)
    assert eventually(lambda: gone(service))


def test_a_supervisor_that_died_before_the_launch_gets_no_service(tmp_path: Path) -> None:
    elsewhere, uid, gid = "1", str(os.getuid()), str(os.getgid())
    trace = tmp_path / "started"
    command = [sys.executable, "-S", str(LAUNCHER), elsewhere, "9", uid, gid, "touch", str(trace)]
    assert subprocess.run(command, check=False).returncode == 1
    assert not trace.exists()
