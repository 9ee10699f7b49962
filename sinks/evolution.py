"""What a batch's schemas ask of a table: columns to add, or a change that this version stops at.

Pure; every sink calls `evolve` before it writes, inside its commit loop, with the columns and the history that the
fresh destination shows. The rules of this version:

- a column that the table lacks is added (nullable, at its stored type);
- a column whose type differs from the table's stops the pipeline, whatever the direction;
- a column of the table that a *new* writer schema lacks was dropped or renamed at the source: stop. The registry's
  ids grow, so a schema id above the highest one seen of the topic is new; a lower one is a partition that lags
  behind or a restored log, and its rows get nulls. (A source that returns to an old shape gets its old id back and
  is taken for such a one: the column stays and its new rows have nulls.)
- a JSON record has no schema id: lacking a column that the table had before this batch stops.
- a table that several topics feed unites their columns by name, so there a missing column is normal and never stops.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from config.errors import ConfigurationError, UnsupportedChange
from sources.changes import CDC_NAMES, CDC_UNCHANGED, UNCHANGED_FIELD, ChangeBatch, TableSchema

JSON_SEEN = 0
"""The history's mark of a topic whose records carry no schema id (registries count from 1)."""


@dataclass(frozen=True)
class Evolution:
    """`add`: the columns to add, nullable, at stored types, in the source's order. `schema_ids`: per topic the new
    highest writer schema id, of the topics where it changes; to be written with the rows."""

    add: tuple[pa.Field, ...]
    schema_ids: Mapping[str, int]


def as_is(data_type: pa.DataType) -> pa.DataType:
    """The stored type of a format that stores every Arrow type of the sources unchanged."""
    return data_type


def evolve(
    table: str,
    columns: pa.Schema,
    highest: Mapping[str, int],
    changes: Sequence[ChangeBatch],
    *,
    shared: bool,
    log: bool,
    stored: Callable[[pa.DataType], pa.DataType] = as_is,
) -> Evolution:
    """Compare each change's schema, in order, with the table as the changes before it leave it.

    `table` names the table in messages. `columns`: its columns now (empty for a table to be created), with or
    without the `CDC_FIELDS`. `highest`: per topic the highest writer schema id that a commit of this sink recorded;
    a topic that never wrote is absent. `shared`: several topics feed the table. `log`: it is a change log, which keeps
    `CDC_UNCHANGED`. `stored` says at which type the format keeps a source type.

    Raises UnsupportedChange for a change that stops, ConfigurationError if the table was there before its first
    write and doesn't fit.
    """
    had = {field.name: field.type for field in columns if field.name not in CDC_NAMES}
    now = dict(had)
    ids = dict(highest)
    add: list[pa.Field] = []
    for change in changes:
        if had and change.topic not in highest:
            _check_fits(table, had, change, shared, stored)
        _check_names(table, change)
        for field in change.schema.columns:
            kind = _stored(table, change, field, stored)
            if field.name not in now:
                now[field.name] = kind
                add.append(pa.field(field.name, kind, nullable=True))
            elif now[field.name] != kind:
                raise UnsupportedChange(
                    f"{_where(table, change)}: column {field.name} is {now[field.name]} in the table and {kind} in"
                    f" the records (source type {field.type}). Put the type back at the source, or write into a new"
                    " table: rename this one and start from a new snapshot"
                )
        if not shared:
            _check_dropped(table, change, now if _is_new(change.schema, ids.get(change.topic)) else {}, had)
        seen = JSON_SEEN if change.schema.id is None else change.schema.id
        ids[change.topic] = max(seen, ids.get(change.topic, seen))
    if log and CDC_UNCHANGED not in columns.names and any(change.lacks_values for change in changes):
        add.append(pa.field(CDC_UNCHANGED, stored(UNCHANGED_FIELD.type)))
    return Evolution(tuple(add), {topic: i for topic, i in ids.items() if highest.get(topic) != i})


def _is_new(schema: TableSchema, highest: int | None) -> bool:
    return schema.id is not None and (highest is None or schema.id > highest)


def _check_dropped(
    table: str, change: ChangeBatch, now: Mapping[str, pa.DataType], had: Mapping[str, pa.DataType]
) -> None:
    """`now` is what a new schema must have; JSON records, which tell no age, must have what the table `had`."""
    expected = had if change.schema.id is None else now
    gone = [name for name in expected if name not in change.schema.columns.names]
    if gone:
        columns = ", ".join(f"{name} ({expected[name]})" for name in gone)
        raise UnsupportedChange(
            f"{_where(table, change)}: the records no longer have {columns}: dropped or renamed at the source. Put the"
            " column back there, or write into a new table: rename this one and start from a new snapshot"
        )


def _check_fits(
    table: str,
    had: Mapping[str, pa.DataType],
    change: ChangeBatch,
    shared: bool,
    stored: Callable[[pa.DataType], pa.DataType],
) -> None:
    """A table that was there before the topic's first write has to fit as it is: it may be somebody else's."""
    source = {field.name: _stored(table, change, field, stored) for field in change.schema.columns}
    wrong = [
        f"{n} ({had[n]} in the table, {kind} in the records)" for n, kind in source.items() if had.get(n, kind) != kind
    ]
    if not shared:
        wrong += [f"{n} ({kind}, not in the records)" for n, kind in had.items() if n not in source]
    if wrong:
        raise ConfigurationError(
            f"{_where(table, change)}: the existing table doesn't fit: {', '.join(wrong)}. Name another table in the"
            " pipeline file, or rename the existing one and let Lakeward create it"
        )


def _stored(
    table: str, change: ChangeBatch, field: pa.Field, stored: Callable[[pa.DataType], pa.DataType]
) -> pa.DataType:
    """The stored type of a column; a format that has none for it says so without knowing whose it is."""
    try:
        return stored(field.type)
    except UnsupportedChange as error:
        raise UnsupportedChange(f"{_where(table, change)}: column {field.name}: {error}") from error


def _check_names(table: str, change: ChangeBatch) -> None:
    taken = sorted(CDC_NAMES.intersection(change.schema.columns.names))
    if taken:
        raise UnsupportedChange(
            f"{_where(table, change)}: the source has columns named {', '.join(taken)}, which each row of a sink table"
            " has for its own; rename them at the source or leave them out with the connector's column.exclude.list"
        )


def _where(table: str, change: ChangeBatch) -> str:
    schema = "" if change.schema.id is None else f", schema id {change.schema.id}"
    return f"table {table}, topic {change.topic} partition {change.partition} from offset {change.first}{schema}"
