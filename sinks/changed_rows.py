"""A folded batch cut as upserts with a key index need it: by Kafka partition, and by the file of the replaced row."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sinks.base import Batch
from sinks.reduce import Reduced
from sources.changes import CDC_PARTITION, CDC_TOPIC, TopicPartition
from tables.key_index import Positions


def by_partition(reduced: Reduced, batch: Batch) -> Iterator[tuple[TopicPartition, pa.Table, pa.Table]]:
    """Upserted and deleted rows of each Kafka partition."""
    partitions = list(dict.fromkeys(change.tp for change in batch.changes))
    if len(partitions) == 1:
        yield partitions[0], reduced.upserts, reduced.deletes
        return
    for tp in partitions:
        yield tp, rows_of(reduced.upserts, tp), rows_of(reduced.deletes, tp)


def by_file(found: Positions) -> Iterator[tuple[int, npt.NDArray[np.uint32]]]:
    """The looked-up positions of each file, by its id in the index."""
    order = np.argsort(found.file_ids, kind="stable")
    ids, rows = found.file_ids[order], found.rows[order]
    unique, starts = np.unique(ids, return_index=True)
    yield from zip(unique.tolist(), np.split(rows, starts[1:]), strict=False)


def rows_of(rows: pa.Table, tp: TopicPartition) -> pa.Table:
    """Those of one Kafka partition."""
    of_partition = pc.equal(rows.column(CDC_PARTITION), tp.partition)
    return rows.filter(pc.and_(of_partition, pc.equal(rows.column(CDC_TOPIC), tp.topic)))
