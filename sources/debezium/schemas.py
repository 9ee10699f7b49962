"""Writer schemas by id, from a Confluent-compatible registry."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any, Protocol

import httpx
from fastavro.schema import SchemaParseException, UnknownType
from schema_registry.client import SchemaRegistryClient
from schema_registry.client.errors import ClientError
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from config.errors import BadRecord, ConfigurationError, Unavailable


class SchemaSource(Protocol):
    """Where the decoder finds writer schemas. Called from several threads."""

    def writer_schema(self, schema_id: int) -> dict[str, Any]:
        """The schema of this id, as parsed JSON.

        Raises Unavailable while the registry is away, BadRecord if it says that there is no such id.
        """


class RegistrySchemas:
    """Schemas of a registry at `url` (Apicurio: its `…/apis/ccompat/v7`), each fetched once: an id never changes its
    meaning. `timeout` is in seconds, per request; `attempts` counts requests until the registry counts as away, and
    until an id counts as unknown (a registry that replicates may be behind its topic)."""

    def __init__(
        self,
        url: str,
        username: str | None = None,
        password: str | None = None,
        timeout: float = 30.0,
        attempts: int = 3,
        wait: Callable[..., float] | None = None,
    ) -> None:
        auth = httpx.BasicAuth(username, password or "") if username else None
        self._url = url
        self._client = SchemaRegistryClient(url={"url": url}, timeout=timeout, auth=auth)
        self._known: dict[int, dict[str, Any]] = {}
        self._lock = Lock()
        self._retrying = Retrying(
            retry=retry_if_exception_type((Unavailable, BadRecord)),
            stop=stop_after_attempt(attempts),
            wait=wait or wait_exponential_jitter(initial=0.2, max=5.0),
            reraise=True,
        )

    def writer_schema(self, schema_id: int) -> dict[str, Any]:
        """See SchemaSource. Raises ConfigurationError if the registry refuses the credentials."""
        known = self._known.get(schema_id)
        if known is None:
            with self._lock:
                known = self._known.get(schema_id) or self._retrying(self._fetch, schema_id)
                self._known[schema_id] = known
        return known

    def _fetch(self, schema_id: int) -> dict[str, Any]:
        try:
            schema = self._client.get_by_id(schema_id)
        except (httpx.HTTPError, OSError) as error:
            raise Unavailable(f"schema registry {self._url}: {error or type(error).__name__}") from error
        except ClientError as error:
            if error.http_code in (401, 403):
                raise ConfigurationError(
                    f"schema registry {self._url} refuses the credentials (HTTP {error.http_code}); set"
                    " kafka.schema_registry_username and its password in the platform file"
                ) from error
            raise Unavailable(f"schema registry {self._url}: HTTP {error.http_code}, {error.message}") from error
        except (SchemaParseException, UnknownType, ValueError) as error:
            raise BadRecord(
                f"the schema registry {self._url} has no Avro schema under the id {schema_id}: {error}"
            ) from error
        if schema is None:
            raise BadRecord(f"the schema registry {self._url} has no schema with the id {schema_id}")
        raw: dict[str, Any] = schema.raw_schema
        return raw
