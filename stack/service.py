"""What every service of the stack is: a `mode` Service that supervises one real process.

Starting one means: prepare (configuration, first-time data), launch, and poll `healthy` with backoff until it answers
or the process dies. A process that dies later is started again while the other services go on, up to `MAX_RESTARTS`
times without having run steadily in between; its log file is appended to. Progress and state go to
`services/<name>.json`, which `cdc stack up` and `status` read.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from time import monotonic, time
from typing import Any, ClassVar

import httpx
from mode import Service

from stack.dist import Component
from stack.errors import StackError
from stack.layout import Account, Layout, account, write_whole

LAUNCHER = Path(__file__).with_name("launch.py")
MAX_RESTARTS = 5
STEADY_SECONDS = 10.0
"""A service that was healthy for this long may be started again as often as at first."""
START_TIMEOUT = 120.0
JAVA_FRAMES = ("\tat ", "\t... ")
"""How the lines of a Java stack trace begin that bury its causes."""


def launched(command: list[str], user: Account, orphan_signal: signal.Signals = signal.SIGKILL) -> list[str]:
    """The command, run as `user`, ended by `orphan_signal` when this process dies. Start it from the main thread."""
    launcher = [sys.executable, "-S", "-E", str(LAUNCHER), str(os.getpid()), str(int(orphan_signal))]
    return [*launcher, str(user.uid), str(user.gid), *command]


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
        self._restarts = self._attempts = 0
        self._failed = False
        self._began = self._ready_at = monotonic()
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
            await self.prepare()
            await self._launch("starting")
            await self._until_healthy()
        except (StackError, OSError) as error:
            self._failed = True
            self._tell("failed", error=str(error))
            await self._end()
            raise
        self._ready_at = monotonic()
        self._tell("ready", seconds=self._ready_at - self._began)

    async def on_stop(self) -> None:
        """Stop the process, by force if it doesn't in time."""
        await self._end()

    async def on_shutdown(self) -> None:
        """Stop what a restart that was under way has launched meanwhile; the status of one that failed stays."""
        await self._end()
        if not self._failed:
            self.layout.status(self.name).unlink(missing_ok=True)

    @Service.task
    async def _watch(self) -> None:
        while not self.should_stop and not self._failed:
            process = self._process
            assert process is not None, "started before it is watched"
            await self.wait(process.wait())
            if not self.should_stop:
                await self._restart(f"{self.name} ended with status {process.returncode}")

    async def _restart(self, reason: str) -> None:
        """Launch it again, also when a new start fails: a killed database may need a while to let go of its files."""
        if monotonic() - self._ready_at > STEADY_SECONDS:
            self._attempts = 0
        while self._attempts < MAX_RESTARTS:
            self._attempts += 1
            self._restarts += 1
            self._tell("restarting", error=reason)
            await self.sleep(0.2 * 2**self._attempts)
            if self.should_stop:
                return
            try:
                await self._launch("restarting", error=reason)
                await self._until_healthy()
            except (StackError, OSError) as error:
                reason = str(error)
                await self._end()
                continue
            self._ready_at = monotonic()
            self._tell("ready")
            return
        self._failed = True
        self._tell("failed", error=f"{self.name}: {MAX_RESTARTS} restarts didn't help; {reason}")

    async def _launch(self, state: str, **details: str) -> None:
        user = account(*self.users)
        log = self.layout.log(self.name)
        log.touch()
        if os.getuid() == 0:
            os.chown(log, user.uid, user.gid)
        with log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *launched(self.command(), user, self.orphan_signal),
                stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, cwd=self.layout.state,
                env={**os.environ, **self.environment()}, start_new_session=True,
            )  # fmt: skip
        self._tell(state, **details)

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
            "restarts": self._restarts,
            **details,
        }
        if self._process is not None:
            status["pid"] = self._process.pid
        write_whole(self.layout.status(self.name), json.dumps(status))

    def _log_tail(self) -> str:
        log = self.layout.log(self.name)
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        telling = [line for line in lines if not line.startswith(JAVA_FRAMES)]
        return "\n".join([f"{log} ends with:", *telling[-15:]])
