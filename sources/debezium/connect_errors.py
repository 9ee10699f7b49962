"""What Kafka Connect answers when it can't or won't, each with Connect's own message.

ConfigurationError
├── ConnectError           Connect refused a request: the configuration has to change
│   ├── ConnectorExists    a connector of this name exists already
│   └── ConnectorMissing   there is no connector of this name
└── ConnectorFailed        the connector or one of its tasks is in state FAILED
Unavailable
└── ConnectUnavailable     Connect is away, starting, rebalancing or broken: the same call may succeed later
"""

from __future__ import annotations

from config.errors import ConfigurationError, Unavailable


class ConnectError(ConfigurationError):
    """Connect refused a request. `status` is the HTTP status."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class ConnectorExists(ConnectError):
    """A connector of this name exists already."""


class ConnectorMissing(ConnectError):
    """There is no connector of this name."""


class ConnectorFailed(ConfigurationError):
    """The connector, or one of its tasks, failed; the message holds the first line of its trace and the root cause."""


class ConnectUnavailable(Unavailable):
    """Connect didn't answer, is rebalancing, or had an error of its own."""


def summarise_trace(trace: str) -> str:
    """The first line of a Java stack trace and its innermost cause: what an operator needs to read."""
    lines = [line.strip() for line in trace.splitlines() if line.strip()]
    if not lines:
        return "no reason given"
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    if not causes or causes[-1] in lines[0]:
        return lines[0]
    return f"{lines[0]} — caused by {causes[-1]}"
