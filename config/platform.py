"""The model of `platform.yaml`: how the platform runs. Every field has a default, so the file may be absent."""

from __future__ import annotations

import random
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, WithJsonSchema, field_validator, model_validator

from config.model import HttpUrl, Model, Problem, StringMap, TopicPart, refuse
from config.registry import CompatibilityMode, SchemaRegistryConfig

Converter = Literal["avro-confluent", "avro-apicurio", "json-schema", "json"]


def _number_as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Acks = Annotated[
    Literal["all", "1", "0"], BeforeValidator(_number_as_text), WithJsonSchema({"enum": ["all", "1", "0", 1, 0]})
]


class KafkaConfig(Model):
    """`kafka`: the broker and the schema registry, as Lakeward reaches them."""

    bootstrap_servers: str = "localhost:9092"
    """Brokers to start from, `host:port`, separated by commas."""
    schema_registry_url: HttpUrl = "http://localhost:8081"
    """Base of the registry's Confluent-compatible API (Apicurio: `…/apis/ccompat/v7`)."""
    schema_registry_username: str | None = None
    """User of the registry's basic authentication."""
    schema_registry_password: SecretStr | None = None
    """Password of the registry's basic authentication."""
    schema_registry_compatibility_mode: CompatibilityMode | None = None
    """The compatibility mode that the registry is to enforce for the captured tables' subjects: a version that breaks
    it is refused, and the connector's task fails until it is settled. Unset: the registry's own."""
    group_id: TopicPart = "cdc-platform"
    """First part of the consumer group's name, `{group_id}-{pipeline_id}`."""
    auto_offset_reset: Literal["earliest", "latest"] = "earliest"
    """Where a sink starts that has no offset in its destination yet. The end that `latest` finds at the first start
    becomes the group's offset, from which later starts go on until the first commit."""
    enable_idempotence: bool = True
    """The producer of dead letters and watermarks writes each record once."""
    acks: Acks = "all"
    """Brokers that must have a dead letter before its offset is passed; `enable_idempotence` needs `all`."""
    topic_num_partitions: int = Field(default=1, ge=1)
    """Partitions of the topics that `cdc deploy` creates."""
    topic_replication_factor: int = Field(default=1, ge=1)
    """Replicas of the topics that `cdc deploy` creates."""
    session_timeout_seconds: float = Field(default=30.0, ge=6.0)
    """After this time without a sign of life a worker's partitions go to the others."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """How the brokers are talked to."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    """How Lakeward logs in where `security_protocol` has SASL."""
    sasl_plain_username: str | None = None
    """User of the SASL login."""
    sasl_plain_password: SecretStr | None = None
    """Password of the SASL login."""
    ssl_cafile: str | None = None
    """File with the certificates of the authorities that are trusted; unset: the system's."""
    ssl_certfile: str | None = None
    """File with the client's own certificate."""
    ssl_keyfile: str | None = None
    """File with the key of the client's certificate."""
    ssl_password: SecretStr | None = None
    """Password of `ssl_keyfile`."""

    @property
    def schema_registry(self) -> SchemaRegistryConfig:
        """The registry and how it is reached."""
        return SchemaRegistryConfig(
            url=self.schema_registry_url,
            compatibility_mode=self.schema_registry_compatibility_mode,
            username=self.schema_registry_username,
            password=self.schema_registry_password,
        )

    @model_validator(mode="after")
    def _fits_together(self) -> KafkaConfig:
        problems: list[Problem] = []
        if self.enable_idempotence and self.acks != "all":
            problems.append((("acks",), "enable_idempotence needs acks: all, or set it to false"))
        if self.security_protocol.startswith("SASL"):
            problems.extend(
                ((name,), f"security_protocol: {self.security_protocol} needs it")
                for name in ("sasl_plain_username", "sasl_plain_password")
                if getattr(self, name) is None
            )
        if self.ssl_keyfile and not self.ssl_certfile:
            problems.append((("ssl_certfile",), "ssl_keyfile is the key of a certificate: name its file here"))
        refuse(problems)
        return self


