"""The sections of `pipeline.yaml` for sinks that keep events as they are: `postgres` and `webhook`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr

from config.model import QUALIFIED_TABLE, HttpUrl, Model, StringMap


class PostgresSinkConfig(Model):
    """`postgres`: events in a PostgreSQL table, one row each."""

    host: str = "localhost"
    """Host of the destination."""
    port: int = Field(default=5432, ge=1, le=65535)
    """Its port."""
    database: str = Field(min_length=1)
    """Its database."""
    username: str = "cdc_user"
    """User that writes."""
    password: SecretStr = SecretStr("cdc_password")
    """Its password."""
    target_table: str = Field(pattern=QUALIFIED_TABLE)
    """The table, `schema.table`; created if missing."""
    batch_size: int = Field(default=100, ge=1)
    """Rows from which on a commit is due: a threshold, not a cap."""
    upsert: bool = False
    """Insert with `ON CONFLICT (source_topic, source_partition, source_offset)`."""


class WebhookConfig(Model):
    """`webhook`: one HTTP request per event."""

    url: HttpUrl = Field(repr=False)
    """Receiver of the requests."""
    method: Literal["POST", "PUT", "PATCH"] = "POST"
    """HTTP method."""
    headers: StringMap = Field(default={}, repr=False)
    """Further headers."""
    timeout_seconds: float = Field(default=30, gt=0)
    """How long a request may take."""
    auth_token: SecretStr | None = None
    """Sent as `Authorization: Bearer …`."""
