"""What every service of the stack is: a `mode` Service that supervises one real process.

Starting one means: prepare (configuration, first-time data), launch, and poll `healthy` with backoff until it answers
or the process dies. A process that dies later is restarted, up to `MAX_RESTARTS` times; its log file is appended to.
Progress and state go to `services/<name>.json`, which `cdc stack up` and `status` read.
"""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, time
from typing import Any, ClassVar

import httpx
import psutil
from mode import Service

from stack import ports
from stack.dist import Component
from stack.errors import StackError

LAUNCHER = Path(__file__).with_name("launch.py")
MAX_RESTARTS = 5
START_TIMEOUT = 120.0


@dataclass(frozen=True)
class Layout:
    """Where one stack's state lies, and its ports."""

    state: Path
    ports: dict[str, int]

    def data(self, name: str) -> Path:
        """A service's data folder."""
        return self.state / "data" / name

    def conf(self, name: str) -> Path:
        """A service's generated configuration file."""
        return self.state / "conf" / name

    def log(self, name: str) -> Path:
        """A service's log file."""
        return self.state / "logs" / f"{name}.log"

    def status(self, name: str) -> Path:
        """The file in which a service tells its state."""
        return self.state / "services" / f"{name}.json"


@dataclass(frozen=True)
class Account:
    """A user that a process runs as."""

    name: str
    uid: int
    gid: int


def account(*candidates: str) -> Account:
    """The first of these users that exists if we are root (databases refuse to run as root), else ourselves."""
    names = candidates if os.getuid() == 0 else ()
    for name in names:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid)
    me = pwd.getpwuid(os.getuid())
    return Account(me.pw_name, me.pw_uid, me.pw_gid)


class ProcessService(Service):
    """One process. Subclasses say what to prepare, what to run and how health shows."""

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    """Services that are brought along."""
    after: ClassVar[tuple[str, ...]] = ()
    """Those of them that must be healthy before this one is launched."""
    components: ClassVar[tuple[Component, ...]] = ()
    port_names: ClassVar[tuple[str, ...]] = ()
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    orphan_signal: ClassVar[signal.Signals] = signal.SIGKILL
    users: ClassVar[tuple[str, ...]] = ("root",)

    abstract = True

    def __init__(self, layout: Layout, **kwargs: Any) -> None:
        self.layout = layout
        self._process: asyncio.subprocess.Process | None = None
        self._restarts = 0
        self._failed = False
        self._began = monotonic()
        super().__init__(**kwargs)

    # -- what subclasses say

    @property
    def port(self) -> int:
        """The main port."""
        return self.layout.ports[self.port_names[0]]

    async def prepare(self) -> None:
        """Write the configuration and, the first time, the data folder."""

    def command(self) -> list[str]:
        """What to run."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Environment variables beside the inherited ones."""
        return {}

    async def healthy(self) -> bool:
        """Whether it does its work; may raise OSError or httpx.HTTPError for 'not yet'."""
        raise NotImplementedError

    def endpoint(self) -> dict[str, Any]:
        """What `endpoints.json` says of it."""
        raise NotImplementedError

    # -- life

    async def on_start(self) -> None:
        """Prepare, launch, wait for health."""
        self._began = monotonic()
        self._tell("starting")
        try:
            self._refuse_taken_ports()
            await self.prepare()
            await self._launch()
            await self._until_healthy()
        except (StackError, OSError) as error:
            self._failed = True
            self._tell("failed", error=str(error))
            await self._end()
            raise
        self._tell("ready", seconds=monotonic() - self._began)

    async def on_stop(self) -> None:
        """Stop the process, by force if it doesn't in time."""
        await self._end()
        self.layout.status(self.name).unlink(missing_ok=True)

    async def stop_unless_failed(self) -> None:
        """Stop; the status of one that failed stays, to be read."""
        if self._failed:
            await self._end()
        else:
            await self.stop()

    @Service.task
    async def _watch(self) -> None:
        while not self.should_stop:
            process = self._process
            if process is None:
                return
            await self.wait(process.wait())
            if self.should_stop:
                return
            self._restarts += 1
            reason = f"{self.name} ended with status {process.returncode}"
            if self._restarts > MAX_RESTARTS:
                self._tell(
                    "failed", error=f"{reason}, {MAX_RESTARTS} restarts didn't help; see {self.layout.log(self.name)}"
                )
                return
            self._tell("restarting", error=reason)
            await self.sleep(0.2 * 2**self._restarts)
            await self._launch()
            await self._until_healthy()
            self._tell("ready", restarts=self._restarts)

    def _refuse_taken_ports(self) -> None:
        for name in self.port_names:
            port = self.layout.ports[name]
            if ports.listening(port):
                raise StackError(
                    f"{self.name}: port {port} is taken by {ports.owner(port)};"
                    " stop it, or shift the stack by --port-offset"
                )

    async def _launch(self) -> None:
        user = account(*self.users)
        log = self.layout.log(self.name)
        log.touch()
        os.chown(log, user.uid, user.gid) if os.getuid() == 0 else None
        with log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-S", "-E", str(LAUNCHER), str(int(self.orphan_signal)), str(user.uid), str(user.gid),
                *self.command(),
                stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, cwd=self.layout.state,
                env={**os.environ, **self.environment()}, start_new_session=True,
            )  # fmt: skip
        self._tell("starting")

    async def _until_healthy(self) -> None:
        process = self._process
        assert process is not None
        deadline, wait = monotonic() + START_TIMEOUT, 0.05
        while True:
            if process.returncode is not None:
                raise StackError(
                    f"{self.name} ended with status {process.returncode} while starting; {self._log_tail()}"
                )
            try:
                if await self.healthy():
                    return
            except (OSError, httpx.HTTPError):
                pass  # not yet: the deadline below says when that is an error
            if monotonic() > deadline:
                raise StackError(f"{self.name} isn't healthy after {START_TIMEOUT:.0f} s; {self._log_tail()}")
            await asyncio.sleep(wait)
            wait = min(0.5, wait * 1.5)

    async def _end(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.send_signal(self.stop_signal)
        try:
            await asyncio.wait_for(process.wait(), 20)
        except TimeoutError:
            process.kill()
            await process.wait()

    def _tell(self, state: str, **details: Any) -> None:
        status = {
            "name": self.name,
            "state": state,
            "port": self.port,
            "at": time(),
            "endpoint": self.endpoint(),
            "supervisor": os.getpid(),
            **details,
        }
        if self._process is not None:
            status["pid"] = self._process.pid
        write_whole(self.layout.status(self.name), json.dumps(status))

    def _log_tail(self) -> str:
        log = self.layout.log(self.name)
        lines = log.read_text(errors="replace").splitlines()[-15:] if log.exists() else []
        return "\n".join([f"{log} ends with:", *lines])


def write_whole(path: Path, text: str) -> None:
    """Write a file so that readers see the old or the new text, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text)
    beside.rename(path)


def alive(status: dict[str, Any]) -> bool:
    """Whether the supervisor that wrote a status still lives."""
    pid = status.get("supervisor")
    return isinstance(pid, int) and psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def own_folder(path: Path, user: Account) -> None:
    """Make a folder that belongs to a service's user."""
    path.mkdir(parents=True, exist_ok=True)
    if os.getuid() == 0:
        shutil.chown(path, user.uid, user.gid)
