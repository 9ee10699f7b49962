"""Watching a process and its children: CPU seconds between two moments, and peak memory."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import psutil


@dataclass
class Watch:
    """CPU seconds used since `mark`, and the peak resident size, of a process (with `family`, of its children, too:
    Spark's JVM is one)."""

    pid: int = field(default_factory=os.getpid)
    family: bool = False
    _start: float = 0.0

    def mark(self) -> None:
        """Count CPU seconds from now on."""
        self._start = self._cpu()

    def cpu_seconds(self) -> float:
        """User and system seconds since `mark`."""
        return self._cpu() - self._start

    def peak_rss_mb(self) -> float:
        """The kernel's high-water mark of the resident sets, in MB."""
        return sum(map(_peak_rss_mb, self._processes()))

    def _cpu(self) -> float:
        times = [process.cpu_times() for process in self._processes()]
        return float(sum(time.user + time.system for time in times))

    def _processes(self) -> list[psutil.Process]:
        process = psutil.Process(self.pid)
        children = process.children(recursive=True) if self.family else []
        return [process, *(child for child in children if child.status() != psutil.STATUS_ZOMBIE)]


def _peak_rss_mb(process: psutil.Process) -> float:
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"no VmHWM for process {process.pid}")
