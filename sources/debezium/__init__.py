"""Debezium: the connectors, their configuration, and the change events that they write."""

from sources.debezium.client import DebeziumClient
from sources.debezium.mysql_connector import DebeziumMySqlConnectorConfig
from sources.debezium.postgres_connector import DebeziumConnectorConfig

__all__ = ["DebeziumClient", "DebeziumConnectorConfig", "DebeziumMySqlConnectorConfig"]
