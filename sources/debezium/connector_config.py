"""What every Debezium connector of ours is configured with, and how records are serialised.

A connector's configuration is a flat map of strings. The models here have Debezium's own fields with typed values;
`to_connector_payload()` is what Connect's `POST /connectors` takes. Each setting that differs from Debezium's default
says why. `postgres_connector.py` and `mysql_connector.py` add what is particular to a database.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from config.platform import PlatformConfig

SnapshotMode = Literal["initial", "always", "never", "no_data", "when_needed", "initial_only"]

CONFLUENT_AVRO = "io.confluent.connect.avro.AvroConverter"
APICURIO_AVRO = "io.apicurio.registry.utils.converter.AvroConverter"
CONNECT_JSON = "org.apache.kafka.connect.json.JsonConverter"


class BaseConnectorConfig(BaseModel):
    """Fields common to the connectors; `name` is the connector's name, `topic_prefix` its topics' first part."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    topic_prefix: str
    database_hostname: str = "localhost"
    database_user: str = "cdc_user"
    database_password: SecretStr = SecretStr("cdc_password")
    table_include_list: tuple[str, ...] = ()
    """Regular expressions, as Debezium takes them; a comma can't be part of one."""
    column_exclude_list: tuple[str, ...] = ()
    """Regular expressions of columns' full names; those of `extra_config` come beside them."""
    message_key_columns: tuple[str, ...] = ()
    """`table:column,column`, the table as a regular expression: keys of tables without a primary key."""
    signal_table: str | None = None
    """`schema.table` whose rows tell the connector what to do (incremental snapshots)."""
    snapshot_mode: SnapshotMode = "initial"
    heartbeat_interval_ms: int = 10_000
    poll_interval_ms: int = 20
    decimal_handling_mode: Literal["precise", "double", "string"] = "precise"
    time_precision_mode: Literal["adaptive", "adaptive_time_microseconds", "connect"] = "adaptive_time_microseconds"
    tasks_max: int = 1
    key_converter: str = APICURIO_AVRO
    value_converter: str = APICURIO_AVRO
    converter_config: dict[str, str] = Field(default_factory=dict)
    """Settings of both converters, without the prefix `key.converter.` or `value.converter.`."""
    extra_config: dict[str, str] = Field(default_factory=dict)
    """Raw settings that win over all others."""

    def to_connector_payload(self) -> dict[str, Any]:
        """`{"name": …, "config": {…}}`, the body of `POST /connectors`. Holds the database's password."""
        return {"name": self.name, "config": self.to_connector_config()}

    def to_connector_config(self) -> dict[str, str]:
        """The flat settings, all strings, as Connect stores them."""
        config = {**self._common(), **self._particular(), **self._converters(), **self.extra_config}
        excluded = [*self.column_exclude_list, *filter(None, [self.extra_config.get("column.exclude.list")])]
        config["column.exclude.list"] = ",".join(excluded)
        return {key: value for key, value in config.items() if value}

    def _common(self) -> dict[str, str]:
        return {
            "tasks.max": str(self.tasks_max),
            "database.hostname": self.database_hostname,
            "database.user": self.database_user,
            "database.password": self.database_password.get_secret_value(),
            "topic.prefix": self.topic_prefix,
            "table.include.list": ",".join(self.table_include_list),
            "message.key.columns": ";".join(self.message_key_columns),
            "signal.data.collection": self.signal_table or "",
            # Debezium 3 knows `never` as `no_data`.
            "snapshot.mode": "no_data" if self.snapshot_mode == "never" else self.snapshot_mode,
            # Without heartbeats a quiet table's position stays behind, and the source keeps its log for it.
            "heartbeat.interval.ms": str(self.heartbeat_interval_ms),
            # 500 by default: half a second of the way from commit to Kafka would be waiting.
            "poll.interval.ms": str(self.poll_interval_ms),
            "decimal.handling.mode": self.decimal_handling_mode,
            "time.precision.mode": self.time_precision_mode,
            "binary.handling.mode": "bytes",
            # `warn`, the default, sends null for a value that can't be converted (NaN in a decimal, say).
            "event.converting.failure.handling.mode": "fail",
            "tombstones.on.delete": "true",
            # Truncates are skipped by default: the sink would keep rows that the source has lost, silently.
            "skipped.operations": "none",
            "provide.transaction.metadata": "false",
            # Four headers on each record (connector, task, run), some 250 bytes, that say nothing about the change.
            "extended.headers.enabled": "false",
            # Avro's rules for the names of schemas: a topic prefix with a hyphen is not a valid namespace. The names of
            # columns are not adjusted: `a-b` and `a_b` would become one. `cdc deploy` refuses such columns for Avro.
            "schema.name.adjustment.mode": "avro",
            "field.name.adjustment.mode": "none",
        }

    def _particular(self) -> dict[str, str]:
        raise NotImplementedError

    def _converters(self) -> dict[str, str]:
        settings = {"key.converter": self.key_converter, "value.converter": self.value_converter}
        for side in ("key", "value"):
            settings |= {f"{side}.converter.{key}": value for key, value in self.converter_config.items()}
        return settings


def converter_fields(platform: PlatformConfig) -> dict[str, Any]:
    """`key_converter`, `value_converter` and `converter_config` for the platform's `connector.converter`."""
    name = platform.connector.converter
    if name == "avro-confluent":
        kind, settings = CONFLUENT_AVRO, _confluent(platform)
    elif name == "avro-apicurio":
        kind, settings = APICURIO_AVRO, _apicurio(platform)
    else:
        kind, settings = CONNECT_JSON, {"schemas.enable": str(name == "json-schema").lower()}
    return {"key_converter": kind, "value_converter": kind, "converter_config": settings}


def _confluent(platform: PlatformConfig) -> dict[str, str]:
    settings = {"schema.registry.url": platform.connector.registry_url or platform.kafka.schema_registry_url}
    credentials = _credentials(platform)
    if credentials:
        settings |= {
            "basic.auth.credentials.source": "USER_INFO",
            "basic.auth.user.info": ":".join(credentials),
        }
    return settings


def _apicurio(platform: PlatformConfig) -> dict[str, str]:
    settings = {
        # Apicurio's own API, beside the Confluent-compatible one that the worker uses.
        "apicurio.registry.url": platform.connector.registry_url or "",
        "apicurio.registry.auto-register": "true",
        # Confluent's wire format: magic byte, four bytes of content id; the id in the payload, not in a header.
        "apicurio.registry.as-confluent": "true",
        "apicurio.registry.use-id": "contentId",
        "apicurio.registry.headers.enabled": "false",
    }
    credentials = _credentials(platform)
    if credentials:
        settings |= {"apicurio.auth.username": credentials[0], "apicurio.auth.password": credentials[1]}
    return settings


def _credentials(platform: PlatformConfig) -> tuple[str, str] | None:
    """User and password of the registry, if it has any."""
    kafka = platform.kafka
    if kafka.schema_registry_username is None or kafka.schema_registry_password is None:
        return None
    return kafka.schema_registry_username, kafka.schema_registry_password.get_secret_value()
