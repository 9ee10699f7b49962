"""One look at a source table and a sink's table, in bounded memory, while changes go on.

    a snapshot of the source begins (its position is known); the topic's ends are noted just before it
    checksums of key ranges, over all rows of the snapshot
    wait until the sink's table holds all changes up to the position; that version of it is the one that is read
    checksums of key ranges, over all its rows
    of the ranges that differ: rows of the snapshot, rows of the version, and the changes in the topic between the
    noted ends and the version's offsets, set aside on disk in parts
    part by part: the snapshot's rows after those changes must be the version's rows

The version holds every change up to its offsets, the snapshot every change up to its position, and what one has and
the other hasn't is among those changes: so a change under way is no difference, however often a row is changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import pyarrow as pa

from sinks.factory import TablePlan
from sources.changes import CDC_UNCHANGED, TopicPartition
from verify.compare import Differing, Kind, compare, concat, fold, overlay
from verify.digests import Digests, Keys, Ranges, Selection, hash_keys, hash_rows
from verify.events import LOG_FIELDS, ORDER_FIELDS, Events
from verify.lake import LakeVersion, open_lake
from verify.passing import Passing
from verify.progress import Progress, Say
from verify.report import ColumnsChanged
from verify.shape import Shape, shape_of
from verify.source import SourceReader, SourceSnapshot, SourceTable, Take
from verify.spill import Spill, spill_for
from verify.sql_keys import exact, in_parts
from verify.truncates import Truncates

_ORDER = tuple(field.name for field in ORDER_FIELDS)


LOOKUP_KEYS = 2_000
"""Rows of the source that are looked up by key; more are found by reading all of it."""


@dataclass(frozen=True)
class Pair:
    """A source table and a table of a sink that it is written into."""

    plan: TablePlan
    topic: str
    table: SourceTable
    source: SourceReader
    passing: Passing
    events: Events
    say: Say

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.table.name} → {self.plan.target.sink_id}"

    @property
    def is_log(self) -> bool:
        """Whether the sink's table is a change log, which is compared by the table that it describes."""
        return self.plan.settings.write_mode == "append"


@dataclass
class Look:
    """What one look found.

    `rows`: of source and sink (of a look at all rows). `uncertain`: some changes under way couldn't be read, so that
    differences which they may explain are counted too. `first`: the first differences in key order, of each kind.
    `few`: all keys that differ, None if there are more than `LOOKUP_KEYS`. `repairable`: keys of rows that the source
    can send again; `extra`: of those that only the sink has. `before`: the topic's ends just before the snapshot began.
    """

    position: str
    notes: tuple[str, ...]
    rows: tuple[int, int] = (0, 0)
    uncertain: bool = False
    counts: dict[Kind, int] = field(default_factory=dict)
    keys: Keys = field(default_factory=Keys)
    first: Differing | None = None
    few: list[pa.Table] | None = field(default_factory=list)
    repairable: list[pa.Table] = field(default_factory=list)
    extra: list[pa.Table] = field(default_factory=list)
    before: Mapping[TopicPartition, int] = field(default_factory=dict)

    @property
    def differences(self) -> int:
        """Keys that differ."""
        return sum(self.counts.values())

    def add(self, found: Differing, limits: Limits) -> None:
        """Take in the differences of a part."""
        for kind, count in found.counts.items():
            self.counts[kind] = self.counts.get(kind, 0) + count
        self.keys.add(hash_keys(found.keys(), found.key))
        if self.few is not None:
            self.few.append(found.keys())
            if self.differences > LOOKUP_KEYS:
                self.few = None
        self.first = concat(self.first or found.none(), found, limits.examples)
        kinds: tuple[tuple[list[pa.Table], tuple[Kind, ...]], ...] = (
            (self.repairable, ("missing", "different")),
            (self.extra, ("extra",)),
        )
        for keys, some in kinds:
            keys.append(found.keys(*some).slice(0, max(0, limits.repairs + 1 - sum(map(len, keys)))))


