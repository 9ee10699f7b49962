"""The folder that a worker owns under CDC_DATA_DIR, and with it the worker's stable identity.

Workers on one machine take `worker-0`, `worker-1`, … by file lock, the first free one: a worker that restarts finds
the folder (key index, tables) that it left. The folder's random id is the consumer's static membership id (KIP-345):
a worker that comes back within the session timeout keeps its partitions without a rebalance. A copy of a folder has
another id: of two members with one id, each throws the other out of the group.
"""

from __future__ import annotations

import fcntl
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import IO
from uuid import uuid4


@dataclass
class WorkerDir:
    """An owned folder. The lock is the open file's: it is let go when the process ends, however it ends."""

    path: Path
    instance_id: str
    _lock: IO[str]

    @classmethod
    def acquire(cls, root: Path) -> WorkerDir:
        """The first folder `root/worker-N` that no living process owns, created if needed."""
        for number in count():
            path = root / f"worker-{number}"
            path.mkdir(parents=True, exist_ok=True)
            lock = (path / "lock").open("a+")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                continue
            return cls(path, _identity(path / "instance-id"), lock)
        raise AssertionError("unreachable")


def _identity(file: Path) -> str:
    """The id in the file, which knows its inode and so its copies; a new one where there is none, or another's."""
    file.touch()
    inode = str(file.stat().st_ino)
    match file.read_text().split():
        case [found, where] if where == inode:
            return found
    identity = uuid4().hex
    file.write_text(f"{identity} {inode}\n")
    return identity
