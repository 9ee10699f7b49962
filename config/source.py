"""`source` of a pipeline file: the database and its tables, and the topics that follow from them."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, ConfigDict, Field, SecretStr

from config.columns import ColumnConfig
from config.model import SLOT_NAME, Model

UNAVAILABLE_VALUE = "__debezium_unavailable_value"
"""Debezium's default of `unavailable.value.placeholder`."""

DEFAULT_PORTS = {"postgres": 5432, "mysql": 3306, "mariadb": 3306}


def _table(name: str) -> str:
    if re.search(r"[*?\[\]|\\()]", name):
        raise ValueError(f"{name!r}: a table's full name is needed, not a pattern: its topic must be known beforehand")
    if not re.fullmatch(r"[^.\s]+\.[^.\s]+", name):
        raise ValueError(f"{name!r} is not schema.table, such as public.customers")
    return name


TableName = Annotated[str, AfterValidator(_table)]


def _accept_mysql_server_id(schema: dict[str, Any]) -> None:
    schema["properties"]["mysql_server_id"] = {**schema["properties"]["server_id"], "deprecated": True}


class SourceConfig(Model):
    """`source`: the database whose changes are captured."""

    model_config = ConfigDict(json_schema_extra=_accept_mysql_server_id)

    source_type: Literal["postgres", "mysql", "mariadb"] = "postgres"
    """Kind of database."""
    host: str = "localhost"
    """Host of the database, as Kafka Connect reaches it."""
    port: int = Field(default_factory=lambda data: DEFAULT_PORTS.get(data.get("source_type", ""), 5432), ge=1, le=65535)
    """Its port; unset: 5432 for postgres, 3306 for mysql and mariadb."""
    database: str = Field(min_length=1)
    """Database to capture."""
    username: str = "cdc_user"
    """User with the right to replicate."""
    password: SecretStr = SecretStr("cdc_password")
    """Its password."""
    tables: tuple[TableName, ...] = ()
    """Tables to capture, at least one: `schema.table` (mysql, mariadb: `database.table`)."""
    key_columns: dict[TableName, tuple[str, ...]] = Field(default={})
    """Columns that tell the rows of a table apart which has no primary key, by table; for upsert sinks. They must be
    NOT NULL, and a table of PostgreSQL needs REPLICA IDENTITY FULL."""
    slot_name: str = Field(default="cdc_slot", pattern=SLOT_NAME)
    """Replication slot (postgres)."""
    publication_name: str = Field(default="cdc_publication", min_length=1, max_length=63)
    """Publication (postgres)."""
    unavailable_value_placeholder: str = Field(default=UNAVAILABLE_VALUE, min_length=8)
    """What stands for a value that an update left unchanged and that wasn't sent (postgres, TOAST). With a long random
    text no value of yours looks like it. Don't change it while records with the old one are still to be read."""
    signal_table: TableName | None = None
    """Debezium's signalling table (`schema.table`), by which `cdc verify --repair` has rows sent again."""
    unknown_values: Literal["dead_letter", "read_again"] = "dead_letter"
    """What becomes of an update that left a value unsent (postgres, TOAST) which an upsert sink doesn't have: a dead
    letter, or the row is read from the source again, for which `signal_table` is needed."""
    snapshot_mode: Literal["initial", "always", "never", "no_data", "when_needed", "initial_only"] = "initial"
    """When Debezium reads the tables' present rows."""
    server_id: int | None = Field(
        default=None, ge=1, le=2**32 - 1, validation_alias=AliasChoices("server_id", "mysql_server_id")
    )
    """Number as a replica (mysql, mariadb; also accepted as `mysql_server_id`); unset: from the pipeline_id."""
    columns: dict[TableName, dict[str, ColumnConfig]] = Field(default={})
    """Types and policies of single columns, by table (`schema.table`) and column."""

    @property
    def watched(self) -> tuple[str, ...]:
        """The tables that the connector reads: those that are captured, and its signalling table."""
        return self.tables if self.signal_table is None else (*self.tables, self.signal_table)


def topic_name(prefix: str, table: str) -> str:
    """Debezium replaces what Kafka doesn't allow in a topic's name by `_` (its TopicNamingStrategy)."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", f"{prefix}.{table}")
