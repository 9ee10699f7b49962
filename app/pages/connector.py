"""What Kafka Connect says of the pipeline's connector, for `/readyz`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from config.errors import LakewardError
from config.platform import ConnectorConfig
from sources.debezium.client import DebeziumClient
from sources.debezium.connector_status import FAILED

CACHE_SECONDS = 5.0
TIMEOUT_SECONDS = 2.0

UNREACHABLE = "UNREACHABLE"
NOT_DEPLOYED = "NOT_DEPLOYED"


@dataclass(frozen=True)
class ConnectorState:
    """The connector's and its tasks' states in Connect's words, or UNREACHABLE, or NOT_DEPLOYED; and why."""

    state: str
    tasks: tuple[str, ...] = ()
    error: str | None = None

    @property
    def failed(self) -> bool:
        """Whether Connect says that changes don't arrive any more."""
        return FAILED in (self.state, *self.tasks)


class ConnectorWatch:
    """Asks Connect with a short timeout, at most every `CACHE_SECONDS`."""

    def __init__(self, config: ConnectorConfig, name: str, redact: Callable[[str], str]) -> None:
        self._config = config.model_copy(update={"retry_max_attempts": 1, "timeout_seconds": TIMEOUT_SECONDS})
        self._name = name
        self._redact = redact
        self._known: ConnectorState | None = None
        self._asked_at = 0.0
        self._asking = asyncio.Lock()

    async def state(self) -> ConnectorState:
        """The state, a few seconds old at most."""
        async with self._asking:  # probes that come together ask once
            if self._known is None or monotonic() - self._asked_at > CACHE_SECONDS:
                self._known = await self._ask()
                self._asked_at = monotonic()
            return self._known

    async def _ask(self) -> ConnectorState:
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS), DebeziumClient.from_config(self._config) as connect:
                status = await connect.status(self._name)
        except TimeoutError:
            return ConnectorState(UNREACHABLE, error=f"no answer from Kafka Connect within {TIMEOUT_SECONDS:g} s")
        except LakewardError as error:
            return ConnectorState(UNREACHABLE, error=self._redact(str(error)))
        if status is None:
            return ConnectorState(NOT_DEPLOYED, error=f"connector {self._name} isn't deployed: `cdc deploy` creates it")
        failure = self._redact(status.failure) if status.failure is not None else None
        return ConnectorState(status.state, tuple(task.state for task in status.tasks), failure)
