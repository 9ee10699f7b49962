"""The configuration of Debezium's MySQL and MariaDB connectors: one server's binary log."""

from __future__ import annotations

from typing import Literal

from sources.debezium.connector_config import BaseConnectorConfig

_CLASSES = {
    "mysql": "io.debezium.connector.mysql.MySqlConnector",
    "mariadb": "io.debezium.connector.mariadb.MariaDbConnector",
}


class DebeziumMySqlConnectorConfig(BaseConnectorConfig):
    """One MySQL or MariaDB server (`flavour`; the connectors are different ones and refuse each other's server)."""

    flavour: Literal["mysql", "mariadb"] = "mysql"
    database_port: int = 3306
    database_server_id: int
    """The connector reads as a replica: this id must be unlike those of the server and of its other replicas."""
    database_include_list: tuple[str, ...] = ()
    schema_history_bootstrap_servers: str
    """Kafka, as Connect reaches it."""
    schema_history_topic: str
    """The connector's own topic of DDL: one partition, kept for ever, not shared with another connector."""
    bigint_unsigned_handling_mode: Literal["precise", "long"] = "precise"

    def _particular(self) -> dict[str, str]:
        return {
            "connector.class": _CLASSES[self.flavour],
            "database.port": str(self.database_port),
            "database.server.id": str(self.database_server_id),
            "database.include.list": ",".join(self.database_include_list),
            "schema.history.internal.kafka.bootstrap.servers": self.schema_history_bootstrap_servers,
            "schema.history.internal.kafka.topic": self.schema_history_topic,
            # DDL as a topic for consumers; nobody reads it here: the writer schema of each record says what changed.
            "include.schema.changes": "false",
            # The default takes the year 12 for 2012 and the year 0 for 2000.
            "enable.time.adjuster": "false",
            # `long`, the default, sends 18446744073709551615 as -1.
            "bigint.unsigned.handling.mode": self.bigint_unsigned_handling_mode,
        }
