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

Tables that are soon read share a snapshot, and so the wait, which lasts until Connect keeps a position again where a
source is busy (a minute by default).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic

import pyarrow as pa

from config.errors import LakewardError
from sinks.factory import TablePlan
from sources.changes import CDC_UNCHANGED, TopicPartition
from verify.compare import Differing, Kind, compare, concat, fold, overlay
from verify.digests import Digests, Keys, Ranges, Selection, hash_keys, hash_rows
from verify.events import LOG_FIELDS, ORDER_FIELDS, Events
from verify.lake import LakeVersion, open_lake
from verify.passing import Passing
from verify.progress import Progress, Say
from verify.report import ColumnsChanged, Unclear
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
    `unseen`: transactions that may have logged what the snapshot doesn't show (`SourceReader.unseen`).
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
    unseen: frozenset[str] = frozenset()

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

SHARED_SECONDS, SHARED_TABLES = 30.0, 32
"""How long a snapshot takes in further tables, and how many at most: databases keep what it shows."""

Differences = Callable[[Look, Differing], None]
"""Takes the differences that a look finds, by parts."""


def _ignored(_found: Look, _differing: Differing) -> None:
    """Nobody needs them."""


@dataclass(frozen=True)
class Wanted:
    """A look at all rows of a pair, or `only` at those that differed in an earlier one."""

    pair: Pair
    only: Look | None = None
    take: Differences = _ignored


async def look(wanted: Wanted, limits: Limits) -> Look:
    """Compare. Raises Unclear for what keeps it from being told, and LakewardError for what is out of reach."""
    [found] = await looks([wanted], limits)
    if isinstance(found, Look):
        return found
    raise found


async def looks(wanted: Sequence[Wanted], limits: Limits) -> list[Look | Unclear | LakewardError]:
    """Compare each, several in one snapshot; what was found, or why it can't be told."""
    results: dict[int, Look | Unclear | LakewardError] = {}
    tries = dict.fromkeys(range(len(wanted)), BEGINNINGS)
    while left := [number for number in tries if number not in results]:
        for number, found in (await _share([(number, wanted[number]) for number in left], limits)).items():
            tries[number] -= 1
            if not isinstance(found, ColumnsChanged) or not tries[number]:
                results[number] = found
    return [results[number] for number in tries]


async def _share(wanted: Sequence[tuple[int, Wanted]], limits: Limits) -> dict[int, Look | Unclear | LakewardError]:
    """The first of these looks, in one snapshot."""
    source, passing = wanted[0][1].pair.source, wanted[0][1].pair.passing
    found: dict[int, Look | Unclear | LakewardError] = {}
    begun: dict[int, _Beginning] = {}
    try:
        before = await passing.ends(sorted({one.pair.topic for _, one in wanted}))
        # of the transactions that the topic may be ahead by, whoever isn't named here is in the snapshot
        tables = sorted({one.pair.table.name for _, one in wanted[:SHARED_TABLES]})
        unseen = {table: await source.unseen(table) for table in tables}
        async with source.snapshot() as snapshot:
            end = monotonic() + SHARED_SECONDS
            for number, one in wanted[:SHARED_TABLES]:
                if (begun or found) and monotonic() > end:
                    break
                try:
                    begun[number] = await _begin(one, snapshot, before, unseen[one.pair.table.name])
                except (Unclear, LakewardError) as error:
                    found[number] = error
            for number, beginning in begun.items():
                try:
                    found[number] = await _finish(beginning, limits)
                except (Unclear, LakewardError) as error:
                    found[number] = error
    except (Unclear, LakewardError) as error:
        found.setdefault(wanted[0][0], error)  # the others have another snapshot, if there is one
    return found


@dataclass(frozen=True)
class _Beginning:
    """A look whose source has been read, as far as that goes without knowing what differs."""

    wanted: Wanted
    found: Look
    snapshot: SourceSnapshot
    shape: Shape
    lake: LakeVersion | None
    digests: Digests


async def _begin(
    wanted: Wanted, snapshot: SourceSnapshot, ends: Mapping[TopicPartition, int], unseen: frozenset[str]
) -> _Beginning:
    pair = wanted.pair
    if wanted.only is None:
        pair.say(f"comparing {pair.table.name} with {pair.plan.target.sink_id} → {pair.plan.target.name}")
    lake = await asyncio.to_thread(open_lake, pair.plan, pair.topic, ())
    shape = shape_of(pair.table, lake, pair.source)
    before = {tp: end for tp, end in ends.items() if tp.topic == pair.topic}
    digests = Digests()
    if wanted.only is None:
        await _read(pair, snapshot, shape, "checksums", ["TRUE"], lambda rows: digests.add(rows, shape.key))
    found = Look(snapshot.position.text, shape.notes, before=before, unseen=unseen)
    return _Beginning(wanted, found, snapshot, shape, lake, digests)


async def _finish(begun: _Beginning, limits: Limits) -> Look:
    pair, only, found, shape = begun.wanted.pair, begun.wanted.only, begun.found, begun.shape
    lake = await pair.passing.written(pair.plan, pair.topic, await pair.passing.sent(begun.snapshot.position))
    if (lake.columns if lake else None) != (begun.lake.columns if begun.lake else None):
        raise ColumnsChanged("the columns of the sink's table changed while it was looked at; run it again")
    sides = _Sides(pair, shape, begun.snapshot, lake, found.before)
    selection: Selection
    if only is None:
        sink = await asyncio.to_thread(sides.sink_digests)
        found.rows = begun.digests.rows, sink.rows
        marks = begun.digests.differing(sink)
        if not marks.any():
            return found
        selection = Ranges(marks)
        expected = int(max(begun.digests.counts[marks].sum(), sink.counts[marks].sum()))
        pair.say(f"{pair.name}: {int(marks.sum()):,} of {len(marks):,} key ranges differ, comparing their rows")
    else:
        selection, expected = only.keys, only.keys.count
    with spill_for(expected * (3 if pair.is_log else 1)) as spill:
        found.uncertain = await sides.set_aside(spill, selection, _conditions(pair, only))
        for part in range(spill.parts):
            differing = await asyncio.to_thread(sides.compare, spill, part, overlaid=not found.uncertain)
            found.add(differing, limits)
            await asyncio.to_thread(begun.wanted.take, found, differing)
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
