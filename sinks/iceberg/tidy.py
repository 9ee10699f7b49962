"""Tidying: rewriting small and dirty files of a table, so that it stays as fast as on its first day.

Each commit adds small data files, and that of an upsert a delete file, too. Untidied, readers open ever more files and
apply ever more deletes to them. So the owner of the files merges them in tiers: `FAN_IN` files of about one size become
one of the next size, up to a target, which writes a row a few times in its life however many commits follow. Files with
many dead rows are written anew without them, and delete files are merged in tiers, too, without the positions that name
files which are gone.

With the user's `maintenance` on, what is left of a table partition's files is compacted from time to time up to so many
rows, which makes larger files.

Which rows of a file are alive is read from the table's delete files, and must agree with what the key index of an
upsert table counted: if it doesn't, nothing is rewritten and the index is built anew.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table

from sinks import tiers
from sinks.at_once import at_once
from sinks.iceberg.deletes import DeletedRows
from sinks.iceberg.files import Staging
from sinks.iceberg.live_files import LiveFile, LiveFiles
from sinks.iceberg.rebuild import alive_rows, deleted_positions
from sinks.iceberg.store import columns_by_id, open_parquet
from sinks.merged_rows import merged, read_within
from sinks.owners import owner_id, owner_of
from sinks.tiers import Candidate, Chosen, Compaction, Files, Patience, candidates, tier, worth_rewriting
from sources.changes import TopicPartition
from tables.index_database import IndexDamaged
from tables.key_index import PlacedRows

POSITIONS_PER_TIER = 1_000
GARBAGE_POSITIONS = 50_000
"""Positions in delete files from which it matters that more than half of them name files that are gone."""


@dataclass(frozen=True)
class Step:
    """What is to be rewritten: data files that become one, per Kafka partition, and delete files that become one; bytes
    of rows in memory after which a group is left as it is."""

    data: Chosen[LiveFile]
    deletes: Sequence[tuple[TopicPartition, Sequence[LiveFile]]]
    memory_bytes: int


@dataclass(frozen=True)
class Tidied:
    """A step whose files are written: what comes, what goes, and what the key index learns of it."""

    files: list[DataFile] = field(default_factory=list)
    removed: set[str] = field(default_factory=set)
    placed: dict[TopicPartition, list[PlacedRows]] = field(default_factory=lambda: defaultdict(list))
    dropped: dict[TopicPartition, list[int]] = field(default_factory=lambda: defaultdict(list))

    @property
    def partitions(self) -> set[TopicPartition]:
        """The Kafka partitions whose data files change."""
        return set(self.dropped)


def due(live: LiveFiles, when: Patience | Compaction, known: Mapping[TopicPartition, Files]) -> Step | None:
    """What there is to do for the files of these Kafka partitions, None if it can wait. Looks at nothing but memory."""
    groups = candidates(live.data, known, live.width.bytes)
    data = worth_rewriting(groups, when)
    dead: dict[tuple[int, str], int] = defaultdict(int)
    for _, group in groups:
        dead[group[0].live.group] += sum(candidate.indexed.dead for candidate in group)
    deletes = [] if isinstance(when, Compaction) else list(_chosen_deletes(live, known, dead, when))
    return Step(data, deletes, when.memory_bytes) if data or deletes else None


def _chosen_deletes(
    live: LiveFiles,
    partitions: Iterable[TopicPartition],
    dead: Mapping[tuple[int, str], int],
    patience: Patience,
) -> Iterator[tuple[TopicPartition, Sequence[LiveFile]]]:
    """Delete files of one owner and group that are to become one."""
    owners = {owner_id(tp): tp for tp in partitions}
    groups: dict[tuple[int, str], list[tuple[TopicPartition, LiveFile]]] = defaultdict(list)
    for file in live.deletes.values():
        owner = owner_of(file.path)
        if owner in owners:
            groups[file.group].append((owners[owner], file))
    for group, owned in groups.items():
        files = [file for _, file in owned]
        positions = sum(file.rows for file in files)
        if positions >= GARBAGE_POSITIONS * patience.times and positions > 2 * dead[group]:
            yield min(tp for tp, _ in owned), files
            continue
        sizes: dict[int, list[LiveFile]] = defaultdict(list)
        for file in files:
            sizes[tier(file.rows, POSITIONS_PER_TIER)].append(file)
        merged = [file for found in sizes.values() if len(found) >= tiers.FAN_IN * patience.times for file in found]
        if merged:
            yield min(tp for tp, _ in owned), merged


def stage(
    step: Step,
    staging: Staging,
    table: Table,
    live: LiveFiles,
    partitions: Iterable[TopicPartition],
    order: tuple[str, ...],
    *,
    counted: bool,
) -> Tidied:
    """Write the step's files, rows in the `order` of these columns. `partitions` are those whose files `live` knows for
    certain.

    Raises IndexDamaged if the live rows were `counted`, and a file has more or fewer of them.
    """
    io = table.io
    tidied = Tidied()
    for tp, group in step.data:
        parts, files = _live_rows(table, live, group, step.memory_bytes, counted=counted)
        rows = merged(parts, order)
        for staged in staging.data_files({tp: rows})[tp] if rows else ():
            tidied.files.append(staged.file)
            tidied.placed[tp].append(PlacedRows(staged.file.file_path, staged.rows.select(list(order))))
        del rows  # before the next group is read
        tidied.dropped[tp] += [file.file_id for file in files]
        tidied.removed.update(file.live.path for file in files)
    for tp, deletes in step.deletes:
        deleted = DeletedRows.union(at_once(lambda file: DeletedRows.read(io, file.path), deletes))
        deleted = deleted.keep(_still_there(deleted.paths, live, tidied.removed, partitions))
        if len(deleted):
            place = deletes[0]
            tidied.files.append(staging.position_deletes(tp, deleted, place.spec_id, place.partition))
        tidied.removed.update(file.path for file in deletes)
    return tidied


def _live_rows(
    table: Table, live: LiveFiles, files: Sequence[Candidate[LiveFile]], memory_bytes: int, *, counted: bool
) -> tuple[list[pa.Table], list[Candidate[LiveFile]]]:
    """The live rows of each file of one group that has some, under the table's column names of today (columns that are
    gone are left out), and the files that were looked at: all, if their rows don't take more memory than this."""
    group = {file.live.path: file for file in files}
    deletes = [file.path for file in live.deletes.values() if file.group == files[0].live.group]
    look = any(file.indexed.dead for file in files) or not counted
    gone = deleted_positions(table.io, deletes, group) if look else {}
    masks: dict[str, pa.Array] = {}
    for path, candidate in group.items():
        alive = alive_rows(candidate.live.rows, gone.get(path, ()))
        found, expected = int(alive.sum()), candidate.indexed.rows - candidate.indexed.dead
        if counted and (found != expected or candidate.live.rows != candidate.indexed.rows):
            raise IndexDamaged(f"{path} has {found} live rows, but the key index counted {expected}")
        if found:
            masks[path] = pa.array(alive)
    names = {field.field_id: field.name for field in table.schema().fields}
    opened = dict(zip(masks, at_once(lambda path: open_parquet(table.io, path), masks), strict=True))

    def read(path: str) -> pa.Table:
        rows = columns_by_id(opened[path], names)
        live.width.saw(rows)
        return rows.filter(masks[path])

    tables, taken = read_within(memory_bytes, masks, read)
    return tables, [group[path] for path in group if path in taken or path not in masks]


def _still_there(
    paths: Iterable[str], live: LiveFiles, removed: Collection[str], partitions: Iterable[TopicPartition]
) -> set[str]:
    """Which data files' positions to keep: all but those of files that are certainly gone."""
    owners = {owner_id(tp) for tp in partitions}
    return {path for path in paths if path not in removed and (path in live.data or owner_of(path) not in owners)}
