"""What a batch's schemas ask of a table, and what the sink's `schema_evolution` says to it.

Pure; every sink calls `evolve` before it writes, inside its commit loop, with what a fresh look at the destination
shows. No column is ever taken away and no type narrowed, so nothing that a table holds is lost by a change, and records
of an older schema still find their columns when they come later (a partition that lags behind, a replay).

What a change is told by:

- A column that the table lacks, or has at another type, is a change whatever the age of the record's schema: its values
  need a place. Which one follows from the name, the type and the table's columns alone (`widening.beside`).
- A column that only the table has was dropped or renamed if the record's schema is *new*: its id is above the highest
  one that a commit of this sink recorded (the registry's ids grow). A lower one is a partition that lags behind, or a
  source that went back to an old shape and got the old id back: its rows have nulls.
- A JSON record has no schema id: lacking a column that the table had before this write is a drop each time.
- Nobody says that a column was renamed: a schema that lacks a column and brings another one of its type may do that.
- A table that several topics feed unites their columns by name: there, a missing column or a narrower type is normal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from config.errors import ConfigurationError, SchemaRefused, UnsupportedChange
from config.evolution import Policy, SchemaEvolution
from sinks.base import Batch
from sinks.conform import Place, Places, conformed
from sinks.schema_changes import Before, Finding, Format, direction
from sinks.widening import beside, holds
from sources.changes import CDC_NAMES, CDC_OFFSET, CDC_UNCHANGED, UNCHANGED_FIELD, ChangeBatch

JSON_SEEN = 0
"""The history's mark of a topic whose records carry no schema id (registries count from 1)."""

Targets = dict[str, str | None]
"""The table's column for each of a change's; None for one that is left out."""


@dataclass(frozen=True)
class Told:
    """A finding, and the policy that was followed, in a record's schema of a topic."""

    topic: str
    schema_id: int | None
    finding: Finding
    policy: Policy


@dataclass(frozen=True)
class Evolution:
    """`add`: the columns to add, nullable, at stored types, in the source's order. `widen`: columns that widen in
    place, at their new types. `relax`: required columns that become optional. `schema_ids`: per topic the new highest
    writer schema id, of the topics where it changes; to be written with the rows. `told`: what was found and done.

    `places`: of each change in order, the columns that don't go to their own name as they are. `columns`, `key`: the
    table's afterwards.
    """

    add: tuple[pa.Field, ...]
    schema_ids: Mapping[str, int]
    widen: tuple[pa.Field, ...] = ()
    relax: tuple[str, ...] = ()
    told: tuple[Told, ...] = ()
    places: tuple[Places, ...] = ()
    columns: Mapping[str, pa.DataType] = field(default_factory=dict)
    key: tuple[str, ...] = ()

    def applied(self, batch: Batch) -> Batch:
        """`batch`, whose changes this was made of, with its columns as the evolved table has them.

        Raises UnsupportedChange for a value that doesn't fit a type that is to stay.
        """
        pairs = zip(batch.changes, self.places, strict=True)
        changes = [conformed(change, places, self.columns, self.key) for change, places in pairs]
        return Batch(batch.ranges, changes, batch.partition_counts)


def evolve(
    before: Before, changes: Sequence[ChangeBatch], policies: SchemaEvolution, form: Format | None = None
) -> Evolution:
    """Compare each change's schema, in order, with the table as the changes before it leave it.

    Raises UnsupportedChange for a change that stops, SchemaRefused with all records that are set aside,
    ConfigurationError if the table was there before its first write and doesn't fit.
    """
    planner = _Planner(before, policies, form or Format())
    for change in changes:
        planner.take(change)
    return planner.plan(changes)


