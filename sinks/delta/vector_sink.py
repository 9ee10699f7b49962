"""The Delta sink that upserts by deletion vectors: it commits to the table's log by itself.

delta-rs, which can't write vectors, still writes the checkpoints of the log. What it does here is the same as in
`sink`: offsets, counts and schema ids are `txn` actions of the same names, so a table may be written by either.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pyarrow as pa
import structlog
from deltalake import Transaction
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.schema import Schema

from config.errors import ConfigurationError, LakewardError, Unavailable
from config.pipeline import DeltaConfig
from sinks.base import Batch, Receipt, TableFiles, Target
from sinks.delta import commit, tidy
from sinks.delta.actions import Action, DataFile, Snapshot, now_ms
from sinks.delta.clean import RETENTION_PROPERTY, Cleaner
from sinks.delta.files import LakeFiles
from sinks.delta.folder import Folder
from sinks.delta.log import ALONE, Stake, TableLog, commit_info
from sinks.delta.protocol import VECTORS_PROPERTY, fits, protocol_for
from sinks.delta.sink import DeltaSink
from sinks.delta.state import KEY_PROPERTY, MODE_PROPERTY, ReplayedTable, TableState, app_ids, schema_transactions
from sinks.delta.storage import gone, load, store_errors
from sinks.delta.upsert import Upserts
from sinks.evolution import Evolution
from sinks.owners import Owner, owner_id
from sinks.tiers import CALM, HURRIED, Chosen, Patience, candidates, worth_rewriting
from sources.changes import TopicPartition
from tables.index_database import IndexDamaged
from tables.key_index import KeyIndex

log = structlog.get_logger("lakeward.delta")

DEFAULTS = {
    **commit.DEFAULTS,
    VECTORS_PROPERTY: "true",
    # each commit takes away and adds some dozen files: a day of them would make every checkpoint large
    RETENTION_PROPERTY: "interval 1 hour",
}
"""Properties of tables that are created; the user's own come before them."""

_CHECKPOINT_PROPERTY, _CHECKPOINT_INTERVAL = "delta.checkpointInterval", 10
_REBUILDS = 2
"""Times that a damaged index is built anew for one commit."""


