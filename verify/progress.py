"""Says how far a long comparison has come."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

Say = Callable[[str], None]
"""Takes one line for the user; may be called from any thread."""

EVERY_SECONDS = 5.0


class Progress:
    """Rows of one pass over one side; says so every few seconds. `total`: about how many there are, 0 if unknown."""

    def __init__(self, what: str, total: int, say: Say) -> None:
        self._what = what
        self._total = total
        self._say = say
        self._began = self._said = monotonic()
        self.rows = 0

    def advance(self, rows: int) -> None:
        """So many more rows have been read."""
        self.rows += rows
        now = monotonic()
        if now - self._said >= EVERY_SECONDS:
            self._said = now
            rate = self.rows / (now - self._began)
            of = f" of about {self._total:,}" if self._total > self.rows else ""
            self._say(f"{self._what}: {self.rows:,}{of} rows, {rate:,.0f}/s")