@dataclass(frozen=True)
class Limits:
    """How many differences of each kind are kept as examples, and how many keys for a repair (and one more)."""

    examples: int
    repairs: int


BEGINNINGS = 3
"""How often a look is begun at a table whose columns change meanwhile."""


async def look(pair: Pair, only: Look | None, limits: Limits, take: Callable[[Look, Differing], None]) -> Look:
    """Compare all rows, or `only` those that differed in an earlier look; `take` is given the differences by parts.

    Raises Unclear for what keeps it from being told, and LakewardError for what is out of reach.
    """
    for _ in range(BEGINNINGS - 1):
        with suppress(ColumnsChanged):
            return await _look(pair, only, limits, take)
    return await _look(pair, only, limits, take)


async def _look(pair: Pair, only: Look | None, limits: Limits, take: Callable[[Look, Differing], None]) -> Look:
    before = await pair.passing.ends([pair.topic])
    first = await asyncio.to_thread(open_lake, pair.plan, pair.topic, ())
    shape = shape_of(pair.table, first, pair.source)
    async with pair.source.snapshot() as snapshot:
        found = Look(snapshot.position.text, shape.notes, before=before)
        source = Digests()
        if only is None:
            await _read(pair, snapshot, shape, "checksums", ["TRUE"], lambda rows: source.add(rows, shape.key))
        lake = await pair.passing.written(pair.plan, pair.topic, await pair.passing.sent(snapshot.position))
        if (lake.columns if lake else None) != (first.columns if first else None):
            raise ColumnsChanged("the columns of the sink's table changed while it was looked at; run it again")
        sides = _Sides(pair, shape, snapshot, lake, before)
        selection: Selection
        if only is None:
            sink = await asyncio.to_thread(sides.sink_digests)
            found.rows = source.rows, sink.rows
            marks = source.differing(sink)
            if not marks.any():
                return found
            selection = Ranges(marks)
            expected = int(max(source.counts[marks].sum(), sink.counts[marks].sum()))
            pair.say(f"{pair.name}: {int(marks.sum()):,} of {len(marks):,} key ranges differ, comparing their rows")
        else:
            selection, expected = only.keys, only.keys.count
        with spill_for(expected * (3 if pair.is_log else 1)) as spill:
            found.uncertain = await sides.set_aside(spill, selection, _conditions(pair, only))
            for part in range(spill.parts):
                differing = await asyncio.to_thread(sides.compare, spill, part, overlaid=not found.uncertain)
                found.add(differing, limits)
                await asyncio.to_thread(take, found, differing)
    return found


def _conditions(pair: Pair, only: Look | None) -> list[str]:
    """In SQL, which of the source's rows are read: those of a few keys by these, else all."""
    if only is None or not only.few:
        return ["TRUE"]
    keys = pa.concat_tables(only.few)
    return (
        [pair.source.key_filter(pair.table, part) for part in in_parts(keys, pair.table.key)]
        if exact(pair.table, keys)
        else ["TRUE"]
    )


async def _read(
    pair: Pair, snapshot: SourceSnapshot, shape: Shape, what: str, conditions: Sequence[str], take: Take
) -> None:
    progress = Progress(f"{pair.name}: {what}, source", pair.table.rows, pair.say)

    def taken(rows: pa.Table) -> None:
        take(shape.of(rows))
        progress.advance(len(rows))

    for condition in conditions:
        await snapshot.read(pair.table.name, shape.readings, taken, condition)


