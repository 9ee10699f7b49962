"""One of the `sinks` of a pipeline file: which tables go there, and the section of its type."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from config.errors import ConfigurationError
from config.event_sinks import PostgresSinkConfig, WebhookConfig
from config.lake_sinks import DeltaConfig, IcebergConfig
from config.model import Identifier, Model
from config.platform import RetryConfig

SinkSettings = IcebergConfig | DeltaConfig | PostgresSinkConfig | WebhookConfig


def _require_section(schema: dict[str, Any]) -> None:
    schema["allOf"] = [
        {"if": {"properties": {"sink_type": {"const": name}}}, "then": {"required": [name]}}
        for name in ("webhook", "postgres", "iceberg", "delta")
    ]


class SinkConfig(Model):
    """One of `sinks`: a destination."""

    model_config = ConfigDict(json_schema_extra=_require_section)

    sink_id: Identifier
    """Name, unique in the pipeline. The destination keeps its offsets under it: don't rename a sink that has run."""
    sink_type: Literal["webhook", "postgres", "iceberg", "delta"]
    """Kind of destination; its settings stand in the section of the same name."""
    enabled: bool = True
    """Write to it."""
    retry: RetryConfig | None = None
    """Retries of transient errors; unset: the platform's."""
    tables: tuple[str, ...] = ()
    """Source tables that go to this sink, as names or patterns with `*` and `?`; empty: all."""
    webhook: WebhookConfig | None = Field(default=None, validate_default=True)
    """Settings of a webhook sink."""
    postgres: PostgresSinkConfig | None = Field(default=None, validate_default=True)
    """Settings of a PostgreSQL sink."""
    iceberg: IcebergConfig | None = Field(default=None, validate_default=True)
    """Settings of an Iceberg sink."""
    delta: DeltaConfig | None = Field(default=None, validate_default=True)
    """Settings of a Delta sink."""

    @field_validator("webhook", "postgres", "iceberg", "delta", mode="before")
    @classmethod
    def _section_of_type(cls, section: Any, info: ValidationInfo) -> Any:
        sink_type = info.data.get("sink_type", info.field_name)
        if section is None and sink_type == info.field_name and "sink_type" in info.data:
            raise ValueError(f"sink_type: {sink_type} needs this section")
        if section is not None and sink_type != info.field_name:
            raise ValueError(f"sink_type is {sink_type}: this section has no place here")
        return section

    @property
    def settings(self) -> SinkSettings:
        """The section of this sink's type."""
        section: SinkSettings | None = getattr(self, self.sink_type)
        if section is None:
            raise ConfigurationError(f"sink {self.sink_id}: sink_type: {self.sink_type} needs its section")
        return section

    def captures(self, table: str) -> bool:
        """Whether changes of a source table (`schema.table`) go to this sink."""
        return not self.tables or any(fnmatchcase(table, pattern) for pattern in self.tables)
