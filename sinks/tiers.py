"""Which data files are worth a rewrite: small ones in tiers, and those with many dead rows.

`FAN_IN` files of about one size become one of the next size, up to a target, which writes a row a few times in its life
however many commits follow. Files with many dead rows are written anew without them. With the user's `maintenance` on,
what is left is compacted from time to time up to so many rows, which makes larger files.

A step is bounded in bytes of files, and in bytes of memory, too: rows of some kilobytes that all look alike are next to
nothing as a file. So a file weighs at least what its rows take in memory, divided by `MEMORY_TIMES`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import pyarrow as pa

from sinks.owners import owner_id, owner_of
from sources.changes import TopicPartition
from tables.key_index import IndexedFile

FAN_IN = 16
"""Files of one size that are merged into one of the next."""

SMALLEST_BYTES, TARGET_BYTES = 64 << 10, 8 << 20
"""Sizes of the first tier, and of the largest files that merging makes."""
LARGEST_SMALL_BYTES = TARGET_BYTES // 2
"""Larger files aren't merged any more."""

DIRTY_ROWS = 20_000
"""Dead rows of dirty files of one group that are worth a rewrite."""

STEP_BYTES, STEP_FILES = 8 << 20, 128
"""How much one step rewrites, which bounds its time and memory; the rest waits for the next one."""

MEMORY_BYTES = 128 << 20
"""Rows in memory after which a step reads no further files of a group."""
MEMORY_TIMES = MEMORY_BYTES // STEP_BYTES
"""How many times as large as its file the rows of a file may be in memory before it weighs more than its bytes."""
ROW_BYTES = 256
"""Memory of one row of `maintenance`, which the user bounds by rows: wider ones count as several."""


@dataclass(frozen=True)
class Patience:
    """What can wait: the share of dead rows up to which a file isn't dirty, and how many times as many files, dead rows
    and positions as usual may gather."""

    dirty_share: float
    times: int

    @property
    def memory_bytes(self) -> int:
        """Rows in memory after which a step reads no further files of a group."""
        return MEMORY_BYTES


CALM = Patience(0.3, 1)
HURRIED = Patience(0.7, 4)
"""While rows are waiting: rewriting takes the time of writing them, and what they replace needn't be rewritten."""


@dataclass(frozen=True)
class Compaction:
    """`maintenance`: how many small files of one group have to be there, and how many rows are brought together."""

    files: int
    rows: int

    @property
    def memory_bytes(self) -> int:
        """As `Patience.memory_bytes`."""
        return self.rows * ROW_BYTES


Files = Mapping[int, IndexedFile]
"""Data files of a Kafka partition by their numbers in the key index."""


class DataFile(Protocol):
    """A live data file: its size in bytes, and what files that may be merged have in common."""

    @property
    def size(self) -> int: ...
    @property
    def group(self) -> Hashable: ...


F = TypeVar("F", bound=DataFile)


class Width:
    """Bytes that a row of a table takes in memory, by what was lately written and read of it; 0 before that."""

    _WEIGHT_OF_NEWS = 0.25

    def __init__(self) -> None:
        self.bytes = 0.0

    def saw(self, rows: pa.Table) -> None:
        """Take in rows that were written or read."""
        if rows.num_rows:
            found = rows.nbytes / rows.num_rows
            self.bytes += (found - self.bytes) * (self._WEIGHT_OF_NEWS if self.bytes else 1.0)


@dataclass(frozen=True)
class Candidate(Generic[F]):
    """A data file of a Kafka partition, as the index and the table know it."""

    file_id: int
    indexed: IndexedFile
    live: F
    row_bytes: float

    @property
    def weight(self) -> float:
        """Its bytes, or more if its rows take much memory."""
        return max(self.live.size, self.indexed.rows * self.row_bytes / MEMORY_TIMES)

    @property
    def counted_rows(self) -> float:
        """As `Compaction.rows` has them."""
        return self.indexed.rows * max(1.0, self.row_bytes / ROW_BYTES)

    @property
    def alive_weight(self) -> float:
        return self.weight * (self.indexed.rows - self.indexed.dead) / max(1, self.indexed.rows)

    def is_dirty(self, patience: Patience) -> bool:
        return self.indexed.dead >= max(1.0, patience.dirty_share * self.indexed.rows)


