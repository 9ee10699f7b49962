"""Bringing the stack up and down: what `cdc stack`, the demo, the benchmarks and the tests call.

State lies under one folder: `ports.json`, `endpoints.json` (url, host, port, user, password per service), `logs/`,
`data/`, `conf/`, and `services/*.json` by which supervisors tell how their services are.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import psutil

from stack import dist, supervisors
from stack.errors import StackError
from stack.layout import Layout, account, barrier, write_whole
from stack.ports import free_ports, refuse_taken
from stack.supervisor import SERVICES, with_needs

UP_TIMEOUT = 300.0
"""Seconds for all services to get ready; each has a shorter limit of its own from its launch on."""


@dataclass(frozen=True)
class Endpoint:
    """How to reach one service. `more` holds what only some have: database, bucket, region, warehouse."""

    url: str
    host: str
    port: int
    user: str | None
    password: str | None
    more: dict[str, str]

    @classmethod
    def parse(cls, fields: dict[str, Any]) -> Endpoint:
        """From `endpoints.json`."""
        known = {name: fields.get(name) for name in ("url", "host", "port", "user", "password")}
        return cls(**known, more={k: v for k, v in fields.items() if k not in known})  # type: ignore[arg-type]

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"{self.host}:{self.port}"


class Endpoints(dict[str, Endpoint]):
    """The running services by name; a service that isn't up is a StackError that says how to start it."""

    def __missing__(self, name: str) -> Endpoint:
        raise StackError(f"{name} isn't running; start it by `cdc stack up --only {name}`")


def up(
    state: Path,
    names: set[str] | None = None,
    *,
    ports: dict[str, int],
    say: Callable[[str], None],
    owner: int = 0,
) -> Endpoints:
    """Start what isn't running yet of these services (None: all) and what they need; returns when all are healthy.

    `ports` counts only when nothing of this state is running: a running stack keeps its ports. Raises StackError if
    one can't start; what this call started is stopped then.
    """
    state = state.resolve()
    wanted = with_needs(set(SERVICES) if names is None else names)
    state.mkdir(parents=True, exist_ok=True)
    with _locked(state):
        running = {name for name, status in statuses(state).items() if status["state"] != "failed"}
        missing = [name for name in wanted if name not in running]
        if running and ports != (kept := json.loads((state / "ports.json").read_text())):
            say("what runs here keeps its ports; to move it, stop it first by `cdc stack down`")
            ports = kept
        if missing:
            _refuse_unreachable(state, missing)
            supervisors.await_leftovers(state, say)
            refuse_taken({port: ports[port] for name in missing for port in SERVICES[name].port_names})
            dist.prepare(tuple({c.name: c for name in missing for c in SERVICES[name].components}.values()), say)
            write_whole(state / "ports.json", json.dumps(ports))
        _start(Layout(state, ports), missing, set(wanted), owner, say)
        endpoints = {name: status["endpoint"] for name, status in statuses(state).items() if status["state"] == "ready"}
        write_whole(state / "endpoints.json", json.dumps(endpoints, indent=1))
    return Endpoints({name: Endpoint.parse(fields) for name, fields in endpoints.items()})


def down(state: Path, say: Callable[[str], None]) -> None:
    """Stop every service of this state, the youngest supervisor first; returns when their processes are gone."""
    state = state.resolve()
    if not state.exists():
        return
    with _locked(state):
        found = statuses(state)
        for supervisor in supervisors.living(state):
            supervisors.stop(supervisor)
            names = [name for name, status in found.items() if status["supervisor"] == supervisor.pid]
            say(f"stopped {', '.join(names)}")
        supervisors.await_leftovers(state, say)
        shutil.rmtree(state / "services", ignore_errors=True)
        (state / "endpoints.json").unlink(missing_ok=True)


def wipe(state: Path) -> None:
    """Forget a stopped stack's data (downloads stay). Raises StackError while it runs."""
    state = state.resolve()
    if supervisors.living(state):
        raise StackError(f"the stack in {state} is running; stop it by `cdc stack down` first")
    supervisors.await_leftovers(state, lambda _: None)
    for folder in ("data", "logs", "conf", "services"):
        shutil.rmtree(state / folder, ignore_errors=True)


