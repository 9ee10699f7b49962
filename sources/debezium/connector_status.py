"""The state of a connector and its tasks, as Connect reports it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sources.debezium.connect_errors import summarise_trace

RUNNING = "RUNNING"
FAILED = "FAILED"


@dataclass(frozen=True)
class TaskStatus:
    """One task of a connector. `trace` is the Java stack trace of a failed one, else empty."""

    id: int
    state: str
    worker_id: str
    trace: str = ""


@dataclass(frozen=True)
class ConnectorStatus:
    """A connector and its tasks as Connect reports them (RUNNING, FAILED, PAUSED, UNASSIGNED, …)."""

    name: str
    state: str
    worker_id: str
    trace: str
    tasks: tuple[TaskStatus, ...]

    @classmethod
    def parse(cls, body: dict[str, Any]) -> ConnectorStatus:
        """From the JSON of `GET /connectors/{name}/status`."""
        tasks = (TaskStatus(t["id"], t["state"], t["worker_id"], t.get("trace", "")) for t in body["tasks"])
        connector = body["connector"]
        return cls(body["name"], connector["state"], connector["worker_id"], connector.get("trace", ""), tuple(tasks))

    @property
    def running(self) -> bool:
        """Whether the connector and all of its tasks run; one without tasks does not."""
        return self.state == RUNNING and bool(self.tasks) and all(task.state == RUNNING for task in self.tasks)

    @property
    def failure(self) -> str | None:
        """Why it failed, in one line; None if nothing has."""
        if self.state == FAILED:
            return f"connector {self.name} failed: {summarise_trace(self.trace)}"
        for task in self.tasks:
            if task.state == FAILED:
                return f"task {task.id} of connector {self.name} failed: {summarise_trace(task.trace)}"
        return None
