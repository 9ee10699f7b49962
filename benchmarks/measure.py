"""Watching a child process: CPU seconds between two moments, and its peak memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass
class Watch:
    """CPU seconds used since `mark`, and the peak resident size, of one process (children included in neither)."""

    pid: int
    _start: float = 0.0

    def mark(self) -> None:
        """Count CPU seconds from now on."""
        self._start = self._cpu()

    def cpu_seconds(self) -> float:
        """User and system seconds since `mark`."""
        return self._cpu() - self._start

    def peak_rss_mb(self) -> float:
        """The kernel's high-water mark of the resident set, in MB."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1000
        raise RuntimeError(f"no VmHWM for process {self.pid}")

    def _cpu(self) -> float:
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)
