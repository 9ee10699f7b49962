"""Rebuilding the key index of a Kafka partition from the table: the live rows' keys and their positions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyiceberg.io import FileIO
from pyiceberg.manifest import DataFile, DataFileContent
from pyiceberg.table import Table

from config.errors import PipelineStopped
from sinks.iceberg.deletes import DeletedRows
from sinks.iceberg.files import owner_of
from sinks.iceberg.live_files import live_entries
from sinks.iceberg.store import at_once, columns_by_id
from sources.changes import CDC_PARTITION, CDC_TOPIC, TopicPartition
from tables.key_index import FileKeys


def live_keys(table: Table, key: tuple[str, ...], tp: TopicPartition, paths: set[str]) -> Iterator[FileKeys]:
    """The keys of the rows of `tp` in these data files, without those that position deletes took away."""
    files: list[DataFile] = []
    deletes: list[DataFile] = []
    for entry in live_entries(table.metadata, table.io):
        if entry.data_file.content == DataFileContent.DATA:
            if entry.data_file.file_path in paths:
                files.append(entry.data_file)
        else:
            deletes.append(entry.data_file)
    gone = deleted_positions(table.io, (file.file_path for file in deletes), paths)
    names = {table.schema().find_field(name).field_id: name for name in (*key, CDC_TOPIC, CDC_PARTITION)}
    for file in files:
        rows = _read(table.io, file.file_path, names)
        alive = alive_rows(rows.num_rows, gone.get(file.file_path, ()))
        if owner_of(file.file_path) is None:  # a file that another engine rewrote may mix partitions
            _check_owned(rows, file.file_path)
            of_topic = pc.equal(rows.column(CDC_TOPIC), tp.topic)
            of_partition = pc.equal(rows.column(CDC_PARTITION), tp.partition)
            alive &= pc.fill_null(pc.and_(of_topic, of_partition), False).to_numpy()
        positions: npt.NDArray[np.uint32] = np.flatnonzero(alive).astype(np.uint32)
        if len(positions) or owner_of(file.file_path) is not None:  # ours without a live row is there to be tidied
            keys = rows.select(list(key)).take(pa.array(positions))
            yield FileKeys(file.file_path, rows.num_rows, keys, positions)


def _check_owned(rows: pa.Table, path: str) -> None:
    """Rows that another writer inserted say nothing of a Kafka partition: no worker could ever update them."""
    owned = CDC_TOPIC in rows.column_names and CDC_PARTITION in rows.column_names
    if not owned or rows.column(CDC_TOPIC).null_count or rows.column(CDC_PARTITION).null_count:
        raise PipelineStopped(
            f"{path} holds rows without {CDC_TOPIC} and {CDC_PARTITION}, inserted by another writer: their keys could"
            " never be updated. Delete those rows, or bring them in through the source, then restart"
        )


def deleted_positions(
    io: FileIO, deletes: Iterable[str], paths: Collection[str]
) -> dict[str, list[npt.NDArray[np.int64]]]:
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
