"""Following a worker's log while it is written: which offsets each sink has reached, which commits are under way.

The end-to-end and kill tests steer by it: they wait for the line that they want to kill behind.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from stack.worker import WorkerDied, WorkerProcess

POLL_SECONDS = 0.002
"""A commit takes a few hundredths of a second: a kill inside it can't wait longer to see it."""


class WorkerLog:
    """Reads what a worker has logged since its last `start`; made anew for each start."""

    def __init__(self, worker: WorkerProcess) -> None:
        self._worker = worker
        self._file = worker.log.open("rb")
        self._file.seek(worker.log_start)
        self._rest = b""
        self.assigned: dict[str, dict[str, int | None]] = {}
        """`topic/partition` -> sink -> next offset, as of the last assignment."""
        self.first_assigned: dict[str, dict[str, int | None]] | None = None
        """The same, as of the first assignment."""
        self.next: dict[str, dict[str, int]] = {}
        """sink -> `topic/partition` -> next offset, as of the assignment and the commits since."""
        self.started: Counter[str] = Counter()
        """Commits begun, per sink."""
        self.committed: Counter[str] = Counter()
        """Commits that landed, per sink."""
        self.rows: Counter[str] = Counter()
        """Rows in them, per sink."""
        self.watermarks: Counter[str] = Counter()
        """Watermarks written, per sink."""
        self.seconds: dict[str, list[float]] = {}
        """How long the commits took, per sink."""

    def in_commit(self, sink: str) -> bool:
        """Whether a commit has begun whose watermark isn't written."""
        return self.started[sink] > self.watermarks[sink]

    def reached(self, ends: dict[str, int], *sinks: str) -> bool:
        """Whether each sink has all of these partitions (`topic/partition` -> end) up to their ends."""
        return all(self.next.get(sink, {}).get(tp, 0) >= end for sink in sinks for tp, end in ends.items())

    def has_all(self, ends: dict[str, int], *sinks: str) -> bool:
        """Whether each sink has those of these partitions that the worker holds (one at least) up to their ends."""
        held = {tp: end for tp, end in ends.items() if tp in self.assigned}
        return bool(held) and self.reached(held, *sinks)

    def wait_for(self, condition: Callable[[], Any], what: str, timeout: float = 180.0) -> None:
        """Read on until `condition` holds; WorkerDied if the worker ends before, TimeoutError else."""
        deadline = time.monotonic() + timeout
        while True:
            alive = self._worker.running()  # before reading: the last lines of one that ended count
            self.read()
            if condition():
                return
            if not alive:
                raise WorkerDied(
                    f"the worker ended while waiting for {what}; its log ends with:\n{self._worker.tail()}"
                )
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {what} within {timeout:.0f} s; the log ends with:\n{self._worker.tail()}")
            time.sleep(POLL_SECONDS)

    def read(self) -> None:
        """Take in the whole lines that were written since the last call."""
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        for line in lines:
            if line.startswith(b"{"):
                self._take(json.loads(line))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _take(self, event: dict[str, Any]) -> None:
        match event["event"]:
            case "pipeline.partitions_assigned":
                self.assigned = event["partitions"]
                if self.first_assigned is None:
                    self.first_assigned = self.assigned
                for tp, sinks in self.assigned.items():
                    for sink, offset in sinks.items():
                        self.next.setdefault(sink, {})[tp] = offset or 0
            case "sink.commit_started":
                self.started[_sink(event)] += 1
            case "sink.committed":
                self.committed[_sink(event)] += 1
                self.rows[_sink(event)] += event["rows"]
                self.next.setdefault(_sink(event), {}).update(event["next"])
                self.seconds.setdefault(_sink(event), []).append(event["seconds"])
            case "watermark.written":
                self.watermarks[event["sink"]] += 1


def _sink(event: dict[str, Any]) -> str:
    return str(event["writer"]).split(" → ")[0]
