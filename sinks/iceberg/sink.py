"""The Iceberg sink: append, and upsert by position deletes from the key index. See `sinks.base` for the contract.

`write` is one loop: look at the table, trim the batch to what it lacks, stage the files, publish. A conflict, or an
answer that was lost, leads back to the loop's head, where the table itself says what has landed.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

import pyarrow as pa
import structlog
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata

from config.errors import ConfigurationError, DestinationChanged, OffsetGap, Unavailable
from config.pipeline import IcebergConfig
from sinks.base import Batch, Receipt, Sink, Target
from sinks.iceberg import commit
from sinks.iceberg.append import Appends
from sinks.iceberg.catalog import CommitConflict, CommitUnknown, connect, files_found, gone, sorted_errors
from sinks.iceberg.commit import FileChange
from sinks.iceberg.compaction import Compactor
from sinks.iceberg.creation import create_table
from sinks.iceberg.evolved import Evolved, evolved, plan
from sinks.iceberg.files import Staging
from sinks.iceberg.history import History
from sinks.iceberg.live_files import LiveFiles
from sinks.iceberg.manifests import FilesGone
from sinks.iceberg.schema import check_fits
from sinks.iceberg.sent import Fate, Sent, Staged, Written
from sinks.iceberg.state import SinkState, tidied_key
from sinks.iceberg.tidy import Step, Tidied
from sinks.iceberg.upsert import Upserts
from sinks.reduce import check_partition_counts, union_changelog
from sinks.schema_news import SchemaNews
from sinks.tiers import CALM, HURRIED, LARGEST_SMALL_BYTES, Patience
from sources.changes import TopicPartition
from tables.index_database import IndexDamaged
from tables.key_index import KeyIndex

log = structlog.get_logger("lakeward.iceberg")

COMMIT_ATTEMPTS = 30
"""Conflicts before `write` gives the batch back as Unavailable; workers of one table conflict all the time."""

TIDY_ATTEMPTS, REST_SECONDS = 5, 60.0
"""Conflicts before a tidying step is given up until the next commit; how long nothing is tidied once a file is missing.
"""


class IcebergSink(Sink):
    """One Iceberg table. `index` is needed in upsert mode, and closed with the sink."""

    def __init__(self, config: IcebergConfig, target: Target, index: KeyIndex | None) -> None:
        if config.write_mode == "upsert" and index is None:
            raise ConfigurationError(f"sink {target.sink_id}: upsert needs a key index")
        self.target = target
        self._config = config
        self._index = index
        self._identifier = tuple(target.name.rsplit(".", 1))
        self._catalog: Catalog | None = None
        self._table: Table | None = None
        self._tried: str | None = None
        self._table_uuid: str | None = None
        self._seen: dict[TopicPartition, int] = {}
        self._news = SchemaNews(target.name)
        self._history = History(target, config.maintenance)
        self._compactor = Compactor(config.maintenance)
        self._live = LiveFiles(target, None if index or config.maintenance.enabled else LARGEST_SMALL_BYTES)
        self._upserts = Upserts(index, self._live) if index else None
        self._files: Upserts | Appends = self._upserts or Appends(self._live)
        self._manifests: dict[str, frozenset[str]] = {}
        self._written: frozenset[TopicPartition] = frozenset()
        self._sent: Sent | None = None
        self._spare: Staged | None = None
        self._missing, self._rests_until = "", 0.0

    # -- the contract

    def open(self) -> None:
        if self._catalog is None:
            self._catalog = connect(self._config)
        with files_found(self.target.name), sorted_errors(self._config):
            table = self._load()
        if table is None and not self._config.auto_create_table:
            raise ConfigurationError(
                f"table {self.target.name} doesn't exist and auto_create_table is false; create it, or set it to true"
            )

    def committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        with files_found(self.target.name), sorted_errors(self._config):
            table = self._load()
        if table is None:
            return {}
        state = self._state(table)
        return {tp: state.offsets[tp] for tp in partitions if tp in state.offsets}

    def write(self, batch: Batch) -> Receipt:
        for attempt in range(COMMIT_ATTEMPTS):
            try:
                with self._unsure(), sorted_errors(self._config):
                    return self._attempt(batch)
            except CommitConflict as conflict:
                log.info("iceberg.conflict", table=self.target.name, attempt=attempt + 1, reason=str(conflict))
                self._table = None
                time.sleep(random.uniform(0, min(1.0, 0.01 * 2**attempt)))
            except FileNotFoundError as error:
                self._live.forget()
                self._table = None
                with files_found(self.target.name):
                    if not self._moved_on():
                        raise
                # what this worker knew of the table is removed by now: others have committed meanwhile
                log.info("iceberg.table_outdated", table=self.target.name, reason=str(error))
            except IndexDamaged as damage:
                log.warning("iceberg.index_damaged", table=self.target.name, attempt=attempt + 1, reason=str(damage))
                if self._upserts is not None:
                    self._upserts.forget()
        raise Unavailable(f"table {self.target.name}: {COMMIT_ATTEMPTS} commits in a row came second")

    def tidy(self, *, hurried: bool = False) -> None:
        if self._table is None or time.monotonic() < self._rests_until:
            return
        try:
            with self._unsure(), sorted_errors(self._config):
                self._tidy_files(HURRIED if hurried else CALM)
                self._history.clean(self._table or self._require())
        except IndexDamaged as damage:
            log.warning("iceberg.not_tidied", table=self.target.name, reason=str(damage))
        except FileNotFoundError as error:  # what is remembered of the table is too old; the next look decides
            if str(error) == self._missing:
                log.warning("iceberg.not_tidied", table=self.target.name, reason=gone(error))
                self._rests_until = time.monotonic() + REST_SECONDS
            else:
                log.info("iceberg.table_outdated", table=self.target.name, reason=str(error))
            self._missing = str(error)
            self._live.forget()
            self._table = None

    def close(self) -> None:
        if self._index is not None and self._upserts is not None:
            self._upserts = None
            self._index.close()

    @contextmanager
    def _unsure(self) -> Iterator[None]:
        """Once the catalog or the store was away a commit may have landed: the next attempt looks."""
        try:
            yield
        except CommitUnknown as error:
            self._table = None
            raise Unavailable(f"table {self.target.name}: the catalog's answer was lost: {error}") from error
        except Unavailable:
            self._table = None
            raise

    def _moved_on(self) -> bool:
        """Whether the table has other metadata by now than the last attempt went by."""
        with sorted_errors(self._config):
            try:
                table = self._load()
            except FileNotFoundError:  # between the catalog's answer and its reading
                table = self._load()
        return table is None or table.metadata_location != self._tried

    # -- one attempt

    def _attempt(self, batch: Batch) -> Receipt:
        found = self._table or self._load()
        if found is None and self._upserts is not None and not batch.keyed:
            batch = Batch(batch.ranges, (), batch.partition_counts)  # truncates of nothing
        if found is None and not batch.changes and self._config.partition_by:
            # No columns are known to partition it by. Nothing is lost if these offsets are read again.
            return Receipt({tp: span.next for tp, span in batch.ranges.items()}, None, datetime.now(UTC), 0)
        table = found or self._create(batch)
        self._tried = table.metadata_location
        sent = self._sent
        fate = self._settle(table)
        state = self._state(table)
        try:
            todo = batch.trim(state.offsets)
        except OffsetGap:
            # what is remembered of the table may be older than another worker's commit
            table = self._load() or self._create(batch)
            self._tried = table.metadata_location
            state = self._state(table)
            todo = batch.trim(state.offsets)
        if not todo.ranges:
            if sent and fate is Fate.LANDED and isinstance(sent.change, Written) and sent.change.ends(batch):
                return self._receipt(batch, state, sent.prepared.snapshot_id, sent.change.staged.batch.num_rows)
            return self._receipt(batch, state, None, 0)
        keyed = self._upserts is not None
        check_partition_counts(self.target.name, state.partition_counts, todo, keyed=keyed)
        wanted = plan(table, state, todo, self.target, self._config.schema_evolution, keyed=keyed)
        todo = wanted.applied(todo)
        key = next((change.schema.key for change in todo.keyed), ()) if keyed else ()
        base = evolved(table, wanted, key)
        staged = self._stage(table, base.metadata, state, todo)
        after = state.after(todo, wanted.schema_ids)
        self._spare = staged  # until it is sent
        expiry = self._history.expiry(table.metadata, table.io)
        removed = self._live.paths() if staged.delta is not None and staged.delta.truncated else ()
        change = FileChange(staged.files, removed, after.entries(self.target, base.metadata.next_sequence_number()))
        prepared = commit.prepare(base, table, change, expiry, self._manifests)
        self._spare = None
        self._publish(table, Sent(prepared, Written(staged, after, wanted), removed))
        return self._receipt(batch, after, prepared.snapshot_id, todo.num_rows)

    def _publish(self, table: Table, sent: Sent) -> None:
        """Send a commit, and take it in. A refusal is settled by whoever reads the table next."""
        self._sent = sent
        try:
            with sorted_errors(self._config):
                commit.publish(table, sent.prepared)
        except CommitConflict:
            self._sent, self._table = replace(sent, refused=True), None
            raise
        self._settle(table)
        self._table = table

    def _settle(self, table: Table) -> Fate | None:
        """Take in a commit that was sent, once the table shows that it landed, or clear up what it never will need."""
        sent, self._sent = self._sent, None
        if sent is None:
            return None
        change, snapshot_id = sent.change, sent.prepared.snapshot_id
        fate = sent.fate(table)
        if fate is Fate.SECOND:
            sent.prepared.manifests.discard()
            self._spare = change.staged if isinstance(change, Written) else self._spare
        snapshot = table.metadata.snapshot_by_id(snapshot_id)
        if snapshot is None:
            return fate  # if it's unknown, its files may be in use: they are left to orphan removal
        if sent.refused:
            log.info("iceberg.landed_though_refused", table=self.target.name, snapshot_id=snapshot_id)
        if isinstance(change, Written):
            self._news.tell(change.wanted)
            self._seen = dict(change.after.offsets)
            self._written = frozenset(change.staged.batch.ranges)
        if table.metadata.current_snapshot_id != snapshot_id:
            return fate  # others have committed since: the index is compared with the table anew
        if isinstance(change, Tidied):
            self._live.committed(snapshot, change.files, sent.removed, {})
            self._files.tidied(change, snapshot_id)
            return fate
        staged = change.staged
        moved = {tp: span.next for tp, span in staged.batch.ranges.items()}
        self._live.committed(snapshot, staged.files, sent.removed, moved)
        if self._upserts is not None and staged.delta is not None:
            self._upserts.landed(staged.delta, staged.batch, snapshot_id)
        return fate

    def _tidy_files(self, patience: Patience) -> None:
        """One step of tidying the files of the partitions that were written last, if one is due."""
        if self._live.known and self._due(patience) is None:
            return
        started = time.monotonic()
        tidied: Tidied | None = None
        staging: Staging | None = None
        for _ in range(TIDY_ATTEMPTS):
            table = self._table or self._require()
            self._settle(table)
            state = self._state(table)
            if self._files.catch_up(table, state, self._written) and tidied is not None:
                break  # somebody else changed these files
            step = self._due(patience)
            if step is None:
                break
            if tidied is None:
                staging = Staging(table.metadata, table.io)
                tidied = self._files.rewrite(step, staging, table, self._written)
                pa.default_memory_pool().release_unused()  # a step reads far more than a batch
            if self._publish_tidied(table, state, tidied):
                rows = {f"{tp.topic}/{tp.partition}": len(files) for tp, files in tidied.dropped.items()}
                log.info("iceberg.tidied", table=self.target.name, files=rows, removed=len(tidied.removed),
                         added=len(tidied.files), seconds=round(time.monotonic() - started, 3))  # fmt: skip
                return
        if tidied is not None and staging is not None:
            staging.discard(tidied.files)

    def _due(self, patience: Patience) -> Step | None:
        step = self._files.due(self._written, patience)
        return self._compactor.due(self._files, self._written) if step is None and patience is CALM else step

    def _publish_tidied(self, table: Table, state: SinkState, tidied: Tidied) -> bool:
        """Commit a tidying step; False if another commit came first."""
        partitions: dict[str, list[int]] = {}
        for tp in sorted(tidied.partitions):
            partitions.setdefault(tp.topic, []).append(tp.partition)
        notes = {tidied_key(self.target): json.dumps(partitions)}
        change = FileChange(
            tidied.files,
            tidied.removed,
            state.entries(self.target, table.metadata.next_sequence_number()),
            notes,
            rewrites=True,
        )
        try:
            expiry = self._history.expiry(table.metadata, table.io)
            prepared = commit.prepare(Evolved(table.metadata), table, change, expiry, self._manifests)
        except (FilesGone, FileNotFoundError) as gone:  # what is remembered of the table is too old
            log.info("iceberg.conflict", table=self.target.name, reason=f"{gone} is gone")
            self._live.forget()
            self._table = None
            return False
        try:
            self._publish(table, Sent(prepared, tidied, tidied.removed))
        except CommitConflict as conflict:
            fate = self._settle(self._require())
            if fate is Fate.UNKNOWN:  # the files of this step aren't used a second time, nor removed
                raise CommitUnknown(str(conflict)) from conflict
            return fate is Fate.LANDED
        return True

    def _stage(self, table: Table, metadata: TableMetadata, state: SinkState, batch: Batch) -> Staged:
        """The files of `batch`: those of an attempt that came second, if they are still right, else new ones."""
        changed = self._catch_up(table, state, batch)
        spare, self._spare = self._spare, None
        staging = Staging(metadata, table.io)
        if spare is not None:
            # not by the schema's number: another writer's schema may have taken the one that this was to be
            same_columns = spare.schema.fields == metadata.schema().fields
            if not changed and spare.batch.ranges == batch.ranges and same_columns:
                return spare
            staging.discard(spare.files)
        if self._upserts is not None:
            delta = self._upserts.stage(staging, batch, table)
            return Staged(batch, metadata.schema(), delta.files, delta)
        files = []
        changes = [change for change in batch.changes if change.rows.num_rows]
        if changes:
            owner, rows = min(change.tp for change in changes), union_changelog(changes)
            self._live.width.saw(rows)
            files = [staged.file for staged in staging.data_files({owner: rows})[owner]]
        return Staged(batch, metadata.schema(), files, None)

    def _catch_up(self, table: Table, state: SinkState, batch: Batch) -> bool:
        """Bring the key index in step with the table; True if it had to change."""
        return self._upserts is not None and self._upserts.catch_up(table, state, batch.ranges)

    # -- the table

    def _load(self) -> Table | None:
        """The table, freshly read; None if there is none. Refuses one that doesn't fit, or that was replaced."""
        catalog = self._catalog
        if catalog is None:
            raise Unavailable(f"sink {self.target.sink_id} isn't open")
        try:
            table = catalog.load_table(self._identifier)
        except (NoSuchTableError, NoSuchNamespaceError):
            table = None
        uuid = None if table is None else str(table.metadata.table_uuid)
        if self._table_uuid is not None and uuid != self._table_uuid:
            raise DestinationChanged(
                f"table {self.target.name} was {'dropped' if table is None else 'replaced'} while the pipeline wrote"
                " into it; restart the pipeline to begin it anew"
            )
        if table is not None and self._table_uuid is None:
            check_fits(self._config, table, self.target.name)
            self._table_uuid = uuid
        self._table = table
        return table

    def _require(self) -> Table:
        table = self._load()
        if table is None:
            raise Unavailable(f"table {self.target.name} isn't there")
        return table

    def _create(self, batch: Batch) -> Table:
        assert self._catalog is not None
        create_table(self._catalog, self._config, self.target, batch, keyed=self._upserts is not None)
        return self._require()

    def _state(self, table: Table) -> SinkState:
        state = SinkState.read(table.metadata, self.target)
        lost = [tp for tp in self._seen if tp not in state.offsets]
        if lost:
            raise DestinationChanged(
                f"table {self.target.name} lost its offsets of {lost[0].topic}/{lost[0].partition} while the pipeline"
                " wrote into it; restore the snapshot or property that held them, or start from a new table"
            )
        return state

    def _receipt(self, batch: Batch, state: SinkState, version: int | None, rows: int) -> Receipt:
        offsets = {tp: state.offsets[tp] for tp in batch.ranges if tp in state.offsets}
        files = commit.table_files(self._table) if self._table is not None else None
        return Receipt(offsets, version, datetime.now(UTC), rows, files)