class _Sides:
    """Both sides of one look, and the changes between them."""

    def __init__(
        self,
        pair: Pair,
        shape: Shape,
        snapshot: SourceSnapshot,
        lake: LakeVersion | None,
        before: Mapping[TopicPartition, int],
    ) -> None:
        self.pair = pair
        self.shape = shape
        self.snapshot = snapshot
        self.lake = lake
        self.before = before
        self._sink_truncates = Truncates()
        self._truncates = Truncates(len(before))

    def sink_digests(self) -> Digests:
        """Checksums of the sink's table; a change log's are those of the table that it describes."""
        digests = Digests()
        if not self.pair.is_log:
            self._read_sink("checksums", self.shape.columns.names, lambda rows: digests.add(rows, self.shape.key))
            return digests
        with spill_for(self.lake.rows if self.lake else 0) as spill:
            with spill.writing("log"):
                names = [*self.shape.columns.names, *_ORDER]
                self._read_sink("checksums", names, lambda rows: self._digest(rows, spill))
            for part in range(spill.parts):
                rows = fold(self._sink_truncates.surviving(spill.read("log", part, _DIGEST_LOG)), ["key"])
                digests.add_hashes(*(rows.column(name).to_numpy() for name in ("key", "first", "second")))
        return digests

    def _digest(self, log: pa.Table, spill: Spill) -> None:
        """Of each change its hashes and its place are enough to fold them. One that lacks values makes its range
        differ, so that its row is folded from the columns."""
        keys = hash_keys(log, self.shape.key)
        first, second = hash_rows(log.select(self.shape.columns.names))
        arrays = [pa.array(keys), pa.array(first), pa.array(second), *(log.column(name) for name in _ORDER)]
        spill.add(pa.table(arrays, schema=_DIGEST_LOG), keys)

    async def set_aside(self, spill: Spill, selection: Selection, conditions: Sequence[str]) -> bool:
        """The rows of the selected keys, of both sides (of the source where these conditions hold) and of the changes
        between them; whether some of those couldn't be read."""

        def take(rows: pa.Table) -> None:
            keys = hash_keys(rows, self.shape.key)
            marks = selection.marks(keys)
            if marks.any():
                spill.add(rows.filter(pa.array(marks)), keys[marks])

        with spill.writing("source"):
            await _read(self.pair, self.snapshot, self.shape, "rows", conditions, take)
        with spill.writing("sink"):
            names = [*self.shape.columns.names, *(self._log_names if self.pair.is_log else ())]
            await asyncio.to_thread(self._read_sink, "rows", names, take)
        offsets = self.lake.offsets if self.lake else {}
        ranges = {tp: (first, offsets.get(tp, first)) for tp, first in self.before.items()}
        with spill.writing("changes"):
            rejected = await self.pair.events.read(
                ranges, self.shape.columns, lambda rows: take(self.shape.of(self._truncates.without(rows)))
            )
        return rejected > 0

    def compare(self, spill: Spill, part: int, *, overlaid: bool) -> Differing:
        """One part of what was set aside; the changes between the sides explain differences if they are `overlaid`."""
        columns, key = self.shape.columns, self.shape.key
        log = pa.schema([*columns, *LOG_FIELDS])
        source = spill.read("source", part, columns)
        sink = spill.read("sink", part, log if self.pair.is_log else columns)
        if self.pair.is_log:
            sink = fold(self._sink_truncates.surviving(sink), key).select(columns.names)
        if overlaid:
            if self._truncates.any:
                source = columns.empty_table()
            source = overlay(source, self._truncates.surviving(spill.read("changes", part, log)), key)
        return compare(source, sink, key)

    @property
    def _log_names(self) -> tuple[str, ...]:
        """What a change log is folded by."""
        there = self.lake is not None and CDC_UNCHANGED in self.lake.columns.names
        return (*_ORDER, CDC_UNCHANGED) if there else _ORDER

    def _read_sink(self, what: str, names: list[str], take: Take) -> None:
        """The sink's rows; of a change log those that are no truncates, which are kept in mind."""
        if self.lake is None:
            return
        progress = Progress(f"{self.pair.name}: {what}, sink", self.lake.rows, self.pair.say)

        def taken(rows: pa.Table) -> None:
            take(self.shape.of(self._sink_truncates.without(rows) if self.pair.is_log else rows))
            progress.advance(len(rows))

        self.lake.read(names, taken)


_DIGEST_LOG = pa.schema(
    [pa.field(name, pa.uint64(), nullable=False) for name in ("key", "first", "second")] + list(ORDER_FIELDS)
)
