"""The memory sink: the shipped test double, and the sink contract in its shortest form.

`MemoryStore` is the destination: it outlives sinks, so that a restart (a new sink on the same store) and two writers
(two sinks on one store) can be played. `MemorySink` is a real sink on it: the contract suite runs over it as over
all others. A new sink can start from its `write`, which reads as the contract's list of steps.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal
from uuid import uuid4

import polars as pl
import pyarrow as pa

from config.errors import DestinationChanged
from config.evolution import SchemaEvolution
from sinks.base import Batch, Receipt, Sink, Target
from sinks.evolution import Evolution, evolve
from sinks.reduce import check_partition_counts, reduce, union_changelog
from sinks.schema_changes import Before, Format
from sinks.widening import holds
from sources.changes import CDC_FIELDS, TopicPartition

WriteMode = Literal["append", "upsert"]


@dataclass(frozen=True)
class TableState:
    """One version of the destination: rows and offsets together, never changed in place."""

    rows: pa.Table
    table_id: str = field(default_factory=lambda: uuid4().hex)
    version: int = 0
    offsets: Mapping[TopicPartition, int] = field(default_factory=dict)
    partition_counts: Mapping[str, int] = field(default_factory=dict)
    schema_ids: Mapping[str, int] = field(default_factory=dict)
    key: tuple[str, ...] = ()


class MemoryStore:
    """A destination in memory that holds one table; callable from any thread."""

    def __init__(self) -> None:
        self._state: TableState | None = None
        self._lock = threading.Lock()

    def load(self) -> TableState | None:
        """The newest version, None if there is no table."""
        return self._state

    def swap(self, expected: TableState | None, new: TableState) -> bool:
        """Make `new` the newest version if `expected` still is; False if another commit came first."""
        with self._lock:
            if self._state is not expected:
                return False
            self._state = new
            return True

    def drop(self) -> None:
        """Remove the table with its offsets."""
        with self._lock:
            self._state = None

    def rows(self) -> pa.Table:
        """The rows of the newest version (source columns and `CDC_FIELDS`); no columns if there is no table."""
        state = self._state
        return pa.table({}) if state is None else state.rows


class MemorySink(Sink):
    """A sink that keeps its table, rows and offsets, in a `MemoryStore`."""

    def __init__(
        self,
        target: Target,
        write_mode: WriteMode,
        store: MemoryStore | None = None,
        schema_evolution: SchemaEvolution | None = None,
    ) -> None:
        self.target = target
        self._policies = schema_evolution or SchemaEvolution()
        self.write_mode = write_mode
        self.store = store or MemoryStore()
        self._table_id: str | None = None

    def open(self) -> None:
        """Nothing to reach; see Sink.open."""

    def committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        state = self._load()
        return {} if state is None else {tp: state.offsets[tp] for tp in partitions if tp in state.offsets}

    def write(self, batch: Batch) -> Receipt:
        while True:
            found = self._load()
            state = found or TableState(pa.schema(CDC_FIELDS).empty_table())
            todo = batch.trim(state.offsets)
            if not todo.ranges:
                return self._receipt(batch, state, None, 0)
            check_partition_counts(self.target.name, state.partition_counts, todo, keyed=self.write_mode == "upsert")
            new = self._next(state, todo)
            if self.store.swap(found, new):
                self._table_id = new.table_id
                return self._receipt(batch, new, new.version, todo.num_rows)

    def tidy(self, *, hurried: bool = False) -> None:
        """Nothing grows; see Sink.tidy."""

    def close(self) -> None:
        """Nothing to let go of; see Sink.close."""

    def _load(self) -> TableState | None:
        state = self.store.load()
        if self._table_id is not None and (state is None or state.table_id != self._table_id):
            raise DestinationChanged(
                f"table {self.target.name} was {'dropped' if state is None else 'replaced'} while the pipeline wrote"
                " into it; restart the pipeline to begin it anew"
            )
        if state is not None:
            self._table_id = state.table_id
        return state

    def _evolve(self, state: TableState, todo: Batch) -> Evolution:
        before = Before(
            self.target.name,
            state.rows.schema,
            state.schema_ids,
            shared=len(self.target.topics) > 1,
            log=self.write_mode == "append",
            key=state.key,
            partitions={**state.partition_counts, **todo.partition_counts},
        )
        return evolve(before, todo.changes, self._policies, Format(widens=lambda was, now: holds(now, was)))

    def _next(self, state: TableState, todo: Batch) -> TableState:
        plan = self._evolve(state, todo)
        todo = plan.applied(todo)
        first = next((change.schema.key for change in todo.keyed), ())
        return replace(
            state,
            version=state.version + 1,
            rows=self._apply(_evolved(state.rows, plan), todo),
            offsets={**state.offsets, **{tp: span.next for tp, span in todo.ranges.items()}},
            partition_counts={**state.partition_counts, **todo.partition_counts},
            schema_ids={**state.schema_ids, **plan.schema_ids},
            key=state.key or (first if self.write_mode == "upsert" else ()),
        )

    def _apply(self, rows: pa.Table, todo: Batch) -> pa.Table:
        if not todo.changes:
            return rows
        if self.write_mode == "append":
            return pa.concat_tables([rows, union_changelog(todo.changes)], promote_options="default")
        reduced = reduce(todo, lambda *_: rows)
        if reduced.truncated:
            return pa.concat_tables([rows.slice(0, 0), reduced.upserts], promote_options="default")
        changed = pl.from_arrow(pa.concat_tables([reduced.upserts, reduced.deletes]).select(reduced.key))
        index = pl.DataFrame(pl.from_arrow(rows.select(reduced.key))).with_row_index("row")
        kept = index.join(pl.DataFrame(changed), on=list(reduced.key), how="anti", maintain_order="left")["row"]
        return pa.concat_tables([rows.take(pa.array(kept.to_numpy())), reduced.upserts], promote_options="default")

    def _receipt(self, batch: Batch, state: TableState, version: int | None, rows: int) -> Receipt:
        next_offsets = {tp: state.offsets[tp] for tp in batch.ranges if tp in state.offsets}
        return Receipt(next_offsets, version, datetime.now(UTC), rows)


def _evolved(rows: pa.Table, plan: Evolution) -> pa.Table:
    """`rows` with the plan's columns widened and added, source columns before the `CDC_FIELDS`."""
    for column in plan.widen:
        at = rows.column_names.index(column.name)
        rows = rows.set_column(at, column, rows.column(at).cast(column.type))
    split = rows.num_columns - len(CDC_FIELDS)
    for at, column in enumerate(plan.add, split):
        rows = rows.add_column(at, column, pa.nulls(rows.num_rows, column.type))
    return rows