class ConnectorConfig(Model):
    """`connector`: Kafka Connect, and what every Debezium connector is given."""

    connect_url: HttpUrl = "http://localhost:8083"
    """Kafka Connect's REST address."""
    timeout_seconds: float = Field(default=30.0, gt=0)
    """How long one request to Kafka Connect may take."""
    retry_max_attempts: int = Field(default=5, ge=1)
    """Attempts of a request that Connect couldn't serve just then (away, or rebalancing)."""
    retry_wait_seconds: float = Field(default=2.0, ge=0)
    """Wait between two such attempts."""
    converter: Converter = "avro-confluent"
    """How Connect writes records; a record's first byte tells Lakeward Avro from JSON."""
    registry_url: HttpUrl | None = None
    """The registry as Connect sees it (Apicurio: `…/apis/registry/v2`); unset: `kafka.schema_registry_url`."""
    extra_config: StringMap = Field(default={}, repr=False)
    """Further properties of the connector, passed on as they are; they win over Lakeward's own."""

    @model_validator(mode="after")
    def _registry_for_apicurio(self) -> ConnectorConfig:
        # Apicurio's converter doesn't speak the Confluent-compatible API that kafka.schema_registry_url names
        if self.converter == "avro-apicurio" and self.registry_url is None:
            refuse([(("registry_url",), "converter: avro-apicurio needs it (…/apis/registry/v2)")])
        return self


class DlqConfig(Model):
    """`dlq`: what happens to a record that can't be written."""

    enabled: bool = True
    """Set such records aside in a dead-letter topic; `false`: stop instead."""
    topic_suffix: TopicPart = "dlq"
    """Dead letters of topic `t` go to `t.{topic_suffix}`."""
    max_retries: int = Field(default=3, ge=0)
    """How often a record is tried again before it is set aside."""
    include_headers: bool = True
    """Keep the record's own headers too, after the `dlq.*` headers that say where it came from and what was wrong."""


class RetryConfig(Model):
    """`retry`: how transient errors of a destination are tried again (exponential backoff)."""

    max_attempts: int = Field(default=5, ge=1)
    """Attempts before a sink is parked and its destination is only probed."""
    initial_wait_seconds: float = Field(default=1.0, ge=0)
    """Wait before the second attempt."""
    max_wait_seconds: float = Field(default=60.0, ge=0)
    """Longest wait between two attempts."""
    multiplier: float = Field(default=2.0, ge=1, le=1000)
    """By how much each wait is longer than the one before."""
    jitter: bool = True
    """Vary the waits, so that workers don't knock all at once."""

    def wait_after(self, attempt: int) -> float:
        """Seconds to wait after this attempt (the first is 1)."""
        wait = min(self.max_wait_seconds, self.initial_wait_seconds * self.multiplier ** min(attempt - 1, 64))
        return wait * random.uniform(0.5, 1.0) if self.jitter else wait

    @model_validator(mode="after")
    def _waits_in_order(self) -> RetryConfig:
        if self.max_wait_seconds < self.initial_wait_seconds:
            refuse([(("max_wait_seconds",), f"is less than initial_wait_seconds ({self.initial_wait_seconds:g})")])
        return self


class PlatformConfig(Model):
    """`platform.yaml` as a whole."""

    transport_mode: Literal["kafka"] = "kafka"
    """Where changes come through."""
    kafka: KafkaConfig = KafkaConfig()
    """The broker and the schema registry."""
    connector: ConnectorConfig = ConnectorConfig()
    """Kafka Connect with Debezium."""
    max_buffered_messages: int = Field(default=1000, ge=1)
    """Smallest buffer per partition, in records: below it nothing is held back. Memory is bound in bytes."""
    max_buffered_bytes: int = Field(default=64 << 20, ge=1 << 20)
    """Bytes of fetched records that a worker holds at most before it stops fetching."""
    shutdown_grace_seconds: float = Field(default=20.0, ge=0)
    """How long a worker that is told to stop may take to commit what it has read; the rest is read again."""
    schema_monitor_interval_seconds: float = Field(default=30.0, gt=0)
    """How often the registry is asked for new schema versions."""
    lag_monitor_interval_seconds: float = Field(default=15.0, gt=0)
    """How often the lag behind the log's end is measured."""
    stop_on_incompatible_schema: bool = False
    """Stop when a new schema version breaks the registry's compatibility rule."""
    health_port: int = Field(default=8080, ge=1, le=65535)
    """Port of the worker's pages, health checks and metrics."""
    health_enabled: bool = True
    """Serve them."""
    dlq: DlqConfig = DlqConfig()
    """Dead letters."""
    retry: RetryConfig = RetryConfig()
    """Retries of transient errors; a sink may have its own."""

    @field_validator("dlq", "retry", "kafka", "connector", mode="before")
    @classmethod
    def _empty_section(cls, value: Any) -> Any:
        """A section whose keys are all commented out is None in YAML: the defaults."""
        return {} if value is None else value
