"""Reading a version of a sink's table as its readers do (PyIceberg's scan, delta-rs' query engine), batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import QueryBuilder
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan, _read_all_delete_files, schema_to_pyarrow
from pyiceberg.table import Table

from config.errors import ConfigurationError, Unavailable
from config.pipeline import DeltaConfig, IcebergConfig
from sinks.delta.state import LoadedTable
from sinks.delta.storage import load, storage_options, store_errors
from sinks.factory import TablePlan
from sinks.iceberg.catalog import connect, sorted_errors
from sinks.iceberg.state import SinkState
from sources.changes import CDC_TOPIC, TopicPartition
from verify.lake_types import plain_schema

_DELTA_SESSION = {
    # one file at a time: a batch per file and core would be held otherwise
    "datafusion.execution.target_partitions": "1",
    "datafusion.execution.batch_size": "32768",
    "datafusion.execution.parquet.pushdown_filters": "false",
}


@dataclass(frozen=True)
class LakeVersion:
    """One version of a sink's table; what is read of it stays the same, whatever is committed meanwhile.

    `columns`: all of them, at plain types. `offsets`: the next wanted offsets of the topic's Kafka partitions that this
    version was committed with. `rows`: about how many there are, of all topics.
    """

    columns: pa.Schema
    offsets: Mapping[TopicPartition, int]
    rows: int
    scan: Callable[[list[str]], Iterator[pa.RecordBatch]]
    topic: str
    shared: bool

    def read(self, names: list[str], take: Callable[[pa.Table], None]) -> None:
        """Hand over the topic's rows with these columns, in batches of some 10,000 rows, in no order."""
        wanted = pa.schema([self.columns.field(name) for name in names])
        there = [*names, CDC_TOPIC] if self.shared and CDC_TOPIC not in names else names
        for batch in self.scan(there):
            rows = pa.table(batch)
            if self.shared:
                rows = rows.filter(pc.equal(rows.column(CDC_TOPIC), self.topic))
            if len(rows):
                take(rows.select(names).cast(wanted))


def open_lake(plan: TablePlan, topic: str, partitions: Collection[TopicPartition]) -> LakeVersion | None:
    """The newest version of the table that a topic is written into, None if there is no table yet.

    Raises ConfigurationError or Unavailable for what keeps it from being read.
    """
    if isinstance(plan.settings, IcebergConfig):
        return _iceberg(plan, plan.settings, topic)
    if isinstance(plan.settings, DeltaConfig):
        return _delta(plan, plan.settings, topic, partitions)
    raise ConfigurationError(f"sink {plan.target.sink_id}: `cdc verify` can't read this kind of sink yet")


def read_sink_table(plan: TablePlan, topic: str) -> pa.Table | None:
    """All rows of one topic in a sink's table at once, for small tables; None if there is no table yet."""
    lake = open_lake(plan, topic, ())
    if lake is None:
        return None
    parts = [lake.columns.empty_table()]
    lake.read(lake.columns.names, parts.append)
    return pa.concat_tables(parts)


def _iceberg(plan: TablePlan, config: IcebergConfig, topic: str) -> LakeVersion | None:
    with sorted_errors(config):
        try:
            table = connect(config).load_table(plan.target.name)
        except (NoSuchTableError, NoSuchNamespaceError):
            return None
        state = SinkState.read(table.metadata, plan.target)
        snapshot = table.current_snapshot()
    summary = snapshot.summary.additional_properties if snapshot is not None and snapshot.summary else {}

    def scan(names: list[str]) -> Iterator[pa.RecordBatch]:
        with sorted_errors(config), _reading(plan.target.name):
            yield from _scan(table, names)

    return LakeVersion(
        plain_schema(schema_to_pyarrow(table.schema(), include_field_ids=False)),
        {tp: offset for tp, offset in state.offsets.items() if tp.topic == topic},
        int(summary.get("total-records", 0)) - int(summary.get("total-position-deletes", 0)),
        scan,
        topic,
        len(plan.target.topics) > 1,
    )


@contextmanager
def _reading(name: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise Unavailable(
            f"{name}: a file of the version that is compared is gone ({error}), as its readers' grace time is over;"
            " run it again, or raise the grace time"
        ) from error
    except (ValueError, NotImplementedError) as error:
        raise ConfigurationError(f"{name} has something that this reader can't read: {error}") from error


def _scan(table: Table, names: list[str]) -> Iterator[pa.RecordBatch]:
    """PyIceberg's scan, file by file: its own reader holds whole files, several at once. In memory are the positions
    of all delete files (8 bytes each) and a batch."""
    picked = table.scan(selected_fields=tuple(names))
    tasks = list(picked.plan_files())
    scan = ArrowScan(table.metadata, table.io, picked.projection(), AlwaysTrue())
    deletes = _read_all_delete_files(table.io, tasks)
    yield from scan._record_batches_from_scan_tasks_and_deletes(tasks, deletes)


def _delta(
    plan: TablePlan, config: DeltaConfig, topic: str, partitions: Collection[TopicPartition]
) -> LakeVersion | None:
    uri = plan.target.name
    table = load(uri, storage_options(uri, config.storage_options))
    if table is None:
        return None
    state = LoadedTable(plan.target, table)
    with store_errors(uri):
        offsets = state.offsets(partitions)
        files = pa.table(table.get_add_actions(flatten=True))
    counts = files.column("num_records") if "num_records" in files.column_names else pa.array([0])

    def scan(names: list[str]) -> Iterator[pa.RecordBatch]:
        quoted = ", ".join('"' + name.replace('"', '""') + '"' for name in names)
        with store_errors(uri), _reading(uri):
            reader = QueryBuilder(_DELTA_SESSION).register("t", table).execute(f"SELECT {quoted} FROM t")
            for batch in reader:
                yield pa.record_batch(batch)

    return LakeVersion(
        plain_schema(state.columns), offsets, int(pc.sum(counts).as_py() or 0), scan, topic, len(plan.target.topics) > 1
    )
