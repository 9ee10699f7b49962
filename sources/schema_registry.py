"""What a schema registry knows of subjects: their versions, and whether one is compatible with those before it.

Over the Confluent-compatible REST API. Which versions a check concerns is told by the subject's mode: the one before,
or with the `_TRANSITIVE` modes all of them. Apicurio says NONE where only its global rule is set, but enforces that; so
the registry is asked in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args
from urllib.parse import quote

import httpx
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from config.errors import ConfigurationError, Unavailable
from config.registry import CompatibilityMode, SchemaRegistryConfig

_MEDIA_TYPE = "application/vnd.schemaregistry.v1+json"


@dataclass(frozen=True)
class Registered:
    """A version of a subject: its number, the registry's id of the schema, and the schema as the registry takes it."""

    subject: str
    version: int
    schema_id: int
    body: dict[str, Any]


class SchemaRegistry:
    """A client of one registry; connects when it is used. All methods raise Unavailable while the registry is away or
    gives an answer that isn't understood, ConfigurationError if it refuses the credentials."""

    def __init__(
        self,
        config: SchemaRegistryConfig,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        wait: Callable[..., float] | None = None,
    ) -> None:
        password = config.password.get_secret_value() if config.password else ""
        auth = httpx.BasicAuth(config.username, password) if config.username else None
        self._config = config
        self._client = httpx.AsyncClient(
            base_url=config.url, timeout=config.timeout_seconds, auth=auth, transport=transport
        )
        self._retrying = AsyncRetrying(
            retry=retry_if_exception_type(Unavailable),
            stop=stop_after_attempt(config.max_retries + 1),
            wait=wait or wait_exponential_jitter(multiplier=0.2, max=5.0),
            reraise=True,
        )

    async def versions(self, subject: str) -> list[int]:
        """The numbers of a subject's versions, oldest first; none if there is no such subject."""
        found = await self._ask("GET", f"subjects/{quote(subject, safe='')}/versions")
        return sorted(found or [])

    async def version(self, subject: str, number: int) -> Registered | None:
        """One version, None if it isn't there (any more)."""
        found = await self._ask("GET", f"subjects/{quote(subject, safe='')}/versions/{number}")
        if found is None:
            return None
        body = {name: found[name] for name in ("schema", "schemaType", "references") if found.get(name)}
        return Registered(subject, number, int(found["id"]), body)

    async def mode(self, subject: str) -> CompatibilityMode:
        """The mode of a subject, or the global one."""
        found = await self._ask("GET", f"config/{quote(subject, safe='')}", params={"defaultToGlobal": "true"})
        level = (found or {}).get("compatibilityLevel", "NONE")
        if level not in get_args(CompatibilityMode):
            raise Unavailable(f"schema registry {self._config.url}: the compatibility mode {level} is unknown")
        mode: CompatibilityMode = level
        return mode

    async def set_mode(self, subject: str, mode: CompatibilityMode) -> None:
        """Have the registry enforce a mode for a subject, which must be there."""
        if await self._ask("PUT", f"config/{quote(subject, safe='')}", json={"compatibility": mode}) is None:
            raise Unavailable(f"schema registry {self._config.url} has no subject {subject} yet")

    async def is_compatible(self, new: Registered, earlier: Sequence[int]) -> bool:
        """Whether a version is compatible with the `earlier` ones (oldest first), as far as the subject's mode wants
        it. One that is gone meanwhile is compatible with everything."""
        if not earlier:
            return True
        concerned = earlier if (await self.mode(new.subject)).endswith("_TRANSITIVE") else earlier[-1:]
        for number in concerned:
            path = f"compatibility/subjects/{quote(new.subject, safe='')}/versions/{number}"
            found = await self._ask("POST", path, json=new.body)
            if found is not None and not found["is_compatible"]:
                return False
        return True

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.aclose()

    async def _ask(self, method: str, path: str, **more: Any) -> Any:
        """The parsed answer, None for 404."""
        async for attempt in self._retrying:
            with attempt:
                return await self._request(method, path, **more)
        raise AssertionError("tenacity raises after the last attempt")

    async def _request(self, method: str, path: str, **more: Any) -> Any:
        where = f"schema registry {self._config.url}, {method} {path}"
        try:
            answer = await self._client.request(
                method, path, headers={"Accept": _MEDIA_TYPE, "Content-Type": _MEDIA_TYPE}, **more
            )
        except httpx.HTTPError as error:
            raise Unavailable(f"{where}: {error or type(error).__name__}") from error
        if answer.status_code == 404:
            return None
        if answer.status_code in (401, 403):
            raise ConfigurationError(
                f"{where}: the credentials are refused (HTTP {answer.status_code}); set kafka.schema_registry_username"
                " and its password in the platform file"
            )
        if answer.is_error:
            raise Unavailable(f"{where}: HTTP {answer.status_code}, {answer.text[:200]}")
        try:
            return answer.json()
        except ValueError as error:
            raise Unavailable(f"{where}: the answer isn't JSON: {answer.text[:200]}") from error
