"""Bringing the stack up and down: what `cdc stack`, the demo, the benchmarks and the tests call.

State lies under one folder: `ports.json`, `endpoints.json` (url, host, port, user, password per service), `logs/`,
`data/`, `conf/`, and `services/*.json` by which supervisors tell how their services are.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import psutil

from stack import dist
from stack.errors import StackError
from stack.service import Layout, account, alive, write_whole
from stack.supervisor import SERVICES, with_needs


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
        if missing:
            _reachable(state, missing)
            dist.prepare(tuple({c.name: c for name in missing for c in SERVICES[name].components}.values()), say)
            if not running:
                write_whole(state / "ports.json", json.dumps(ports))
            _start(state, missing, owner, say)
        endpoints = {name: status["endpoint"] for name, status in statuses(state).items() if "endpoint" in status}
        write_whole(state / "endpoints.json", json.dumps(endpoints, indent=1))
    return Endpoints({name: Endpoint.parse(fields) for name, fields in endpoints.items()})


def down(state: Path, say: Callable[[str], None]) -> None:
    """Stop every service of this state, the youngest supervisor first."""
    state = state.resolve()
    if not state.exists():
        return
    with _locked(state):
        supervisors: dict[int, list[str]] = {}
        for name, status in statuses(state).items():
            supervisors.setdefault(status["supervisor"], []).append(name)
        for pid in sorted(supervisors, key=_age, reverse=True):
            _stop(pid)
            say(f"stopped {', '.join(supervisors[pid])}")
        shutil.rmtree(state / "services", ignore_errors=True)
        (state / "endpoints.json").unlink(missing_ok=True)


def wipe(state: Path) -> None:
    """Forget a stopped stack's data (downloads stay). Raises StackError while it runs."""
    if statuses(state):
        raise StackError(f"the stack in {state} is running; stop it by `cdc stack down` first")
    for folder in ("data", "logs", "conf", "services"):
        shutil.rmtree(state / folder, ignore_errors=True)


def statuses(state: Path) -> dict[str, dict[str, Any]]:
    """What living supervisors tell of their services, by name in starting order."""
    found: dict[str, dict[str, Any]] = {}
    for path in (state / "services").glob("[!.]*.json"):
        try:
            status = json.loads(path.read_text())
        except FileNotFoundError:
            continue  # its supervisor is just stopping it
        if alive(status):
            found[status["name"]] = status
    return {name: found[name] for name in SERVICES if name in found}


@contextmanager
def running_stack(names: set[str], say: Callable[[str], None] = print) -> Iterator[Endpoints]:
    """A stack of its own on free ports, with its data in a folder of its own, gone afterwards."""
    from stack.ports import free_ports

    state = dist.REPOSITORY / ".stack" / "runs" / str(os.getpid())
    shutil.rmtree(state, ignore_errors=True)
    try:
        yield up(state, names, ports=free_ports(), say=say, owner=os.getpid())
    finally:
        down(state, say)
        shutil.rmtree(state, ignore_errors=True)


@contextmanager
def _locked(state: Path) -> Iterator[None]:
    with (state / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _start(state: Path, names: list[str], owner: int, say: Callable[[str], None]) -> None:
    for folder in ("logs", "services", "data", "conf"):
        (state / folder).mkdir(exist_ok=True)
    layout = Layout(state, json.loads((state / "ports.json").read_text()))
    for name in names:
        layout.status(name).unlink(missing_ok=True)
    log = layout.log("supervisor")
    with log.open("ab") as output:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "stack.supervisor", str(state), str(owner), *names],
            cwd=dist.REPOSITORY, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    began, waiting = monotonic(), set(names)
    while waiting:
        for name in sorted(waiting):
            try:
                status = json.loads(layout.status(name).read_text())
            except FileNotFoundError:
                continue
            if status["state"] == "ready":
                say(f"{name:<16} ready after {monotonic() - began:5.1f} s on port {status['port']}")
                waiting.discard(name)
            elif status["state"] == "failed":
                supervisor.wait(60)
                raise StackError(status["error"])
        if waiting and supervisor.poll() is not None:
            raise StackError(f"the supervisor ended with status {supervisor.returncode}; see {log}")
        sleep(0.05)


def _stop(pid: int) -> None:
    process = psutil.Process(pid)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(90)
    except psutil.TimeoutExpired:
        process.kill()


def _age(pid: int) -> float:
    return float(psutil.Process(pid).create_time())


def _reachable(state: Path, names: list[str]) -> None:
    """Databases run as users of their own when we are root: each folder above their data must let them pass."""
    for name in names:
        user = account(*SERVICES[name].users)
        if user.uid == os.getuid():
            continue
        for folder in (state, *state.parents):
            status = folder.stat()
            passes = status.st_mode & 0o001 or (status.st_uid == user.uid and status.st_mode & 0o100)
            if not passes and not (status.st_gid == user.gid and status.st_mode & 0o010):
                raise StackError(
                    f"{name} runs as user {user.name}, who can't enter {folder}: `chmod o+x {folder}`, or use another"
                    " folder by --state"
                )
