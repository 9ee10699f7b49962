"""An async client of Kafka Connect's REST interface, as far as Debezium connectors need it.

Reads answer None or False for a connector that doesn't exist; every other refusal raises with Connect's own message
(`connect_errors.py`). What may pass by itself (connection refused, timeouts, HTTP 5xx, 409 while the workers
rebalance) is tried again, with a log line per wait, before `ConnectUnavailable` is raised.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx

from config.platform import ConnectorConfig
from sources.debezium.connect_errors import (
    ConnectError,
    ConnectorExists,
    ConnectorFailed,
    ConnectorMissing,
    ConnectUnavailable,
)
from sources.debezium.connector_status import ConnectorStatus
from sources.retries import retrying

POLL_SECONDS = 0.25
"""How often `wait_until_running` asks."""

STALE_FAILURE_SECONDS = 3.0
"""How long a FAILED state must last to be believed: after an update or a restart Connect still shows the old one."""


class DebeziumClient:
    """Use as an async context manager, or call `close`.

    `transport` replaces the network, for tests of faults only.
    """

    def __init__(
        self,
        connect_url: str,
        *,
        timeout_seconds: float = 30.0,
        retry_max_attempts: int = 5,
        retry_wait_seconds: float = 2.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        url = httpx.URL(connect_url)
        self.address = str(url.copy_with(userinfo=b""))
        self._attempts = retry_max_attempts
        self._wait = retry_wait_seconds
        self._http = httpx.AsyncClient(base_url=url, timeout=timeout_seconds, transport=transport)

    @classmethod
    def from_config(cls, config: ConnectorConfig) -> DebeziumClient:
        """The client that the platform configuration describes."""
        return cls(
            config.connect_url,
            timeout_seconds=config.timeout_seconds,
            retry_max_attempts=config.retry_max_attempts,
            retry_wait_seconds=config.retry_wait_seconds,
        )

    async def __aenter__(self) -> DebeziumClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        await self._http.aclose()

    # -- reading

    async def version(self) -> str:
        """Connect's own version: the cheapest question that shows that it answers."""
        return str((await self._request("GET", "/"))["version"])

    async def list(self) -> list[str]:
        """The names of all connectors."""
        names: list[str] = await self._request("GET", "/connectors")
        return names

    async def get(self, name: str) -> dict[str, str] | None:
        """A connector's configuration, None if there is no such connector. It may hold passwords."""
        try:
            info = await self._request("GET", _path(name))
        except ConnectorMissing:
            return None
        config: dict[str, str] = info["config"]
        return config

    async def exists(self, name: str) -> bool:
        """Whether there is a connector of this name."""
        return await self.get(name) is not None

    async def status(self, name: str) -> ConnectorStatus | None:
        """What the connector and its tasks are doing; None if Connect knows no status of it (yet)."""
        try:
            return ConnectorStatus.parse(await self._request("GET", _path(name, "status")))
        except ConnectorMissing:
            return None

    async def is_running(self, name: str) -> bool:
        """Whether the connector and all of its tasks run."""
        status = await self.status(name)
        return status is not None and status.running

    async def topics(self, name: str) -> tuple[str, ...]:
        """The topics that the connector has written to so far."""
        body = await self._request("GET", _path(name, "topics"))
        return tuple(body[name]["topics"])

    async def offsets(self, name: str) -> tuple[dict[str, Any], ...]:
        """How far the connector has come: all that it sent up to there has been acknowledged by Kafka.

        One flat map per part of the source, with the connector's own keys (`lsn`; `file`, `pos`); none before the
        first is kept. Connect keeps them every `offset.flush.interval.ms` (60 s by default).
        """
        body = await self._request("GET", _path(name, "offsets"))
        return tuple(entry["offset"] for entry in body["offsets"] if entry.get("offset") is not None)

    async def plugins(self) -> dict[str, str]:
        """The versions of the connector plugins that Connect has, by class name."""
        return {p["class"]: p.get("version", "") for p in await self._request("GET", "/connector-plugins")}

    # -- changing

    async def create(self, name: str, config: Mapping[str, str]) -> None:
        """Create a connector; raises `ConnectorExists` if there is one of this name."""
        body = {"name": name, "config": dict(config)}
        lost_answers = 0
        async for attempt in self._retrying():
            with attempt:
                try:
                    await self._once("POST", "/connectors", body)
                except ConnectUnavailable:
                    lost_answers += 1
                    raise
                except ConnectorExists:
                    # An earlier attempt whose answer was lost may have created it.
                    if not lost_answers or await self.get(name) != {**config, "name": name}:
                        raise

    async def update(self, name: str, config: Mapping[str, str]) -> None:
        """Set a connector's configuration (PUT), creating the connector if there is none."""
        await self._request("PUT", _path(name, "config"), dict(config))

    async def delete(self, name: str) -> bool:
        """Delete a connector; False if there is none."""
        try:
            await self._request("DELETE", _path(name))
        except ConnectorMissing:
            return False
        return True

    async def ensure_deleted(self, name: str, timeout: float = 30.0) -> bool:
        """Delete a connector and wait until its tasks have stopped; False if there was none."""
        existed = await self.delete(name)
        deadline = time.monotonic() + timeout
        while await self.status(name) is not None:
            if time.monotonic() > deadline:
                raise ConnectUnavailable(f"Kafka Connect at {self.address} still stops connector {name}: try again")
            await asyncio.sleep(POLL_SECONDS)
        return existed

    async def restart(self, name: str, *, only_failed: bool = False) -> None:
        """Restart the connector and its tasks."""
        query = f"restart?includeTasks=true&onlyFailed={str(only_failed).lower()}"
        await self._request("POST", _path(name, query))

    async def pause(self, name: str) -> None:
        """Pause the connector; its state becomes PAUSED a little later."""
        await self._request("PUT", _path(name, "pause"))

    async def stop(self, name: str) -> None:
        """Stop a connector's tasks but keep its configuration and offsets; its state becomes STOPPED a little later."""
        await self._request("PUT", _path(name, "stop"))

    async def reset_offsets(self, name: str, timeout: float = 30.0) -> None:
        """Forget how far a connector has read the source, so that the next one of its name starts with a snapshot.

        Stops the connector first. Raises `ConnectorMissing` if there is none.
        """
        await self.stop(name)
        deadline = time.monotonic() + timeout
        while (status := await self.status(name)) is not None and (status.state != "STOPPED" or status.tasks):
            if time.monotonic() > deadline:
                raise ConnectUnavailable(f"Kafka Connect at {self.address} still stops connector {name}: try again")
            await asyncio.sleep(POLL_SECONDS)
        await self._request("DELETE", _path(name, "offsets"))

    async def resume(self, name: str) -> None:
        """Let a paused connector go on."""
        await self._request("PUT", _path(name, "resume"))

    async def wait_until_running(self, name: str, timeout: float = 60.0, *, steady: float = 0.0) -> ConnectorStatus:
        """Wait until the connector and its tasks have run for `steady` seconds without a break.

        Raises `ConnectorFailed` when it failed (for longer than a state of before a restart would show), and
        `ConnectUnavailable` when it runs not after `timeout` seconds.
        """
        start = time.monotonic()
        running_since: float | None = None
        failed_since: float | None = None
        status: ConnectorStatus | None = None
        while (now := time.monotonic()) < start + timeout:
            status = await self.status(name)
            if status is not None and status.running:
                running_since = running_since or now
                if now - running_since >= steady:
                    return status
            else:
                running_since = None
            if status is not None and status.failure:
                failed_since = failed_since or now
                if now - failed_since >= STALE_FAILURE_SECONDS:
                    raise ConnectorFailed(status.failure)
            else:
                failed_since = None
            await asyncio.sleep(POLL_SECONDS)
        states = "no status" if status is None else ", ".join([status.state, *(task.state for task in status.tasks)])
        raise ConnectUnavailable(f"connector {name} at {self.address} doesn't run after {timeout:.0f} s ({states})")

    # -- requests

    def _retrying(self) -> Any:
        return retrying(f"Kafka Connect at {self.address}", self._attempts, self._wait)

    async def _request(self, method: str, path: str, body: Any = None) -> Any:
        async for attempt in self._retrying():
            with attempt:
                return await self._once(method, path, body)
        raise AssertionError("the last attempt returns or raises")

    async def _once(self, method: str, path: str, body: Any) -> Any:
        try:
            response = await self._http.request(method, path, json=body)
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise ConnectUnavailable(f"Kafka Connect at {self.address} doesn't answer: {reason}") from error
        if response.is_success:
            return response.json() if response.content else None
        raise self._refusal(response)

    def _refusal(self, response: httpx.Response) -> ConnectError | ConnectUnavailable:
        message = _connect_message(response)
        where = f"Kafka Connect at {self.address}"
        status = response.status_code
        if status == 409 and "already exists" in message:
            return ConnectorExists(f"{where}: {message}", status=status)
        if status == 409 or status >= 500 or status == 429:
            return ConnectUnavailable(f"{where} can't do it now (HTTP {status}): {message}")
        if status == 404:
            return ConnectorMissing(f"{where}: {message}", status=status)
        return ConnectError(f"{where} refused (HTTP {status}): {message}", status=status)


def _path(name: str, rest: str = "") -> str:
    path = f"/connectors/{quote(name, safe='')}"
    return f"{path}/{rest}" if rest else path


def _connect_message(response: httpx.Response) -> str:
    """Connect's message out of its JSON body, or what a proxy in front of it said."""
    try:
        message = response.json()["message"]
    except (ValueError, KeyError, TypeError):
        message = response.text
    lines = [line.strip() for line in str(message).splitlines() if "config/validate" not in line and line.strip()]
    return " ".join(lines) or response.reason_phrase
