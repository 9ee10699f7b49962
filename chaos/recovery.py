"""How long after a fault's end every sink has what was in the topics then."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic
from typing import Any

Where = tuple[str, str, int]
"""Sink, topic, Kafka partition."""


@dataclass
class Recovery:
    """Asked again and again with what a worker of the pipeline tells."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    """By kind of fault."""
    _open: list[tuple[str, float, dict[Where, int] | None]] = field(default_factory=list)

    def fault_ended(self, kind: str) -> None:
        """From now on it is waited for."""
        self._open.append((kind, monotonic(), None))

    @property
    def is_waiting(self) -> bool:
        """Whether there is a fault that not every sink has got over."""
        return bool(self._open)

    def look(self, stats: dict[str, Any]) -> None:
        """Take in where the sinks stand and how far the topics reach."""
        ends: dict[Where, int] = {}
        stand: dict[Where, int] = {}
        for row in stats["partitions"]:
            where = row["sink_id"], row["topic"], row["partition"]
            ends[where], stand[where] = row["log_end"] or 0, row["next_offset"] or 0
        still: list[tuple[str, float, dict[Where, int] | None]] = []
        for kind, since, wanted in self._open:
            goal = wanted if wanted is not None else ends
            if all(stand.get(where, 0) >= end for where, end in goal.items()):
                self.seconds.setdefault(kind, []).append(monotonic() - since)
            else:
                still.append((kind, since, goal))
        self._open = still