class VectorSink(DeltaSink):
    """One Delta table in upsert mode. `index` is closed with the sink."""

    def __init__(self, config: DeltaConfig, target: Target, index: KeyIndex) -> None:
        super().__init__(config, target)
        self._index = index
        self._folder = Folder(target.name, self._options)
        self._log = TableLog(self._folder, target)
        self._files = LakeFiles(self._folder)
        self._upserts = Upserts(target.name, index, self._log, self._files)
        self._cleaner = Cleaner(target.name, self._folder, config.maintenance)
        self._key: tuple[str, ...] = ()
        self._written: dict[TopicPartition, int] = {}
        self._landed: dict[Owner, float] = {}
        self._checkpoint_due = False
        self._closed = False

    def open(self) -> None:
        """See Sink.open. In an object store delta-rs' readers don't find vectors below a folder whose name needs URI
        encoding."""
        if self._uri.startswith("s3") and quote(self._uri, safe="/:!$&'()*+,;=@~") != self._uri:
            raise ConfigurationError(
                f"Delta table {self._uri}: with upserts: deletion_vectors, table_uri may have no spaces, per cent signs"
                " or letters beyond ASCII, as readers couldn't find the vectors; name another folder, or set upserts:"
                " merge"
            )
        super().open()

    def write(self, batch: Batch) -> Receipt:
        for _ in range(_REBUILDS):
            try:
                return super().write(batch)
            except IndexDamaged as damage:
                log.warning("delta.index_damaged", table=self._uri, reason=str(damage))
                self._upserts.forget()
            except FileNotFoundError as error:  # another writer's vacuum, or a table that was just replaced
                raise Unavailable(f"Delta table {self._uri}: {gone(error)}") from error
        return super().write(batch)

    def tidy(self, *, hurried: bool = False) -> None:
        """See Sink.tidy: one step of rewriting files, a checkpoint of the log, removal of files that nobody needs."""
        try:
            self._tidy_files(hurried=hurried)
        except IndexDamaged as damage:
            log.warning("delta.not_tidied", table=self._uri, reason=str(damage))
            self._upserts.distrust(self._written)
        except FileNotFoundError as error:
            log.warning("delta.not_tidied", table=self._uri, reason=gone(error))
            self._upserts.forget()
        if self._checkpoint_due:
            self._checkpoint()
        if not hurried and self._written:
            self._clean()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._index.close()

    # -- what `DeltaSink` leaves open

    def _ready(self) -> TableState | None:
        return self._load()

    def _find(self) -> TableState | None:
        snapshot = self._log.look()
        return None if snapshot is None else ReplayedTable(self.target, snapshot)

    def _make(self, columns: pa.Schema, plan: Evolution, key: tuple[str, ...] | None) -> None:
        # not by delta-rs: with vectors enabled it asks for the feature variantType, too, which Spark 3.5 doesn't know
        properties = {
            **DEFAULTS,
            **self._config.table_properties,
            "delta.enableChangeDataFeed": str(self._config.change_data_feed).lower(),
            MODE_PROPERTY: self._config.write_mode,
        }
        if key is not None:
            properties[KEY_PROPERTY] = json.dumps(key)
        metadata = {
            "id": str(uuid4()),
            "format": {"provider": "parquet", "options": {}},
            "schemaString": Schema.from_arrow(columns).to_json(),
            "partitionColumns": list(self._partition_by),
            "createdTime": now_ms(),
            "configuration": properties,
        }
        transactions = schema_transactions(self.target, plan)
        actions: list[Action] = [commit_info("CREATE TABLE"), {"protocol": protocol_for(columns)}]
        if not self._log.create([*actions, {"metaData": metadata}, *_txns(transactions)]):
            raise CommitFailedError(f"{self._uri} is there already")

    def _adapt(self, state: TableState, todo: Batch, plan: Evolution) -> bool:
        """See DeltaSink._adapt: columns, the key of a table that had none yet, and what vectors need."""
        table = _snapshot(state)
        key = next((change.schema.key for change in todo.keyed), None)
        columns = pa.schema([*table.columns, *(field.with_nullable(True) for field in plan.add)])
        wanted = dict(table.properties)
        if wanted.get(VECTORS_PROPERTY) != "true":
            wanted[VECTORS_PROPERTY] = "true"
            if wanted.get(RETENTION_PROPERTY) == commit.DEFAULTS[RETENTION_PROPERTY]:  # that of merges, not the user's
                wanted[RETENTION_PROPERTY] = DEFAULTS[RETENTION_PROPERTY]
        if key is not None:
            wanted.setdefault(KEY_PROPERTY, json.dumps(key))
        if not plan.add and wanted == table.properties and fits(table.protocol, columns):
            return False
        metadata = {**table.metadata, "configuration": wanted}
        if plan.add:
            metadata["schemaString"] = Schema.from_arrow(columns).to_json()
        actions: list[Action] = [{"metaData": metadata}]
        if not fits(table.protocol, columns):
            actions.append({"protocol": protocol_for(columns, table.protocol)})
        actions += _txns(schema_transactions(self.target, plan)) if plan.add else []
        operation = "ADD COLUMN" if plan.add else "SET TBLPROPERTIES"
        if self._commit(partial(self._put, operation, actions, ALONE)):
            log.info("delta.table_changed", table=self._uri, added=[field.name for field in plan.add],
                     reader_features=table.protocol["readerFeatures"])  # fmt: skip
        return True

    def _attempt(self, state: TableState, todo: Batch, plan: Evolution) -> bool:
        table = _snapshot(state)
        offsets = state.offsets(todo.ranges)
        after = {tp: span.next for tp, span in todo.ranges.items()}
        self._key = tuple(sorted(json.loads(table.properties.get(KEY_PROPERTY, "[]"))))
        if self._key:  # else there were no rows yet, and there are none now
            self._upserts.catch_up(table, {tp: offsets.get(tp, 0) for tp in after}, self._key)
        delta = self._upserts.stage(table, todo)
        actions = [*_txns(state.transactions(todo, plan)), *delta.actions(changes=True)]
        if not self._commit(partial(self._put, "MERGE", actions, self._stake(after))):
            self._files.discard(delta.written)
            return False
        if self._key:
            self._upserts.landed(delta, table, after)
            self._written = after
        self._landed |= {owner_id(tp): time.time() for tp in after}
        return True

    def _receipt(self, next_offsets: dict[TopicPartition, int], version: int | None, rows: int) -> Receipt:
        table = None if version is None else self._log.known
        if table is not None:
            files = table.files.values()
            vectors = sum(file.vector is not None for file in files)
            self._upkeep.files = TableFiles(len(files), vectors, sum(file.size for file in files))
        return super()._receipt(next_offsets, version, rows)

    # -- commits

    def _put(self, operation: str, actions: list[Action], stake: Stake) -> None:
        version = self._log.commit(operation, actions, stake)
        table = self._log.known
        assert table is not None
        interval = int(table.properties.get(_CHECKPOINT_PROPERTY, _CHECKPOINT_INTERVAL))
        self._checkpoint_due = self._checkpoint_due or version % interval == 0

    def _stake(self, partitions: Mapping[TopicPartition, Any]) -> Stake:
        return Stake(app_ids(self.target, partitions), frozenset(map(owner_id, partitions)))

    # -- upkeep

    def _tidy_files(self, *, hurried: bool) -> None:
        """Rewrite files of the partitions that were written last, if that is due."""
        table, patience = self._log.known, HURRIED if hurried else CALM
        if table is None or not self._written:
            return
        started = time.monotonic()
        if not self._worth_rewriting(table, patience):
            return
        state = self._load()
        if state is None or state.offsets(self._written) != self._written:
            return  # somebody else writes these partitions
        table = _snapshot(state)
        self._upserts.catch_up(table, self._written, self._key)
        step = self._worth_rewriting(table, patience)
        if not step:
            return
        delta = tidy.rewrite(step, table, self._files, self._key, self._upserts.width)
        pa.default_memory_pool().release_unused()  # a step reads far more than a batch
        if not self._commit(partial(self._put, "OPTIMIZE", delta.actions(changes=False), self._stake(self._written))):
            self._files.discard(delta.written)
            log.info("delta.not_tidied", table=self._uri, reason="another writer's commit came first")
            return
        self._upserts.landed(delta, table, self._written)
        log.info("delta.tidied", table=self._uri, removed=len(delta.removed), added=len(delta.added),
                 seconds=round(time.monotonic() - started, 3))  # fmt: skip

    def _worth_rewriting(self, table: Snapshot, patience: Patience) -> Chosen[DataFile]:
        known, row_bytes = self._upserts.known(self._written), self._upserts.width.bytes
        return worth_rewriting(candidates(table.files, known, row_bytes), patience)

    def _checkpoint(self) -> None:
        """Let delta-rs write a checkpoint, and remove what the log's retention has passed over."""
        self._checkpoint_due = False
        try:
            table = load(self._uri, self._options)
            with store_errors(self._uri):
                if table is not None:
                    table.create_checkpoint()
                    table.cleanup_metadata()
        except (LakewardError, DeltaError) as error:  # the next one covers it
            log.warning("delta.no_checkpoint", table=self._uri, error=str(error))

    def _clean(self) -> None:
        table = self._log.known
        if table is not None and self._cleaner.is_time_to_look(table):
            state = self._load()
            if state is not None:
                self._cleaner.clean(_snapshot(state), self._landed)


def _snapshot(state: TableState) -> Snapshot:
    assert isinstance(state, ReplayedTable)
    return state.snapshot


def _txns(transactions: list[Transaction]) -> list[Action]:
    """As the log has them."""
    now = now_ms()
    return [{"txn": {"appId": t.app_id, "version": t.version, "lastUpdated": now}} for t in transactions]
