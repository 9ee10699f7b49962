"""The supervisor: the parent of the services that one `up` started. `python -m stack.supervisor STATE OWNER NAME…`.

Starts them as their needs allow, keeps them running, and stops them on SIGTERM, each after those that need it. When
it dies, even by SIGKILL, the kernel ends its services (`stack/launch.py`). With an OWNER (a process id, 0 for none) it
stops when that process is gone: a test run that is killed leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import psutil

from stack.databases import MariaDb, Postgres, RegistryStorage
from stack.errors import StackError
from stack.lake import Catalog, ObjectStore
from stack.layout import Layout
from stack.service import ProcessService
from stack.streaming import Connect, Kafka, Registry

SERVICES: dict[str, type[ProcessService]] = {
    kind.name: kind for kind in (Kafka, RegistryStorage, Registry, Connect, Postgres, MariaDb, ObjectStore, Catalog)
}
"""All services, in an order in which each comes after what it needs."""


def with_needs(names: set[str]) -> list[str]:
    """These services and all that they need, in starting order. Raises StackError for an unknown name."""
    unknown = names - SERVICES.keys()
    if unknown:
        raise StackError(f"unknown service {', '.join(sorted(unknown))}; there are {', '.join(SERVICES)}")
    wanted = set(names)
    for name in reversed(SERVICES):
        if name in wanted:
            wanted.update(SERVICES[name].needs)
    return [name for name in SERVICES if name in wanted]


async def supervise(layout: Layout, names: list[str], owner: int) -> int:
    """Run these services until told to stop; 1 if one couldn't start."""
    services = {name: SERVICES[name](layout) for name in names}
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    starts = _start_all(services)
    starting: asyncio.Future[Any] = asyncio.gather(*starts)
    ending: asyncio.Future[Any] = asyncio.ensure_future(_until(stop, owner))
    try:
        await asyncio.wait({starting, ending}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done() and (error := starting.exception()) is not None:
            if not isinstance(error, StackError):  # a defect: the service's status tells no cause
                traceback.print_exception(error)
            return 1
        await ending
        return 0
    finally:
        # Those that are still starting are cancelled first: being stopped would look to them like a failed start,
        # and `up` might report that instead of the cause.
        for task in (ending, *starts):
            task.cancel()
        await asyncio.gather(ending, *starts, return_exceptions=True)
        await _stop_all(services)


def _start_all(services: dict[str, ProcessService]) -> list[asyncio.Task[None]]:
    ready = {name: asyncio.Event() for name in services}

    async def start(name: str) -> None:
        for need in services[name].after:
            if need in ready:
                await ready[need].wait()
        await services[name].start()
        ready[name].set()

    return [asyncio.create_task(start(name)) for name in services]


async def _stop_all(services: dict[str, ProcessService]) -> None:
    gone = {name: asyncio.Event() for name in services}

    async def stop(name: str) -> None:
        try:
            for other in services:
                if name in services[other].needs:
                    await gone[other].wait()
            await services[name].stop()
        finally:
            gone[name].set()

    await asyncio.gather(*(stop(name) for name in services))


async def _until(stop: asyncio.Event, owner: int) -> None:
    while not stop.is_set():
        if owner and not psutil.pid_exists(owner):
            return
        try:
            await asyncio.wait_for(stop.wait(), 1.0)
        except TimeoutError:
            continue


def main() -> None:
    """Entry point of the supervisor's process."""
    state, owner, *names = sys.argv[1:]
    ports = json.loads((Path(state) / "ports.json").read_text())
    sys.exit(asyncio.run(supervise(Layout(Path(state), ports), names, int(owner))))


if __name__ == "__main__":
    main()
