"""What a process changes outside of itself, counted by a library that is preloaded into it; and faults at these steps.

A step is a system call that changes a file under one of the watched folders, or sends over TCP, whatever library makes
it: so the list of steps comes from the running code, and a step that is new tomorrow is killed at tomorrow. `outside.c`
is the other side; it is compiled when first needed.
"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import re
import signal
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

SOURCE = Path(__file__).with_name("outside.c")
BUILT = Path(__file__).parents[1] / ".stack/outside"
MAGIC = 0x1A6E3A2D
_CHANGING = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{10,}|\d+")


class _Control(ctypes.Structure):
    """The shared page; as in outside.c."""

    _fields_ = (
        ("magic", ctypes.c_uint32),
        ("armed", ctypes.c_int32),
        ("steps", ctypes.c_int64),
        ("fault_at", ctypes.c_int64),
        ("action", ctypes.c_int32),
        ("after", ctypes.c_int32),
        ("full", ctypes.c_int32),
        ("no_names", ctypes.c_int32),
        ("clock_ns", ctypes.c_int64),
        ("only", ctypes.c_char * 1024),
        ("folders", ctypes.c_char * 2048),
    )


class Outside:
    """The page that is shared with one process, which is started with `environment`.

    `folders`: the watched ones. Everything can be set while the process runs.
    """

    def __init__(self, place: Path, *folders: Path) -> None:
        place.mkdir(parents=True, exist_ok=True)
        page = place / "page"
        page.write_bytes(bytes(ctypes.sizeof(_Control)))
        self._share(page)
        self.watch(*folders)
        self._page.fault_at = -1
        self._page.magic = MAGIC

    def _share(self, page: Path) -> None:
        self._page_file, self.log = page, page.with_name("steps")
        with page.open("r+b") as file:
            self._page = _Control.from_buffer(mmap.mmap(file.fileno(), 0))

    @classmethod
    def of_this_process(cls) -> Outside:
        """The page of the process that calls, from inside."""
        outside = cls.__new__(cls)
        outside._share(Path(os.environ["LAKEWARD_OUTSIDE"]))
        return outside

    def watch(self, *folders: Path) -> None:
        """Watch these folders, and no other ones."""
        self._page.folders = "\n".join(str(folder.resolve()) for folder in folders).encode()

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables for the process to start with."""
        return {"LD_PRELOAD": str(library()), "LAKEWARD_OUTSIDE": str(self._page_file),
                "LAKEWARD_OUTSIDE_LOG": str(self.log)}  # fmt: skip

    # -- steps

    def arm(
        self, fault_at: int | None = None, action: int = signal.SIGKILL, *, after: bool = False, only: str = ""
    ) -> None:
        """Count steps from 0, those of a kind or all; at number `fault_at` the process gets a signal, before
        the call is made or, as one whose answer is lost, when it has been."""
        self._page.armed = 0
        self._page.only = only.encode()
        self._page.action, self._page.after = action, after
        self._page.fault_at = -1 if fault_at is None else fault_at
        self._page.steps = 0
        self.log.write_bytes(b"")
        self._page.armed = 1

    def disarm(self) -> None:
        """Count no more."""
        self._page.armed = 0

    @property
    def steps(self) -> int:
        """How many there were since `arm`."""
        return int(self._page.steps)

    @property
    def struck(self) -> bool:
        """Whether the step came that the signal was set at."""
        return bool(0 <= self._page.fault_at < self.steps)

    # -- what may go wrong at any time

    def fill(self, *, full: bool = True) -> None:
        """Nothing more fits into the watched folders (ENOSPC), or it does again."""
        self._page.full = full

    def forget_names(self, *, forgotten: bool = True) -> None:
        """Host names can't be looked up (EAI_AGAIN), or can again."""
        self._page.no_names = forgotten

    def move_clock(self, seconds: float) -> None:
        """The wall clock is so far ahead of the true one (or behind, if negative)."""
        self._page.clock_ns = round(seconds * 1e9)


def library() -> Path:
    """The compiled library; RuntimeError with the compiler's words if it can't be made."""
    built = BUILT / f"outside-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]}.so"
    if not built.exists():
        BUILT.mkdir(parents=True, exist_ok=True)
        fresh = built.with_suffix(f".{id(built)}")
        command = ["gcc", "-O2", "-shared", "-fPIC", "-o", str(fresh), str(SOURCE), "-ldl"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
        fresh.rename(built)
    return built


def kinds(lines: Iterable[str]) -> dict[str, list[int]]:
    """Steps by what they do: their lines without ids and numbers -> the numbers of the steps."""
    found: dict[str, list[int]] = {}
    for number, line in enumerate(lines):
        found.setdefault(_CHANGING.sub("#", line), []).append(number)
    return found
