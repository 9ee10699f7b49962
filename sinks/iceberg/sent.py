"""Commits on their way: what was sent to the catalog, and what the table shows of it.

An answer may be lost, and a refusal may be that of a repetition: whoever stands between worker and catalog (a proxy, or
the catalog itself) may send a request again, whose first sending has landed and is what the second one meets. So the
table alone says what came of a commit, and its files are only removed once it shows another one in its place.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum, auto

from pyiceberg.manifest import DataFile
from pyiceberg.schema import Schema
from pyiceberg.table import Table

from sinks.base import Batch
from sinks.evolution import Evolution
from sinks.iceberg.commit import Prepared
from sinks.iceberg.state import SinkState, lineage
from sinks.iceberg.tidy import Tidied
from sinks.iceberg.upsert import RowDelta


@dataclass(frozen=True)
class Staged:
    """Files written for a batch, for one schema of the table; `delta` is what the key index learns of them."""

    batch: Batch
    schema: Schema
    files: list[DataFile]
    delta: RowDelta | None


@dataclass(frozen=True)
class Written:
    """A batch's change of the table: its files, the sink's state with it, what it asked of the columns."""

    staged: Staged
    after: SinkState
    wanted: Evolution

    def ends(self, batch: Batch) -> bool:
        """Whether this is what was left to be written of `batch`."""
        ranges = self.staged.batch.ranges
        return all(tp in batch.ranges and batch.ranges[tp].next == span.next for tp, span in ranges.items())


class Fate(Enum):
    """What came of a commit. `SECOND`: another one is in its place, it never lands. `UNKNOWN`: it isn't there, but may
    be on its way, or may have been and have left the history since."""

    LANDED = auto()
    SECOND = auto()
    UNKNOWN = auto()


@dataclass(frozen=True)
class Sent:
    """A commit that was sent and that hasn't been seen in the table yet; the paths of the files that it removes;
    whether the answer was that another commit came first."""

    prepared: Prepared
    change: Written | Tidied
    removed: Collection[str]
    refused: bool = False

    def fate(self, table: Table) -> Fate:
        """What the table, read after the answer, shows of it."""
        metadata, prepared = table.metadata, self.prepared
        if metadata.snapshot_by_id(prepared.snapshot_id) is not None:
            return Fate.LANDED
        if not self.refused or table.metadata_location == prepared.base:
            return Fate.UNKNOWN  # a refusal whose cause isn't to be seen: the catalog shows a state from before it
        # Rolled back, the history is another one from an ancestor of its parent on.
        before = {prepared.parent_id, *(snapshot.snapshot_id for snapshot in lineage(metadata, prepared.parent_id))}
        line = lineage(metadata, metadata.current_snapshot_id)
        followed = {metadata.current_snapshot_id, *(snapshot.parent_snapshot_id for snapshot in line)}
        return Fate.UNKNOWN if before.isdisjoint(followed) else Fate.SECOND
