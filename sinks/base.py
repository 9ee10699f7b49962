"""What a sink is: five verbs over one destination table, and the batch and receipt that pass through them.

The contract, which `tests/contract` runs over every sink:

1. The destination owns the offset: `committed` reads it there, never from memory.
2. `write` is all or nothing: rows and next offsets land in one atomic commit, or nothing does.
3. `write` is a compare-and-swap. What the destination already has is trimmed (a stale writer, a lost response,
   an overlapping batch); a hole is refused with `OffsetGap`.
4. A batch without rows still moves the offsets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol

from config.errors import OffsetGap
from sources.changes import ChangeBatch, TopicPartition


class OffsetRange(NamedTuple):
    """The offsets [first, next) of one Kafka partition."""

    first: int
    next: int


@dataclass(frozen=True)
class Target:
    """One destination table of one sink.

    `topics` feed it: one, or several in append mode. `name` is the table as users know it (`namespace.table`,
    a table URI), for logs and pages.
    """

    pipeline_id: str
    sink_id: str
    topics: tuple[str, ...]
    name: str


@dataclass(frozen=True)
class Batch:
    """Changes for one table over `ranges`, from all Kafka partitions that this worker feeds it from.

    `changes` are in offset order within each partition and lie inside `ranges`; a range may hold no change at
    all. `partition_counts` is how many partitions each topic had when the batch was read: a key's partition
    depends on it.
    """

    ranges: Mapping[TopicPartition, OffsetRange]
    changes: Sequence[ChangeBatch]
    partition_counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        return sum(change.rows.num_rows for change in self.changes)

    @property
    def keyed(self) -> Sequence[ChangeBatch]:
        """The changes that say what the table's key is: all but truncates."""
        return [change for change in self.changes if not change.truncates_only]

    def trim(self, committed: Mapping[TopicPartition, int]) -> Batch:
        """What the destination doesn't have yet, given its next wanted offsets.

        A partition without a committed offset is taken as it is. Raises OffsetGap when a range starts after the
        offset that the destination wants next.
        """
        ranges: dict[TopicPartition, OffsetRange] = {}
        for tp, (first, end) in self.ranges.items():
            wanted = committed.get(tp, first)
            if first > wanted:
                raise OffsetGap(
                    f"{tp.topic}/{tp.partition}: the destination wants offset {wanted} next, but the batch starts"
                    f" at {first}; {first - wanted} offsets are missing (retention or a log that was cut?). Raise"
                    " the topic's retention and restore the records, or snapshot the source anew into a new table"
                )
            if end > wanted:
                ranges[tp] = OffsetRange(wanted, end)
        changes = []
        for change in self.changes:
            span = ranges.get(change.tp)
            if span is None or change.next <= span.first:
                continue
            changes.append(change if change.first >= span.first else change.after_offset(span.first))
        return Batch(ranges, changes, self.partition_counts)


@dataclass(frozen=True)
class TableFiles:
    """What a lake table consists of: data files, delete files, and the bytes of all of them."""

    data: int
    deletes: int
    bytes: int


@dataclass(frozen=True)
class Receipt:
    """What a write did: the destination's next wanted offsets after it (of the batch's partitions), the snapshot
    id or version that holds them (None if the destination had everything already), when, how many rows, and the
    table's files as last seen."""

    next_offsets: Mapping[TopicPartition, int]
    version: int | None
    committed_at: datetime
    rows: int
    files: TableFiles | None = None


class Sink(Protocol):
    """One destination table. Synchronous; all calls come from the one writer thread of this table.

    Every verb raises `Unavailable` for what a later call may cure, `ConfigurationError` for what only the user
    can, `PipelineStopped` for what would lose data.
    """

    target: Target

    def open(self) -> None:
        """Reach the destination and check that an existing table fits. Idempotent; creates nothing."""

    def committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The destination's next wanted offsets, freshly read; partitions that it knows nothing of are absent."""

    def write(self, batch: Batch) -> Receipt:
        """Land what the destination doesn't have of `batch`, with the offsets, in one atomic commit."""

    def tidy(self, *, hurried: bool = False) -> None:
        """A part of the upkeep that keeps the table fast, of at most a few seconds; called after each commit.

        `hurried`: rows are waiting, so only what can't wait is done. Changes no row and no offset. What fails is left
        to the next call.
        """

    def close(self) -> None:
        """Let go of files, connections and local state. Idempotent."""