Chosen = Sequence[tuple[TopicPartition, Sequence[Candidate[F]]]]
"""Files that belong together, or become one each time, per Kafka partition."""


def candidates(live: Mapping[str, F], known: Mapping[TopicPartition, Files], row_bytes: float) -> Chosen[F]:
    """The live files that these Kafka partitions own, those of one group together; a row takes so much memory, as far
    as is known."""
    found_groups: list[tuple[TopicPartition, Sequence[Candidate[F]]]] = []
    for tp, indexed in sorted(known.items()):
        groups: dict[Hashable, list[Candidate[F]]] = defaultdict(list)
        for file_id, file in indexed.items():
            found = live.get(file.path)
            if found is not None and owner_of(file.path) == owner_id(tp):
                groups[found.group].append(Candidate(file_id, file, found, row_bytes))
        found_groups += [(tp, group) for group in groups.values()]
    return found_groups


def worth_rewriting(groups: Chosen[F], when: Patience | Compaction) -> Chosen[F]:
    """What there is to rewrite of these `candidates`; no more than one step's worth. Looks at nothing but memory."""
    chosen: list[tuple[TopicPartition, Sequence[Candidate[F]]]] = []
    room, places = float(STEP_BYTES), STEP_FILES
    for tp, group in groups:
        for files in _compacted(group, when) if isinstance(when, Compaction) else _chosen(group, when):
            size = sum(candidate.weight for candidate in files)
            if (size <= room and len(files) <= places) or not chosen:
                chosen.append((tp, files))
                room, places = room - size, places - len(files)
    return chosen


def _chosen(candidates: Sequence[Candidate[F]], patience: Patience) -> Iterator[Sequence[Candidate[F]]]:
    """Files of one group that are to become one file each time."""
    dirty = [c for c in candidates if c.is_dirty(patience)]
    fan_in = FAN_IN * patience.times
    worth = len(dirty) >= fan_in or sum(c.indexed.dead for c in dirty) >= DIRTY_ROWS * patience.times
    chosen = {c.file_id: c for c in dirty} if worth else {}
    tiers: dict[int, list[Candidate[F]]] = defaultdict(list)
    for candidate in candidates:
        if candidate.alive_weight <= LARGEST_SMALL_BYTES:
            tiers[tier(candidate.alive_weight, SMALLEST_BYTES)].append(candidate)
    for files_of_tier in tiers.values():
        if len(files_of_tier) >= fan_in:
            chosen |= {c.file_id: c for c in files_of_tier}
    files: list[Candidate[F]] = []
    size = 0.0
    for candidate in sorted(chosen.values(), key=lambda c: c.alive_weight):
        if files and (size + candidate.alive_weight > TARGET_BYTES or len(files) >= STEP_FILES):
            yield files
            files, size = [], 0.0
        files.append(candidate)
        size += candidate.alive_weight
    if files:
        yield files


def _compacted(candidates: Sequence[Candidate[F]], compaction: Compaction) -> Iterator[Sequence[Candidate[F]]]:
    """Small files of one group that are to become one file each time, if enough of them are there."""
    small = sorted((c for c in candidates if 2 * c.counted_rows <= compaction.rows), key=lambda c: c.counted_rows)
    if len(small) < compaction.files:
        return
    files: list[Candidate[F]] = []
    rows = 0.0
    for candidate in small:
        if rows + candidate.counted_rows > compaction.rows:
            yield files
            files, rows = [], 0.0
        files.append(candidate)
        rows += candidate.counted_rows
    if len(files) > 1:
        yield files


def tier(size: float, smallest: float) -> int:
    """The number of the tier of this size, whose first one reaches up to `smallest`."""
    return max(0, math.floor(math.log(max(size, 1) / smallest, FAN_IN)) + 1) if size >= smallest else 0
