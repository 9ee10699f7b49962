"""Debezium: the connectors, their configuration, and the change events that they write."""
