"""What travels from a source to the sinks: chunks of raw records, and batches of decoded changes.

A `Chunk` is what one fetch brought of one Kafka partition. Decoding turns it into `ChangeBatch`es (Arrow), cut
where the writer schema changes. Both cover a half-open range of offsets, [first, next), without holes: a batch
without rows still moves the offset.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Headers = Sequence[tuple[str, bytes | None]]


class TopicPartition(NamedTuple):
    """A Kafka partition; equal to (and hashed as) Faust's and aiokafka's own named tuples."""

    topic: str
    partition: int


CDC_OP = "_cdc_op"
TRUNCATE = "t"
CDC_OFFSET = "_cdc_offset"
CDC_TS = "_cdc_ts"
CDC_TOPIC = "_cdc_topic"
CDC_PARTITION = "_cdc_partition"

CDC_FIELDS: tuple[pa.Field, ...] = (
    pa.field(CDC_TOPIC, pa.string(), nullable=False),
    pa.field(CDC_PARTITION, pa.int32(), nullable=False),
    pa.field(CDC_OFFSET, pa.int64(), nullable=False),
    pa.field(CDC_OP, pa.string(), nullable=False),
    pa.field(CDC_TS, pa.timestamp("us", tz="UTC"), nullable=True),
)
"""The columns that each row of a sink table carries beside those of the source, in this order."""

CDC_UNCHANGED = "_cdc_unchanged"
UNCHANGED_FIELD = pa.field(CDC_UNCHANGED, pa.list_(pa.field("element", pa.string())))
"""The columns of a row whose values the source didn't send, as an update left them unchanged; they are null in it. Null
for a row without such. Batches and append tables have this column from the first such row on."""

CDC_NAMES = frozenset(f.name for f in CDC_FIELDS) | {CDC_UNCHANGED}


@dataclass(frozen=True)
class TableSchema:
    """A source table as one writer schema describes it.

    `columns`: Arrow fields of the source's columns at the types that sinks store, in the source's order, with the
    source's nullability. `key`: names of the key columns, empty for a table without key. `id`: the registry's id
    of the value's writer schema (None for JSON, whose schema travels in the record).
    """

    columns: pa.Schema
    key: tuple[str, ...]
    id: int | None


@dataclass(frozen=True)
class ChangeBatch:
    """Changes of one Kafka partition over the offsets [first, next), all written with one schema.

    `rows`: `schema.columns` (all nullable, see below) followed by `_cdc_offset`, `_cdc_op` (`c r u d t`) and `_cdc_ts`
    (source commit time, UTC, microseconds), ordered by offset. A delete's row has its key columns only, the others
    are null: under REPLICA IDENTITY DEFAULT Debezium makes up the other values of `before`. A truncate's row (`t`) is
    null everywhere; its record has no Kafka key, so `schema.key` is empty in a batch of truncates. A batch in which a
    value wasn't sent has `CDC_UNCHANGED` as last column.
    """

    topic: str
    partition: int
    first: int
    next: int
    schema: TableSchema
    rows: pa.Table

    @property
    def tp(self) -> TopicPartition:
        return TopicPartition(self.topic, self.partition)

    @property
    def truncates_only(self) -> bool:
        """Whether the rows are truncates of the source table, which tell nothing of its key."""
        return not self.schema.key and bool(pc.all(pc.equal(self.rows.column(CDC_OP), TRUNCATE)).as_py())

    def changelog(self) -> pa.Table:
        """The rows as append tables store them: source columns, then `CDC_FIELDS`, then `CDC_UNCHANGED` if there."""
        n = self.rows.num_rows
        by_name = {
            CDC_TOPIC: pa.repeat(pa.scalar(self.topic, pa.string()), n),
            CDC_PARTITION: pa.repeat(pa.scalar(self.partition, pa.int32()), n),
        }
        columns = [self.rows.column(name) for name in self.schema.columns.names]
        columns += [by_name[f.name] if f.name in by_name else self.rows.column(f.name) for f in CDC_FIELDS]
        fields = [f.with_nullable(True) for f in self.schema.columns] + list(CDC_FIELDS)
        if self.lacks_values:
            columns.append(self.rows.column(CDC_UNCHANGED))
            fields.append(UNCHANGED_FIELD)
        return pa.table(columns, schema=pa.schema(fields))

    @property
    def lacks_values(self) -> bool:
        """Whether the source didn't send some of the values."""
        return CDC_UNCHANGED in self.rows.column_names

    def after_offset(self, offset: int) -> ChangeBatch:
        """The part of this batch from `offset` on (`first` <= offset <= `next`)."""
        start = int(np.searchsorted(self.rows.column(CDC_OFFSET).to_numpy(), offset))
        return ChangeBatch(self.topic, self.partition, offset, self.next, self.schema, self.rows.slice(start))


@dataclass(frozen=True)
class Rejected:
    """A record that goes to the dead letters: its index in the chunk and why."""

    index: int
    reason: Exception


@dataclass(frozen=True)
class DecodedChunk:
    """A chunk's changes, in offset order; together they cover the chunk's [first, next) if there are any.

    `skipped` counts records that carry no change, by kind (`tombstone`, `message`, `heartbeat`);
    `fallback_rows` counts sound and bad records that took the slow per-record path.
    """

    changes: tuple[ChangeBatch, ...]
    rejected: tuple[Rejected, ...] = ()
    skipped: Counter[str] = field(default_factory=Counter)
    fallback_rows: int = 0


@dataclass(eq=False)
class Chunk:
    """The raw records that one fetch brought of one Kafka partition: the value of one Faust Event.

    Covers [first, next): `first` is where the consumer stood before the fetch, `next` where it stands after it, so
    holes of compaction and of aborted transactions lie inside. `offsets` (int64) and `timestamps` (int64, broker's,
    milliseconds) have one item per record, as `keys`, `values` and `headers` have. `generation` is the consumer
    group's generation that fetched it, `epoch` the positioning of the consumer that it follows: a chunk of an older one
    must not be written, because what it continues was dropped.
    """

    topic: str
    partition: int
    generation: int
    first: int
    next: int
    offsets: npt.NDArray[np.int64]
    timestamps: npt.NDArray[np.int64]
    keys: list[bytes | None]
    values: list[bytes | None]
    headers: list[Headers]
    nbytes: int
    epoch: int = 0
    _decoded: DecodedChunk | None = None
    _lock: Lock = field(default_factory=Lock)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def tp(self) -> TopicPartition:
        return TopicPartition(self.topic, self.partition)

    def decoded(self, decode: Callable[[Chunk], DecodedChunk]) -> DecodedChunk:
        """This chunk's changes, decoded by the first caller and shared by the others (callable from any thread)."""
        with self._lock:
            if self._decoded is None:
                self._decoded = decode(self)
            return self._decoded