def statuses(state: Path) -> dict[str, dict[str, Any]]:
    """What living supervisors tell of their services, by name in starting order."""
    state = state.resolve()
    living = {supervisor.pid for supervisor in supervisors.living(state)}
    found = supervisors.told(state)
    return {name: found[name] for name in SERVICES if name in found and found[name]["supervisor"] in living}


@contextmanager
def running_stack(names: set[str], say: Callable[[str], None] = print) -> Iterator[Endpoints]:
    """A stack of its own on free ports, with its data in a folder of its own, gone afterwards."""
    with own_state("runs") as state:
        yield up(state, names, ports=free_ports(), say=say, owner=os.getpid())


def state_of(kind: str, process: int) -> Path:
    """The state folder of this kind that is a process's own."""
    return dist.REPOSITORY / ".stack" / kind / str(process)


@contextmanager
def own_state(kind: str) -> Iterator[Path]:
    """A state folder for this process alone; its stack is stopped and its data removed afterwards.

    Removes what processes that were killed have left of this kind.
    """
    state = state_of(kind, os.getpid())
    state.parent.mkdir(parents=True, exist_ok=True)
    for folder in state.parent.iterdir():
        if folder.name.isdigit() and not psutil.pid_exists(int(folder.name)) and not supervisors.living(folder):
            shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(state, ignore_errors=True)
    try:
        yield state
    finally:
        down(state, lambda _: None)
        shutil.rmtree(state, ignore_errors=True)


@contextmanager
def _locked(state: Path) -> Iterator[None]:
    with (state / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _start(layout: Layout, missing: list[str], wanted: set[str], owner: int, say: Callable[[str], None]) -> None:
    """Start a supervisor for the missing services; returns when all that are wanted are ready."""
    supervisor = None
    if missing:
        for folder in ("logs", "services", "data", "conf"):
            (layout.state / folder).mkdir(exist_ok=True)
        (layout.state / "data").chmod(0o755)  # databases' users pass through it, whatever the umask
        for name in missing:
            layout.status(name).unlink(missing_ok=True)
        with layout.log("supervisor").open("ab") as output:
            supervisor = subprocess.Popen(
                [sys.executable, "-m", "stack.supervisor", str(layout.state), str(owner), *missing],
                cwd=dist.REPOSITORY, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
    try:
        _await_ready(layout, set(missing), wanted, supervisor, say)
    except BaseException:  # Ctrl-C too: what didn't get ready doesn't stay
        if supervisor is not None:
            supervisors.stop(psutil.Process(supervisor.pid))
        raise


def _await_ready(
    layout: Layout,
    missing: set[str],
    wanted: set[str],
    supervisor: subprocess.Popen[bytes] | None,
    say: Callable[[str], None],
) -> None:
    began, waiting = monotonic(), set(wanted)
    while True:
        ended = supervisor is not None and supervisor.poll() is not None
        found = supervisors.told(layout.state)
        for name in sorted(waiting & found.keys()):
            status = found[name]
            if status["state"] == "failed":
                raise StackError(status["error"])
            if status["state"] == "ready":
                waiting.discard(name)
                if name in missing:
                    say(f"{name:<16} ready after {monotonic() - began:5.1f} s on port {status['port']}")
        if not waiting:
            return
        if ended:
            raise StackError(f"the supervisor ended before all services were ready; see {layout.log('supervisor')}")
        if monotonic() - began > UP_TIMEOUT:
            logs = ", ".join(str(layout.log(name)) for name in sorted(waiting))
            raise StackError(f"{', '.join(sorted(waiting))} not ready after {UP_TIMEOUT:.0f} s; see {logs}")
        sleep(0.05)


def _refuse_unreachable(state: Path, names: list[str]) -> None:
    """Databases run as users of their own when we are root: each folder above their data must let them pass."""
    for name in names:
        user = account(*SERVICES[name].users)
        folder = barrier(state, user) if user.uid != os.getuid() else None
        if folder is not None:
            raise StackError(
                f"{name} runs as user {user.name}, who can't enter {folder}: `chmod o+x {folder}`, or use another"
                " folder by --state"
            )
