"""The supervisor: the parent of the services that one `up` started. `python -m stack.supervisor STATE OWNER NAME…`.

Starts them as their needs allow, keeps them running, and stops them in reverse on SIGTERM. When it dies, even by
SIGKILL, the kernel ends its services (`stack/launch.py`). With an OWNER (a process id, 0 for none) it stops when that
process is gone: a test run that is killed leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import psutil

from stack.databases import MariaDb, Postgres, RegistryStorage
from stack.errors import StackError
from stack.lake import Catalog, ObjectStore
from stack.service import Layout, ProcessService
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
    ready = {name: asyncio.Event() for name in names}
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    async def start(name: str) -> None:
        for need in services[name].after:
            if need in ready:
                await ready[need].wait()
        await services[name].start()
        ready[name].set()

    starting: asyncio.Future[Any] = asyncio.gather(*(start(name) for name in names))
    stopping: asyncio.Future[Any] = asyncio.ensure_future(stop.wait())
    failed = False
    try:
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done() and starting.exception() is not None:
            failed = True
            print(f"{starting.exception()}", flush=True)  # noqa: T201 - the supervisor's log
        else:
            await _until(stop, owner)
    finally:
        starting.cancel()
        stopping.cancel()
        for name in reversed(names):
            await services[name].stop_unless_failed()
    return 1 if failed else 0


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
