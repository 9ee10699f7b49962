"""The Delta sink: `write` loads the table, takes what it lacks of the batch, and lands it in one commit.

Whatever races with it (another worker's commit, a zombie, a lost response) makes the attempt begin again from the
freshly loaded table, so each attempt trims against the offsets that its commit replaces. What commits here is delta-rs;
`vector_sink` puts commits of its own in its place.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial

import pyarrow as pa
import structlog
from deltalake.exceptions import CommitFailedError, DeltaError

from config.errors import ConfigurationError, DestinationChanged, Unavailable
from config.pipeline import DeltaConfig
from sinks.base import Batch, Receipt, Sink, Target
from sinks.delta import commit
from sinks.delta.partitions import refuse_empty_texts
from sinks.delta.schema import stored, table_columns
from sinks.delta.state import KEY_PROPERTY, LoadedTable, TableState, schema_transactions
from sinks.delta.storage import load, shown_older, storage_options, store_errors
from sinks.delta.turns import Turns
from sinks.delta.upkeep import Compaction, Upkeep, partition_sizes
from sinks.evolution import Evolution, evolve
from sinks.reduce import check_partition_counts, nothing, reduce, union_changelog
from sinks.schema_changes import Before, Format
from sinks.schema_news import SchemaNews
from sources.changes import TopicPartition

log = structlog.get_logger("lakeward.delta")

_ATTEMPTS = 12
"""Races that one write may lose before it reports Unavailable: with each, another writer got on."""


class DeltaSink(Sink):
    """One Delta table, its URI the target's name; a change log (append) or the table as at the source (upsert)."""

    def __init__(self, config: DeltaConfig, target: Target) -> None:
        self.target = target
        self._config = config
        self._uri = target.name
        self._options = storage_options(self._uri, config.storage_options)
        self._partition_by = tuple(field.column for field in config.partition_fields)
        self._upsert = config.write_mode == "upsert"
        self._table_id: str | None = None
        self._version = 0
        self._seen: dict[TopicPartition, int] = {}
        self._news = SchemaNews(target.name)
        self._turns = Turns(target)
        self._upkeep = Upkeep(config, self._options, target)

    def open(self) -> None:
        if self._load() is None and not self._config.auto_create_table:
            raise ConfigurationError(
                f"Delta table {self._uri} doesn't exist and auto_create_table is false: create it, with the columns"
                f" {', '.join(table_columns(()).names)} beside those of the source, or set auto_create_table: true"
            )

    def committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        state = self._load()
        return {} if state is None else self._offsets(state, partitions)

    def write(self, batch: Batch) -> Receipt:
        """See Sink.write. A first batch without changes makes no partitioned table, as nothing tells its columns'
        types yet; its offsets hold nothing that a restart would miss."""
        made: set[str] = set()
        for _ in range(_ATTEMPTS):
            state = self._ready()
            if state is None and self._upsert and not batch.keyed:
                batch = Batch(batch.ranges, (), batch.partition_counts)  # truncates of nothing
            if state is None and self._partition_by and not batch.changes:
                return self._receipt({tp: span.next for tp, span in batch.ranges.items()}, None, 0)
            if state is None:
                self._commit(partial(self._create, batch, made))
                continue
            offsets = self._offsets(state, batch.ranges)
            todo = batch.trim(offsets)
            if not todo.ranges:
                self._turns.needless()
                return self._receipt(offsets, None, 0)
            check_partition_counts(self._uri, state.partition_counts(todo.partition_counts), todo, keyed=self._upsert)
            plan = self._evolve(state, todo, made)
            todo = plan.applied(todo)
            refuse_empty_texts(self._uri, self._partition_by, todo, upsert=self._upsert)
            if self._adapt(state, todo, plan):
                self._news.tell(plan)
                made |= {field.name for field in plan.add}
                continue
            if self._attempt(state, todo, plan):
                self._news.tell(plan)
                offsets |= {tp: span.next for tp, span in todo.ranges.items()}
                return self._receipt(offsets, state.version, todo.num_rows)
        raise Unavailable(f"Delta table {self._uri}: lost {_ATTEMPTS} commits in a row to other writers")

    def tidy(self, *, hurried: bool = False) -> None:
        """See Sink.tidy. While another writer has its turn at an upsert table, nothing is done.

        An append table is compacted beside the writer, whose commits don't mind; a MERGE that met a compaction would
        have to be done again, so that of an upsert table, which is a short one, comes between two MERGEs.
        """
        if self._upkeep.is_busy or not self._upkeep.is_time_to_look(hurried=hurried):
            return
        state = self._load()
        if not isinstance(state, LoadedTable) or self._turns.taken(state):
            return
        jobs = self._upkeep.jobs(state)
        if jobs:
            if self._commit(partial(commit.move_offsets, state.table, [job.claim for job in jobs])):
                for job in jobs:
                    job.begin()
            return
        compaction = self._upkeep.due(partition_sizes(state), hurried=hurried)
        if compaction is not None and self._upsert:
            self._compact(state, compaction)
        elif compaction is not None:
            self._upkeep.beside(partial(self._compact, state, compaction))

    def close(self) -> None:
        """Waits a little for a compaction; one that is cut short leaves files that nobody knows to the next vacuum."""
        self._upkeep.close()

    def _compact(self, state: LoadedTable, compaction: Compaction) -> None:
        if not self._commit(partial(self._upkeep.compact, state, compaction)):
            log.info("delta.not_compacted", table=self._uri, reason="another writer took one of the files away")

    # -- what `vector_sink` does in another way

    def _ready(self) -> TableState | None:
        """The table, once it may be written."""
        return self._turns.wait(self._load) if self._upsert else self._load()

    def _find(self) -> TableState | None:
        """The table as it is now."""
        table = load(self._uri, self._options)
        return None if table is None else LoadedTable(self.target, table)

    def _make(self, columns: pa.Schema, plan: Evolution, key: tuple[str, ...] | None) -> None:
        """Make the table, without rows. Raises DeltaError if it is there already: somebody else was quicker."""
        commit.create(
            self._uri,
            self._options,
            columns,
            schema_transactions(self.target, plan),
            key=key,
            write_mode=self._config.write_mode,
            partition_by=self._partition_by,
            change_data_feed=self._config.change_data_feed,
            more=self._config.table_properties,
        )

    def _adapt(self, state: TableState, todo: Batch, plan: Evolution) -> bool:  # noqa: ARG002 - for others
        """Bring the table's metadata to what the batch needs; True if that took a commit, and the table has to be
        looked at anew. That commit carries the schema ids: who comes between it and the rows lags behind."""
        assert isinstance(state, LoadedTable)
        if plan.add:
            transactions = schema_transactions(self.target, plan)
            self._commit(partial(commit.add_columns, state.table, plan.add, transactions))
        return bool(plan.add)

    def _attempt(self, state: TableState, todo: Batch, plan: Evolution) -> bool:
        """Land the batch; False if that has to be tried again, from the freshly loaded table."""
        assert isinstance(state, LoadedTable)
        if self._upsert and self._turns.wanted:
            self._reserve(state)
            return False
        started = time.monotonic()
        if self._commit(partial(self._land, state, todo, plan)):
            self._turns.landed()
            return True
        self._turns.lost(time.monotonic() - started)
        return False

    # -- by delta-rs

    def _commit(self, action: Callable[[], None]) -> bool:
        """Send one commit; False if it lost a race and nothing landed. The one place where this sink changes the
        destination."""
        with store_errors(self._uri):
            try:
                action()
            except CommitFailedError:
                return False
        return True

    def _land(self, state: LoadedTable, todo: Batch, plan: Evolution) -> None:
        table, columns = state.table, state.columns
        transactions = state.transactions(todo, plan) + self._turns.release()
        if not todo.changes:
            commit.move_offsets(table, transactions)
        elif self._upsert:
            reduced = reduce(todo, partial(commit.current_rows, table))
            (commit.overwrite if reduced.truncated else commit.merge)(table, columns, reduced, transactions)
        else:
            commit.append(table, columns, union_changelog(todo.changes), transactions)

    def _reserve(self, state: LoadedTable) -> None:
        turn = self._turns.reservation()
        if self._commit(partial(commit.move_offsets, state.table, [turn])):
            self._turns.reserved(turn)

    def _create(self, batch: Batch, made: set[str]) -> None:
        before = Before(self._uri, pa.schema([]), {}, shared=len(self.target.topics) > 1, log=not self._upsert)
        plan = evolve(before, batch.changes, self._config.schema_evolution, Format(stored))
        columns = table_columns(plan.add)
        missing = [name for name in self._partition_by if name not in columns.names]
        if missing:
            raise ConfigurationError(
                f"Delta table {self._uri}: partition_by names {', '.join(missing)}, but the source's columns are"
                f" {', '.join(field.name for field in plan.add)}"
            )
        if self._upsert and batch.changes:
            reduce(plan.applied(batch), nothing)  # a batch that can't be folded must not leave an empty table behind
        try:
            self._make(columns, plan, batch.keyed[0].schema.key if batch.changes and self._upsert else None)
        except DeltaError:
            # another writer of the same first moment made it; anything else is raised as it is
            if self._find() is None:
                raise
        else:
            made |= {field.name for field in plan.add}

    def _evolve(self, state: TableState, todo: Batch, made: set[str]) -> Evolution:
        """What `todo` asks of the table, of which this write has `made` columns: records before them lack those, and a
        second attempt must not take them for dropped ones."""
        topics = {change.topic for change in todo.changes}
        before = Before(
            self._uri,
            state.columns,
            state.schema_ids(topics),
            shared=len(self.target.topics) > 1,
            log=not self._upsert,
            key=tuple(json.loads(state.properties.get(KEY_PROPERTY, "[]"))) if self._upsert else (),
            born=frozenset(made),
            partitions={**state.partition_counts(topics), **todo.partition_counts},
        )
        return evolve(before, todo.changes, self._config.schema_evolution, Format(stored))

    def _load(self) -> TableState | None:
        """The table as it is now; raises DestinationChanged if it isn't the one that this sink knows, and Unavailable
        if it is shown at an older version."""
        state = self._find()
        if self._table_id is not None and (state is None or state.id != self._table_id):
            raise DestinationChanged(
                f"Delta table {self._uri} was {'dropped' if state is None else 'replaced'} while the pipeline wrote"
                " into it; restart the pipeline to begin it anew"
            )
        if state is not None and self._table_id is None:
            state.check_fits(self._config.write_mode, self._partition_by)
            self._table_id = state.id
        if state is not None:
            if state.version < self._version:
                raise shown_older(self._uri, state.version, self._version)
            self._version = state.version
        return state

    def _offsets(self, state: TableState, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        offsets = state.offsets(partitions)
        for tp in partitions:
            if offsets.get(tp, 0) < self._seen.get(tp, 0):
                raise DestinationChanged(
                    f"Delta table {self._uri}: the next offset of {tp.topic}/{tp.partition} went back from"
                    f" {self._seen[tp]} to {offsets.get(tp)} while the pipeline ran; restart it to go on from there"
                )
        self._seen |= offsets
        return offsets

    def _receipt(self, next_offsets: dict[TopicPartition, int], version: int | None, rows: int) -> Receipt:
        if version is not None:
            self._seen |= next_offsets
            self._version = max(self._version, version)
        return Receipt(next_offsets, version, datetime.now(UTC), rows, self._upkeep.files)
