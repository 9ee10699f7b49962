"""Bringing the key index of a Kafka partition in step with the table: the live rows' keys and their positions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from time import monotonic

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.io import FileIO
from pyiceberg.table import Table

from sinks.at_once import at_once
from sinks.iceberg.deletes import DeletedRows
from sinks.iceberg.live_files import LiveFiles
from sinks.iceberg.state import lineage
from sinks.iceberg.store import columns_by_id
from sinks.index_upkeep import rebuilt, rows_of_partition, told
from sinks.owners import owner_of
from sources.changes import CDC_PARTITION, CDC_TOPIC, TopicPartition
from tables.key_index import FileKeys, IndexState, PartitionIndex

Gone = Mapping[str, Sequence[npt.NDArray[np.int64]]]
"""By data file the positions that delete files name, maybe twice."""


def rebuild_index(table: Table, key: tuple[str, ...], tp: TopicPartition, live: LiveFiles, gone: Gone,
                  index: PartitionIndex, wanted: IndexState) -> None:  # fmt: skip
    """Make the index of `tp` true for the table's current snapshot, which `live` knows, as it does what is `gone`.

    Where the state that it has is one of the table's history, only those files are read whose live rows may be others
    than then: files that came, and files whose number of deleted rows isn't the one that the index counted. Deletes
    only grow along a history, so with equal numbers they are the same. Without such a state all files are read.
    """
    began = monotonic()
    paths = live.of(tp)
    keep: set[int] = set()
    history = {snapshot.snapshot_id for snapshot in lineage(table.metadata, table.metadata.current_snapshot_id)}
    if index.state is not None and index.state.snapshot_id in history:
        # of a foreign file, which may hold rows of other partitions, too, the index's number says less
        ours = {n: file for n, file in index.files.items() if file.path in live.data and owner_of(file.path)}
        keep = {n for n, file in ours.items() if dead_rows(gone, file.path) == file.dead}
    known = {index.files[n].path for n in keep}
    read = sorted(path for path in paths if path in live.data and path not in known)
    name = ".".join(table.name())
    rows = index.rebuild(told(_live_keys(table, key, tp, read, gone), name, tp, len(read)), wanted, keep)
    rebuilt(name, tp, read=len(read), kept=len(keep), rows=rows, seconds=monotonic() - began)


def dead_rows(gone: Gone, path: str) -> int:
    """How many rows of a data file are gone."""
    found = gone.get(path)
    return len(np.unique(np.concatenate(found))) if found else 0


def _live_keys(
    table: Table,
    key: tuple[str, ...],
    tp: TopicPartition,
    paths: Iterable[str],
    gone: Gone,
) -> Iterator[FileKeys]:
    """The keys of the rows of `tp` in these data files, without those that position deletes took away."""
    names = {table.schema().find_field(name).field_id: name for name in (*key, CDC_TOPIC, CDC_PARTITION)}
    for path in paths:
        rows = _read(table.io, path, names)
        alive = alive_rows(rows.num_rows, gone.get(path, ()))
        if owner_of(path) is None:  # a file that another engine rewrote may mix partitions
            alive &= rows_of_partition(rows, tp, path)
        positions: npt.NDArray[np.uint32] = np.flatnonzero(alive).astype(np.uint32)
        if len(positions) or owner_of(path) is not None:  # ours without a live row is there to be tidied
            keys = rows.select(list(key)).take(pa.array(positions))
            yield FileKeys(path, rows.num_rows, keys, positions)


def deleted_positions(io: FileIO, deletes: Iterable[str], paths: Collection[str]) -> Gone:
    """Positions in these data files that the delete files (their paths) name. A delete file can only name data files
    that were there before it, so all of them apply."""
    gone: dict[str, list[npt.NDArray[np.int64]]] = defaultdict(list)
    for deleted in at_once(lambda delete: DeletedRows.read(io, delete, paths), deletes):
        for path, rows in deleted.by_file():
            gone[path].append(rows)
    return gone


def alive_rows(count: int, gone: Iterable[npt.NDArray[np.int64]]) -> npt.NDArray[np.bool_]:
    """Which of a file's rows aren't at any of these positions."""
    alive = np.ones(count, dtype=np.bool_)
    for positions in gone:
        alive[positions] = False
    return alive


def _read(io: FileIO, path: str, names: dict[int, str]) -> pa.Table:
    """A few columns of a data file, which of a large one are all that is read."""
    with io.new_input(path).open() as stream:
        return columns_by_id(pq.ParquetFile(stream), names)
