"""How a batch's schemas and a table are compared: the table before, what its format can do, what is found."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from config.evolution import Kind
from sinks.widening import beside, holds


def as_is(data_type: pa.DataType) -> pa.DataType:
    """The stored type of a format that stores every Arrow type of the sources unchanged."""
    return data_type


def never(was: pa.DataType, now: pa.DataType) -> bool:  # noqa: ARG001 - as a format's `widens`
    """Of a format that can't widen a column in place."""
    return False


@dataclass(frozen=True)
class Format:
    """What a table format can do. `stored`: the type at which it keeps a source type; raises UnsupportedChange if there
    is none. `widens(was, now)`: whether a column of that stored type can become one of the other type in place."""

    stored: Callable[[pa.DataType], pa.DataType] = as_is
    widens: Callable[[pa.DataType, pa.DataType], bool] = never


@dataclass(frozen=True)
class Before:
    """A table as a fresh look shows it.

    `name` is for messages. `columns` (none for a table to be created) may have the `CDC_FIELDS`. `highest`: per topic
    the highest writer schema id that a commit of this sink recorded; a topic that never wrote is absent. `shared`:
    several topics feed the table. `log`: it is a change log. `key`: an upsert table's key, empty until it has one.
    `born`: columns that an earlier attempt of this write made. `partitions`: how many each topic has.
    """

    name: str
    columns: pa.Schema
    highest: Mapping[str, int]
    shared: bool
    log: bool
    key: tuple[str, ...] = ()
    born: Collection[str] = ()
    partitions: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """One difference between a record's schema and the table: the kind of change, the column, and its type in the table
    and in the records (None where it isn't). Of another key, `column` tells both."""

    kind: Kind
    column: str
    was: pa.DataType | None = None
    now: pa.DataType | None = None

    def __str__(self) -> str:
        if self.was is None and self.now is None:
            return self.column
        if self.was is None:
            return f"the records have {self.column} ({self.now}), which isn't a column of the table"
        if self.now is None:
            return f"the records no longer have {self.column} ({self.was}): dropped or renamed at the source"
        if self.kind == "nullability":
            return f"column {self.column} is required in the table and may be null in the records"
        return f"column {self.column} is {self.was} in the table and {self.now} in the records"

    @property
    def way_out(self) -> str:
        """What a user can do where it stops a sink."""
        if self.kind == "key":
            return _NEW_TABLE
        if self.kind in ("widen", "type"):
            ways = "`evolve` (in place, where the format can) or " if self.kind == "widen" else ""
            ways += f"`lenient` (the new type goes into a column {beside(self.column, self.now)})"
            return f"Set schema_evolution.{self.kind} to {ways}; put the type back at the source; or: {_NEW_TABLE}"
        return _WAYS_OUT[self.kind]


def direction(was: pa.DataType, now: pa.DataType) -> Kind:
    """What kind of change leads from a type to another one."""
    if holds(was, now):
        return "narrow"
    return "widen" if holds(now, was) else "type"


_NEW_TABLE = "Write into a new table: rename this one and start from a new snapshot"

_WAYS_OUT: Mapping[Kind, str] = {
    "add": "Set schema_evolution.add to `evolve` (the table gets it) or `freeze` (it is left out), or add it by hand",
    "drop": "Put the column back there; set schema_evolution.drop to `lenient` (it stays, null in new rows); or drop it"
    " from the table, too",
    "rename": "Rename it in the table, too; or set schema_evolution.rename to `lenient` (both names stay)",
    "narrow": "Set schema_evolution.narrow to `evolve` (the table keeps its wider type)",
    "nullability": "Set schema_evolution.nullability to `evolve`, or make it optional by hand",
}
