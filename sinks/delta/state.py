"""What a Delta table says of its own writing: offsets, partition counts and schema ids, as transaction identifiers.

A commit's `txn` actions carry them, so they are as atomic as the rows. Names (public, see the guarantees):

    lakeward/{pipeline_id}/{sink_id}/{topic}/{partition}   version = the partition's next wanted offset
    lakeward/{pipeline_id}/{sink_id}/{topic}/partitions    version = how many partitions the topic had
    lakeward/{pipeline_id}/{sink_id}/{topic}/schema        version = highest writer schema id (0: JSON)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa
from deltalake import DeltaTable, Transaction

from config.errors import ConfigurationError
from sinks.base import Batch, Target
from sinks.delta.actions import Snapshot
from sinks.delta.storage import store_errors
from sinks.evolution import Evolution
from sources.changes import CDC_FIELDS, TopicPartition

KEY_PROPERTY = "lakeward.key"
MODE_PROPERTY = "lakeward.write_mode"


@dataclass(frozen=True)
class TableState(ABC):
    """One version of a Delta table, as one writer loaded it."""

    target: Target

    @property
    @abstractmethod
    def id(self) -> str:
        """Changes when the table is dropped and made anew."""

    @property
    @abstractmethod
    def version(self) -> int:
        """The version's number."""

    @property
    @abstractmethod
    def columns(self) -> pa.Schema:
        """The table's columns, those of its partitions included."""

    @property
    @abstractmethod
    def properties(self) -> Mapping[str, str]:
        """The table's properties."""

    @property
    @abstractmethod
    def partition_columns(self) -> tuple[str, ...]:
        """The columns that it is partitioned by."""

    @abstractmethod
    def transaction(self, app_id: str) -> int | None:
        """The version of a transaction identifier."""

    def offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        found = {tp: self._transaction(tp.topic, tp.partition) for tp in partitions}
        return {tp: offset for tp, offset in found.items() if offset is not None}

    def partition_counts(self, topics: Iterable[str]) -> dict[str, int]:
        found = {topic: self._transaction(topic, "partitions") for topic in topics}
        return {topic: count for topic, count in found.items() if count is not None}

    def schema_ids(self, topics: Iterable[str]) -> dict[str, int]:
        found = {topic: self._transaction(topic, "schema") for topic in topics}
        return {topic: schema_id for topic, schema_id in found.items() if schema_id is not None}

    def transactions(self, todo: Batch, plan: Evolution) -> list[Transaction]:
        """The identifiers that the commit of `todo` carries. Only what changes is written: two concurrent commits
        that carry the same identifier conflict, which is wanted for offsets and for nothing else."""
        known = self.partition_counts(todo.partition_counts)
        new: dict[tuple[str, int | str], int] = {(tp.topic, tp.partition): r.next for tp, r in todo.ranges.items()}
        new |= {(topic, "partitions"): n for topic, n in todo.partition_counts.items() if known.get(topic) != n}
        identifiers = [Transaction(_app_id(self.target, *name), version) for name, version in new.items()]
        return identifiers + schema_transactions(self.target, plan)

    def check_fits(self, write_mode: str, partition_by: tuple[str, ...]) -> None:
        """Raise ConfigurationError if this table can't be one that the configuration describes."""
        types = dict(zip(self.columns.names, self.columns.types, strict=True))
        wrong = [
            f"column {field.name} is {types.get(field.name, 'missing')}, not {field.type}"
            for field in CDC_FIELDS
            if types.get(field.name) != field.type
        ]
        required = [field.name for field in self.columns if not field.nullable]
        if required:
            wrong.append(f"its columns {', '.join(required)} are NOT NULL, which MERGE and deletes' rows break")
        if self.partition_columns != partition_by:
            wrong.append(f"it is partitioned by {list(self.partition_columns)}, not {list(partition_by)}")
        mode = self.properties.get(MODE_PROPERTY, write_mode)
        if mode != write_mode:
            wrong.append(f"it was written in {mode} mode, not {write_mode}")
        if "delta.setTransactionRetentionDuration" in self.properties:
            wrong.append("its property delta.setTransactionRetentionDuration would let the offsets expire")
        if wrong:
            raise ConfigurationError(
                f"the existing Delta table {self.target.name} doesn't fit: {'; '.join(wrong)}. Name another table in"
                " the pipeline file, or move the existing one away and let Lakeward create it"
            )

    def _transaction(self, topic: str, what: int | str) -> int | None:
        return self.transaction(_app_id(self.target, topic, what))


@dataclass(frozen=True)
class LoadedTable(TableState):
    """As delta-rs loaded it."""

    table: DeltaTable

    @property
    def id(self) -> str:
        return str(self.table.metadata().id)

    @property
    def version(self) -> int:
        return int(self.table.version())

    @property
    def columns(self) -> pa.Schema:
        return pa.schema(self.table.schema().to_arrow())

    @property
    def properties(self) -> Mapping[str, str]:
        return dict(self.table.metadata().configuration)

    @property
    def partition_columns(self) -> tuple[str, ...]:
        return tuple(self.table.metadata().partition_columns)

    def transaction(self, app_id: str) -> int | None:
        with store_errors(self.target.name):  # delta-rs reads the log for it
            version: int | None = self.table.transaction_version(app_id)
        return version


@dataclass(frozen=True)
class ReplayedTable(TableState):
    """As Lakeward's own look at the log shows it."""

    snapshot: Snapshot

    @property
    def id(self) -> str:
        return str(self.snapshot.metadata["id"])

    @property
    def version(self) -> int:
        return self.snapshot.version

    @property
    def columns(self) -> pa.Schema:
        return self.snapshot.columns

    @property
    def properties(self) -> Mapping[str, str]:
        return self.snapshot.properties

    @property
    def partition_columns(self) -> tuple[str, ...]:
        return self.snapshot.partition_columns

    def transaction(self, app_id: str) -> int | None:
        return self.snapshot.transactions.get(app_id)


def app_ids(target: Target, partitions: Iterable[TopicPartition]) -> frozenset[str]:
    """The identifiers of these partitions' offsets."""
    return frozenset(_app_id(target, tp.topic, tp.partition) for tp in partitions)


def written_partitions(transactions: Mapping[str, int], target: Target) -> Iterator[TopicPartition]:
    """The partitions of which a table has offsets of this sink."""
    prefix = f"lakeward/{target.pipeline_id}/{target.sink_id}/"
    for app_id in transactions:
        topic, _, number = app_id.removeprefix(prefix).rpartition("/")
        if app_id.startswith(prefix) and number.isdigit():
            yield TopicPartition(topic, int(number))


def schema_transactions(target: Target, plan: Evolution) -> list[Transaction]:
    """The identifiers that keep the highest schema ids of `plan`; a new table begins with them."""
    return [Transaction(_app_id(target, topic, "schema"), schema_id) for topic, schema_id in plan.schema_ids.items()]


def _app_id(target: Target, topic: str, what: int | str) -> str:
    return f"lakeward/{target.pipeline_id}/{target.sink_id}/{topic}/{what}"