class _Planner:
    """The table as the changes so far leave it."""

    def __init__(self, before: Before, policies: SchemaEvolution, form: Format) -> None:
        self._before = before
        self._policies = policies
        self._form = form
        fields = [field for field in before.columns if field.name not in CDC_NAMES]
        self._had = {field.name: field.type for field in fields}
        self._now = dict(self._had)
        self._required = [field.name for field in fields if not field.nullable and field.name not in before.key]
        self._relax: list[str] = []
        self._ids = dict(before.highest)
        self._told: list[Told] = []
        self._targets: list[Targets] = []
        self._alike: dict[tuple[str, int], Targets] = {}
        self._refused: dict[tuple[str, int, int], str] = {}

    def take(self, change: ChangeBatch) -> None:
        """Find what the change's schema asks for, and do as the policies say.

        Most changes of a batch share one schema, which is then looked at once.
        """
        alike = change.topic, id(change.schema)
        if alike in self._alike:
            self._targets.append(self._alike[alike])
            return
        columns = {field.name: self._stored(change, field) for field in change.schema.columns}
        if self._had and change.topic not in self._ids:
            self._check_fits(change, columns)
        self._check_names(change)
        if not self._now:
            self._now.update(columns)  # a table that has no columns yet gets those of its first record
        told = [Told(change.topic, change.schema.id, finding, self._policy(change, finding)) for finding in
                self._find(change, columns)]  # fmt: skip
        for item in told:
            if self._stops(item):
                raise UnsupportedChange(f"{self._where(change)}: {item.finding}. {item.finding.way_out}")
        aside = next((item.finding for item in told if item.policy == "quarantine"), None)
        if aside is not None:
            reason = f"{self._where(change)}: {aside}, and schema_evolution.{aside.kind} is quarantine"
            offsets = change.rows.column(CDC_OFFSET).to_pylist()
            self._refused |= {(change.topic, change.partition, offset): reason for offset in offsets}
            return
        targets: Targets = {}
        for item in told:
            self._follow(change, item, targets)
        self._targets.append({name: self._target(name, kind, targets) for name, kind in columns.items()})
        self._told += told
        seen = JSON_SEEN if change.schema.id is None else change.schema.id
        highest = max(seen, self._ids.get(change.topic, seen))
        if told or self._ids.get(change.topic) != highest:
            self._alike.clear()
        self._ids[change.topic] = highest
        if change.schema.key or not self._before.key:  # whether a change without key fits depends on its rows
            self._alike[alike] = self._targets[-1]

    def plan(self, changes: Sequence[ChangeBatch]) -> Evolution:
        """What all changes together ask for."""
        if self._refused:
            raise SchemaRefused(self._refused)
        before = self._before
        add = [pa.field(name, kind) for name, kind in self._now.items() if name not in self._had]
        if before.log and CDC_UNCHANGED not in before.columns.names and any(c.lacks_values for c in changes):
            add.append(pa.field(CDC_UNCHANGED, self._form.stored(UNCHANGED_FIELD.type)))
        return Evolution(
            tuple(add),
            {topic: i for topic, i in self._ids.items() if before.highest.get(topic) != i},
            tuple(pa.field(name, self._now[name]) for name, kind in self._had.items() if self._now[name] != kind),
            tuple(self._relax),
            tuple(self._told),
            tuple(self._places(changes)),
            self._now,
            before.key,
        )

    def _places(self, changes: Sequence[ChangeBatch]) -> Iterator[Places]:
        """A column is also cast where the batch's other changes bring another type into the same one."""
        alike = [(id(change.schema), id(targets)) for change, targets in zip(changes, self._targets, strict=True)]
        first = {key: (changes[n], self._targets[n]) for n, key in enumerate(alike)}
        types: dict[str | None, set[pa.DataType]] = {}
        for change, targets in first.values():
            for source in change.schema.columns:
                types.setdefault(targets[source.name], set()).add(source.type)
        known = {key: self._places_of(change, targets, types) for key, (change, targets) in first.items()}
        return (known[key] for key in alike)

    def _places_of(self, change: ChangeBatch, targets: Targets, types: Mapping[str | None, set[pa.DataType]]) -> Places:
        places: dict[str, Place] = {}
        for source in change.schema.columns:
            to = targets[source.name]
            if to is None:
                places[source.name] = Place(None, source.type)
            elif to != source.name or len(types[to]) > 1 or self._form.stored(source.type) != self._now[to]:
                places[source.name] = Place(to, self._now[to])
        return places

    # -- what is found

    def _find(self, change: ChangeBatch, columns: Mapping[str, pa.DataType]) -> list[Finding]:
        before, schema = self._before, change.schema
        if before.key and set(schema.key) != set(before.key) and not change.truncates_only:
            of_records = ", ".join(schema.key) or "none"
            text = f"the primary key is ({of_records}), but the table is written by ({', '.join(before.key)})"
            return [Finding("key", text)]
        highest = self._ids.get(change.topic)
        new = schema.id is not None and (highest is None or schema.id > highest)
        found = [
            finding
            for name, kind in columns.items()
            if (finding := self._other_type(change, name, kind, new=new)) is not None
        ]
        gone = {} if before.shared else self._gone(change, new=new)
        for name, kind in columns.items():
            if name in self._now and name not in before.born:
                continue
            old = next((column for column, was in gone.items() if was == kind), None)
            if old is not None:
                found.append(Finding("rename", old, was=gone.pop(old)))
            if name not in self._now:
                found.append(Finding("add" if old is None else "rename", name, now=kind))
        found += [Finding("drop", name, was=was) for name, was in gone.items()]
        found += [
            Finding("nullability", name, self._now[name], self._now[name])
            for name in self._required
            if name not in self._relax and (before.log or name not in columns or schema.columns.field(name).nullable)
        ]
        return found

    def _other_type(self, change: ChangeBatch, name: str, kind: pa.DataType, *, new: bool) -> Finding | None:
        was = self._now.get(name)
        if was is None or was == kind or self._now.get(beside(name, kind)) == kind:
            return None
        finding = Finding(direction(was, kind), name, was, kind)
        if finding.kind == "narrow" and (not new or self._before.shared):
            return None
        if name in self._before.key and not self._stays_key(change, finding):
            return Finding("key", name, was, kind)
        return finding

    def _stays_key(self, change: ChangeBatch, finding: Finding) -> bool:
        """A key of another type is other bytes, which Kafka's partitioner puts elsewhere: with several partitions
        nobody knows which of a key's changes came first. And a column beside the old one is no key."""
        widens = finding.kind == "widen" and self._policies.widen == "evolve" and self._widens(finding)
        in_place = finding.kind == "narrow" or widens
        return self._before.partitions.get(change.topic) == 1 and in_place

    def _gone(self, change: ChangeBatch, *, new: bool) -> dict[str, pa.DataType]:
        """Columns of the table that the records should have and lack."""
        if change.schema.id is None:
            expected = {name: kind for name, kind in self._had.items() if name not in self._before.born}
        else:
            expected = self._now if new else {}
        names = set(change.schema.columns.names)
        return {
            name: kind
            for name, kind in expected.items()
            if name not in names and not any(name == beside(column, kind) for column in names)
        }

    # -- what is done

    def _policy(self, change: ChangeBatch, finding: Finding) -> Policy:
        if finding.kind == "add" and self._before.shared and change.topic not in self._ids:
            return "evolve"  # one more topic brings its columns: nothing has changed
        policy: Policy = getattr(self._policies, finding.kind)
        return policy

    def _stops(self, item: Told) -> bool:
        kind, policy = item.finding.kind, item.policy
        if kind == "widen" and policy == "evolve":
            return not self._widens(item.finding)
        return policy == "stop" or (policy == "freeze" and kind in ("type", "nullability"))

    def _widens(self, finding: Finding) -> bool:
        was = self._had.get(finding.column)  # a column that isn't there yet is made at the wider type
        return was is None or self._form.widens(was, finding.now)

    def _follow(self, change: ChangeBatch, item: Told, targets: Targets) -> None:
        finding, policy = item.finding, item.policy
        name, kind = finding.column, finding.now
        if kind is None or finding.kind == "narrow":
            return
        if finding.kind == "nullability":
            self._relax.append(name)
        elif finding.kind in ("add", "rename"):
            if policy == "freeze":
                targets[name] = None
            else:
                self._check_case(change, name)
                self._now[name] = kind
        elif finding.kind == "widen" and policy == "evolve":
            self._now[name] = kind
        elif finding.kind == "type" or policy == "lenient":
            other = beside(name, kind)
            self._check_free(change, name, other)
            self._now[other] = kind

    def _target(self, name: str, kind: pa.DataType, targets: Targets) -> str | None:
        if name in targets:
            return targets[name]
        other = beside(name, kind)
        return other if self._now[name] != kind and self._now.get(other) == kind else name

    # -- what can't be

    def _check_fits(self, change: ChangeBatch, columns: Mapping[str, pa.DataType]) -> None:
        """A table that was there before the topic's first write has to fit as it is: it may be somebody else's."""
        had = self._had
        wrong = [
            f"{name} ({had[name]} in the table, {kind} in the records)"
            for name, kind in columns.items()
            if name in had and not holds(had[name], kind)
        ]
        if not self._before.shared:
            wrong += [f"{n} ({kind}, not in the records)" for n, kind in had.items() if n not in columns]
        if wrong:
            raise ConfigurationError(
                f"{self._where(change)}: the existing table doesn't fit: {', '.join(wrong)}. Name another table in the"
                " pipeline file, or rename the existing one and let Lakeward create it"
            )

    def _check_names(self, change: ChangeBatch) -> None:
        taken = sorted(CDC_NAMES.intersection(change.schema.columns.names))
        if taken:
            raise UnsupportedChange(
                f"{self._where(change)}: the source has columns named {', '.join(taken)}, which each row of a sink"
                " table has for its own; rename them at the source or leave them out with the connector's"
                " column.exclude.list"
            )

    def _check_case(self, change: ChangeBatch, name: str) -> None:
        alike = next((column for column in self._now if column.lower() == name.lower()), None)
        if alike is not None:
            raise UnsupportedChange(
                f"{self._where(change)}: the new column {name} differs from the table's column {alike} by case only,"
                " which most engines can't tell apart. Rename one of the two"
            )

    def _check_free(self, change: ChangeBatch, name: str, other: str) -> None:
        if other in change.schema.columns.names or other in self._now:
            raise UnsupportedChange(
                f"{self._where(change)}: the new type of column {name} would go into {other}, but there is a column of"
                " that name already. Rename that one, or write into a new table: rename this one and start from a new"
                " snapshot"
            )

    def _stored(self, change: ChangeBatch, source: pa.Field) -> pa.DataType:
        """The stored type of a column; a format that has none for it says so without knowing whose it is."""
        try:
            return self._form.stored(source.type)
        except UnsupportedChange as error:
            raise UnsupportedChange(f"{self._where(change)}: column {source.name}: {error}") from error

    def _where(self, change: ChangeBatch) -> str:
        schema = "" if change.schema.id is None else f", schema id {change.schema.id}"
        place = f"topic {change.topic} partition {change.partition} from offset {change.first}"
        return f"table {self._before.name}, {place}{schema}"
