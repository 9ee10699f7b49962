"""Rules between the parts of a pipeline file: ids, topics, and which tables the sinks write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from config.event_sinks import PostgresSinkConfig
from config.lake_sinks import DeltaConfig, IcebergConfig
from config.model import Problem
from config.sink import SinkConfig
from config.source import SourceConfig, topic_name

MAX_TOPIC_LENGTH = 249


def pipeline_problems(prefix: str, source: SourceConfig, sinks: Sequence[tuple[int, SinkConfig]]) -> Iterator[Problem]:
    """All that doesn't fit together. `sinks` are those that are sound by themselves, with their index in the file."""
    yield from _source_problems(prefix, source)
    yield from _column_problems(source)
    for index, sink in sinks:
        yield from _pattern_problems(index, sink, source)
    yield from _table_problems(prefix, source, [(index, sink) for index, sink in sinks if sink.enabled])


def id_problems(ids: Sequence[tuple[int, str]]) -> Iterator[Problem]:
    """Ids that are there twice; `ids` with their sink's index in the file."""
    first_with_id: dict[str, int] = {}
    for index, sink_id in ids:
        first = first_with_id.setdefault(sink_id, index)
        if first != index:
            yield ("sinks", index, "sink_id"), f"{sink_id!r} is the id of sinks[{first}] too; ids are unique"


def _source_problems(prefix: str, source: SourceConfig) -> Iterator[Problem]:
    if not source.tables:
        yield (
            ("source", "tables"),
            "is empty: list the tables to capture (schema.table); the topics to read must be known beforehand",
        )
    for table, columns in source.key_columns.items():
        named = ("source", "key_columns", table)
        if table not in source.tables:
            yield named, f"{table} is none of source.tables"
        if not columns:
            yield named, "names no column"
        for column in columns:
            if not column or any(letter in column for letter in ",:;"):
                yield named, f"{column!r}: Debezium's message.key.columns can't name such a column"
    if source.signal_table in source.tables:
        yield ("source", "signal_table"), f"{source.signal_table} is one of source.tables; it needs a table of its own"
    if source.unknown_values == "read_again" and source.signal_table is None:
        yield (
            ("source", "unknown_values"),
            "read_again asks the connector by its signalling table: create one at the source (id varchar(64), type"
            " varchar(32), data text), name it as source.signal_table (schema.table), and run `cdc deploy`",
        )
    seen: dict[str, str] = {}
    for index, table in enumerate(source.tables):
        where = ("source", "tables", index)
        topic = topic_name(prefix, table)
        other = seen.setdefault(topic, table)
        if len(topic) > MAX_TOPIC_LENGTH - len(".dlq"):
            yield where, f"its topic {topic!r} is longer than Kafka allows with its dead letters ({MAX_TOPIC_LENGTH})"
        if table in source.tables[:index]:
            yield where, f"{table} is there twice"
        elif other != table:
            yield where, f"{table} and {other} have the same topic {topic!r} (Debezium replaces special characters)"


def _column_problems(source: SourceConfig) -> Iterator[Problem]:
    for table, columns in source.columns.items():
        if table not in source.tables:
            yield ("source", "columns", table), f"{table} is none of source.tables ({', '.join(source.tables)})"
        untyped = [name for name, column in columns.items() if column.type is None]
        if untyped and len(untyped) < len(columns):
            yield (
                ("source", "columns", table, untyped[0]),
                f"has no type, but other columns of {table} have one: declare the types of all of its columns, or of"
                " none (then the source's catalogue is asked)",
            )


def _pattern_problems(index: int, sink: SinkConfig, source: SourceConfig) -> Iterator[Problem]:
    for position, pattern in enumerate(sink.tables):
        only_this = sink.model_copy(update={"tables": (pattern,)})
        if source.tables and not any(only_this.captures(table) for table in source.tables):
            yield (
                ("sinks", index, "tables", position),
                f"{pattern!r} matches none of source.tables ({', '.join(source.tables)})",
            )


def _table_problems(prefix: str, source: SourceConfig, sinks: Sequence[tuple[int, SinkConfig]]) -> Iterator[Problem]:
    writer_of: dict[tuple[str, ...], int] = {}
    for index, sink in sinks:
        for destination, (name, tables) in _destinations(prefix, source, sink).items():
            settings = sink.settings
            field = {"iceberg": "table_name", "delta": "table_uri", "postgres": "target_table"}[sink.sink_type]
            where = ("sinks", index, sink.sink_type, field)
            if (
                len(tables) > 1
                and isinstance(settings, IcebergConfig | DeltaConfig)
                and settings.write_mode == "upsert"
            ):
                yield (
                    where,
                    f"{' and '.join(tables)} would share the table {name}, which upsert can't:"
                    " use placeholders ({schema}, {table}), or write_mode: append",
                )
            first = writer_of.setdefault(destination, index)
            if first != index:
                yield where, f"sinks[{first}] writes the table {name} too; a table has one sink"


def _destinations(prefix: str, source: SourceConfig, sink: SinkConfig) -> dict[tuple[str, ...], tuple[str, list[str]]]:
    """The tables that a sink writes, by what tells them apart everywhere: their name and the source tables."""
    found: dict[tuple[str, ...], tuple[str, list[str]]] = {}
    settings = sink.settings
    for table in source.tables:
        if not sink.captures(table):
            continue
        schema, name = table.rsplit(".", 1)
        match settings:
            case IcebergConfig():
                target = settings.target_name(schema, name, prefix)
                catalog = "" if settings.is_rest else settings.catalog_name
                key: tuple[str, ...] = ("iceberg", settings.catalog_uri, catalog, target)
            case DeltaConfig():
                target = settings.target_name(schema, name, prefix)
                key = ("delta", target)
            case PostgresSinkConfig():
                target = settings.target_table
                key = ("postgres", settings.host, str(settings.port), settings.database, target)
            case _:
                continue
        found.setdefault(key, (target, []))[1].append(table)
    return found
