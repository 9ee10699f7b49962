"""Types of JSON records without schema: those of the source's columns, declared in the pipeline file or read from the
source's catalogue, through what Debezium makes of each type.

The catalogue is that of now, the records may be older: a column that a record lacks is null, a column that a record
has and that isn't known stops the pipeline.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from config.errors import ConfigurationError, UnsupportedChange
from config.pipeline import PipelineConfig
from sources.debezium import mysql_types, postgres_types
from sources.debezium.connect_types import ConnectType
from sources.debezium.source_types import Modes, SourceColumn, Wire

_CONNECTOR = {"postgres": "postgresql", "mariadb": "mariadb", "mysql": "mysql"}
_TIMES = tuple((name, ConnectType("int64", optional=True)) for name in ("ts_us", "ts_ms"))


def wire_type(source_type: str, text: str, modes: Modes) -> Wire:
    """What the connector of a kind of source (`source.source_type`) sends for a column type."""
    of = postgres_types.wire_type if source_type == "postgres" else mysql_types.wire_type
    return of(text, modes)


class SchemalessTypes:
    """The types of a pipeline's topics whose records have no schema."""

    def __init__(self, rows: Mapping[str, ConnectType], source_type: str) -> None:
        self._rows = rows
        self._source = ConnectType("struct", f"io.debezium.connector.{_CONNECTOR[source_type]}.Source", fields=_TIMES)

    @classmethod
    def of(
        cls, pipeline: PipelineConfig, modes: Modes, catalogue: Mapping[str, Iterable[SourceColumn]], *, needed: bool
    ) -> SchemalessTypes:
        """From the declared columns, and for tables without them from the catalogue (columns by `schema.table`).

        Raises ConfigurationError for tables that neither knows, if their types are `needed`.
        """
        rows, unknown = {}, []
        for table in pipeline.source.tables:
            columns = declared_columns(pipeline, table) or tuple(catalogue.get(table, ()))
            if columns:
                rows[pipeline.topic(table)] = _row(table, columns, pipeline.source.source_type, modes)
            else:
                unknown.append(table)
        if unknown and needed:
            raise ConfigurationError(
                f"JSON without schema doesn't tell the columns' types, and the source's catalogue has no"
                f" {', '.join(unknown)}: declare their columns (source.columns.{unknown[0]}.<column>.type), or let the"
                " connector send schemas (connector.converter json-schema or an Avro one)"
            )
        return cls(rows, pipeline.source.source_type)

    def value(self, topic: str) -> ConnectType | None:
        """The envelope of a topic's values, None if its columns aren't known."""
        row = self._rows.get(topic)
        if row is None:
            return None
        fields = (("before", row), ("after", row), ("source", self._source), ("op", ConnectType("string")))
        return ConnectType("struct", f"{topic}.Envelope", fields=fields)

    def key(self, topic: str, names: Iterable[str]) -> ConnectType | None:
        """The key that is made of these columns, None if the topic's columns aren't known."""
        row = self._rows.get(topic)
        if row is None:
            return None
        types = dict(row.fields)
        missing = [name for name in names if name not in types]
        if missing:
            raise UnsupportedChange(f"topic {topic}: {_unknown(missing, types)}")
        return ConnectType(
            "struct", f"{topic}.Key", fields=tuple((name, replace(types[name], optional=False)) for name in names)
        )


def unknown_columns(topic: str, names: Iterable[str], known: Iterable[str]) -> UnsupportedChange:
    """The error of records that have columns which nobody knows."""
    return UnsupportedChange(f"topic {topic}: {_unknown(names, known)}")


def _unknown(names: Iterable[str], known: Iterable[str]) -> str:
    return (
        f"the records (JSON without schema) have the column {', '.join(names)}, whose type isn't known; known are"
        f" {', '.join(known)}. Restart the worker to read the source's catalogue again, or declare the column's type"
        " (source.columns)"
    )


def declared_columns(pipeline: PipelineConfig, table: str) -> tuple[SourceColumn, ...]:
    """The columns of a table as the pipeline file declares them; empty if it declares no type."""
    columns = pipeline.source.columns.get(table, {})
    return tuple(SourceColumn(name, column.type) for name, column in columns.items() if column.type is not None)


def _row(table: str, columns: Iterable[SourceColumn], source_type: str, modes: Modes) -> ConnectType:
    fields = []
    for column in columns:
        wire = wire_type(source_type, column.type, modes)
        if wire.type is not None:
            fields.append((column.name, replace(wire.type, optional=column.nullable and not column.key)))
    return ConnectType("struct", f"{table}.Value", optional=True, fields=tuple(fields))
