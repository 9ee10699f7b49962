"""How the schema registry is reached, and which compatibility it is to enforce."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr

from config.model import HttpUrl, Model

CompatibilityMode = Literal[
    "BACKWARD", "BACKWARD_TRANSITIVE", "FORWARD", "FORWARD_TRANSITIVE", "FULL", "FULL_TRANSITIVE", "NONE"
]


class SchemaRegistryConfig(Model):
    """A registry with a Confluent-compatible API (Apicurio: `…/apis/ccompat/v7`)."""

    url: HttpUrl = "http://localhost:8081"
    """Base of the API."""
    compatibility_mode: CompatibilityMode | None = None
    """The mode that it is to enforce for the pipeline's subjects; unset: the registry's own."""
    timeout_seconds: float = Field(default=30.0, gt=0)
    """How long one request may take."""
    max_retries: int = Field(default=3, ge=0)
    """How often a request is sent again that wasn't answered."""
    username: str | None = None
    """User of the basic authentication."""
    password: SecretStr | None = None
    """Password of the basic authentication."""
