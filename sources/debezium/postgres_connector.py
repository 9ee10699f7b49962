"""The configuration of Debezium's PostgreSQL connector."""

from __future__ import annotations

from typing import Literal

from config.source import UNAVAILABLE_VALUE
from sources.debezium.connector_config import BaseConnectorConfig


class DebeziumConnectorConfig(BaseConnectorConfig):
    """One PostgreSQL database, read through a replication slot and a publication of its own."""

    database_port: int = 5432
    database_dbname: str
    plugin_name: Literal["pgoutput", "wal2json", "decoderbufs"] = "pgoutput"
    slot_name: str = "cdc_slot"
    publication_name: str = "cdc_publication"
    publication_autocreate_mode: Literal["filtered", "all_tables", "disabled", "no_tables"] = "filtered"
    schema_include_list: tuple[str, ...] = ()
    unavailable_value_placeholder: str = UNAVAILABLE_VALUE
    interval_handling_mode: Literal["string", "numeric"] = "string"

    def _particular(self) -> dict[str, str]:
        return {
            "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
            "database.port": str(self.database_port),
            "database.dbname": self.database_dbname,
            "plugin.name": self.plugin_name,
            "slot.name": self.slot_name,
            "publication.name": self.publication_name,
            # `all_tables`, the default, needs a superuser and sends every table's changes over the wire.
            "publication.autocreate.mode": self.publication_autocreate_mode,
            "schema.include.list": ",".join(self.schema_include_list),
            "unavailable.value.placeholder": self.unavailable_value_placeholder,
            # `numeric`, the default, makes a month 30.4 days.
            "interval.handling.mode": self.interval_handling_mode,
            # Columns of types that Debezium doesn't know are left out by default, silently; this way they are bytes.
            "include.unknown.datatypes": "true",
        }
