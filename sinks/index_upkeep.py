"""What every rebuild of a key index from a table's files shares: whose the rows of a file are, and news of the way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from time import monotonic

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import structlog

from config.errors import PipelineStopped
from sources.changes import CDC_PARTITION, CDC_TOPIC, TopicPartition
from tables.key_index import FileKeys

log = structlog.get_logger("lakeward.index")

FLUSH_EVERY = 20
"""Commits after which the index is brought to disk: a worker that is killed finds it at a state that the table's
history still has, and reads only what came since."""

PROGRESS_SECONDS = 5.0


def rows_of_partition(rows: pa.Table, tp: TopicPartition, path: str) -> npt.NDArray[np.bool_]:
    """Which rows of a file that another engine wrote (and which may mix partitions) are those of `tp`.

    Raises PipelineStopped for rows that another writer inserted, which say nothing of a Kafka partition: no worker
    could ever update them.
    """
    owned = CDC_TOPIC in rows.column_names and CDC_PARTITION in rows.column_names
    if not owned or rows.column(CDC_TOPIC).null_count or rows.column(CDC_PARTITION).null_count:
        raise PipelineStopped(
            f"{path} holds rows without {CDC_TOPIC} and {CDC_PARTITION}, inserted by another writer: their keys could"
            " never be updated. Delete those rows, or bring them in through the source, then restart"
        )
    of_topic = pc.equal(rows.column(CDC_TOPIC), tp.topic)
    of_partition = pc.equal(rows.column(CDC_PARTITION), tp.partition)
    mask: npt.NDArray[np.bool_] = pc.fill_null(pc.and_(of_topic, of_partition), False).to_numpy()
    return mask


def told(files: Iterable[FileKeys], table: str, tp: TopicPartition, count: int) -> Iterator[FileKeys]:
    """The files, with a line in the log every few seconds."""
    last, rows = monotonic(), 0
    for number, file in enumerate(files, 1):
        yield file
        rows += len(file.positions)
        if monotonic() - last > PROGRESS_SECONDS:
            last = monotonic()
            log.info("index.rebuilding", table=table, topic=tp.topic, partition=tp.partition,
                     files=f"{number} of {count}", rows=rows)  # fmt: skip


def rebuilt(table: str, tp: TopicPartition, *, read: int, kept: int, rows: int, seconds: float) -> None:
    """Tell of a rebuild: files that were read, files that were left as they were, rows that were found."""
    log.info("index.rebuilt", table=table, topic=tp.topic, partition=tp.partition, files=read, kept=kept, rows=rows,
             seconds=round(seconds, 3), rows_per_s=round(rows / max(seconds, 1e-9)))  # fmt: skip
