"""Which supervisors of a state folder live, what they told of their services, and what a killed one left behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import psutil

from stack.errors import StackError

LEFTOVER_TIMEOUT = 30.0
STOP_TIMEOUT = 90.0


def living(state: Path) -> list[psutil.Process]:
    """This state's supervisors, the youngest first.

    Found among the processes: a process id in a file may belong to something else by now.
    """
    arguments = ["-m", "stack.supervisor", str(state)]
    found = [p for p in psutil.process_iter(["cmdline", "create_time"]) if (p.info["cmdline"] or [])[1:4] == arguments]
    return sorted(found, key=lambda process: float(process.info["create_time"]), reverse=True)


def told(state: Path) -> dict[str, dict[str, Any]]:
    """The last status of each service by name, also of those whose supervisor is gone."""
    found = {}
    for path in (state / "services").glob("[!.]*.json"):
        try:
            status = json.loads(path.read_text())
        except FileNotFoundError:
            continue  # its supervisor is just stopping it
        found[status["name"]] = status
    return found


def stop(supervisor: psutil.Process) -> None:
    """Tell a supervisor to stop, and wait; one that doesn't in time is killed, and its services with it."""
    try:
        supervisor.terminate()
        supervisor.wait(STOP_TIMEOUT)
    except psutil.NoSuchProcess:
        return
    except psutil.TimeoutExpired:
        supervisor.kill()
    except psutil.AccessDenied:
        raise StackError(
            f"the stack was started by user {supervisor.username()}: only that user, or root, can stop it"
        ) from None


def await_leftovers(state: Path, say: Callable[[str], None]) -> None:
    """Wait until the processes of supervisors that were killed are gone: a database that was told to end needs a while.

    Raises StackError, naming the process, if one stays.
    """
    supervisors = {supervisor.pid for supervisor in living(state)}
    deadline = monotonic() + LEFTOVER_TIMEOUT
    for name, status in told(state).items():
        pid = status.get("pid")
        if status["supervisor"] in supervisors or pid is None or not _works_in(pid, state):
            continue
        say(f"waiting for {name} of a killed supervisor to end (pid {pid})")
        while _works_in(pid, state):
            if monotonic() > deadline:
                raise StackError(f"{name} (pid {pid}), left by a killed supervisor, doesn't end: `kill -9 {pid}`")
            sleep(0.05)


def _works_in(pid: int, state: Path) -> bool:
    """Whether the process lives and its working folder is in this state (else the id belongs to something else)."""
    try:
        return Path(psutil.Process(pid).cwd()).is_relative_to(state)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
