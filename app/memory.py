"""Whether there is memory enough for a worker's tables, as far as its limits tell.

What a worker needs depends on its changes: for five tables and a lag of rows of 320 kB it is 0.6 to 0.9 GB beside what
the worker is without work. `max_buffered_bytes` lowers it.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import structlog

from config.errors import ConfigurationError

log = structlog.get_logger("lakeward.memory")

WORK_BYTES, TABLE_BYTES = 256 << 20, 128 << 20
"""What a worker should have beside what it has taken when it begins to read, and more of it for each table."""

THREADS_BYTES = 256 << 20
"""Address space that stacks and arenas of threads come to take, used or not."""


@dataclass(frozen=True)
class Limit:
    """A bound of a worker's memory, and how much of it isn't used; bytes."""

    name: str
    bound: int
    free: int


def address_space() -> Iterator[Limit]:
    """RLIMIT_AS, if it is set."""
    bound, _ = resource.getrlimit(resource.RLIMIT_AS)
    if bound != resource.RLIM_INFINITY:
        yield Limit("the address space (RLIMIT_AS, `ulimit -v`)", bound, bound - psutil.Process().memory_info().vms)


def container(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Iterator[Limit]:
    """The memory limits of the control groups (version 2) that the worker is in, if there are any."""
    try:
        group = next(line[3:] for line in own.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return
    folder = root / group.strip("/")
    for place in (folder, *folder.parents):
        if not place.is_relative_to(root):
            return
        try:
            bound, used = (place / "memory.max").read_text().strip(), int((place / "memory.current").read_text())
        except OSError:  # the root has no limit
            continue
        if bound != "max":
            yield Limit("the container's memory", int(bound), int(bound) - used)


def check(tables: int) -> None:
    """Refuse an address space in which the worker would be ended by the first library that gets no memory (some abort
    the process); warn of a container that may be too small.

    Raises ConfigurationError with the way out.
    """
    wanted = WORK_BYTES + tables * TABLE_BYTES
    for limit in address_space():
        if limit.free < wanted + THREADS_BYTES:
            raise ConfigurationError(_told(limit, wanted + THREADS_BYTES, tables))
    for limit in container():
        if limit.free < wanted:
            log.warning("worker.memory_tight", reason=_told(limit, wanted, tables))


def _told(limit: Limit, wanted: int, tables: int) -> str:
    return (
        f"{limit.name} is limited to {limit.bound >> 20} MB, of which {max(0, limit.free) >> 20} MB are free:"
        f" {wanted >> 20} MB should be, for {tables} tables. Raise the limit, or let this worker write fewer tables"
    )
