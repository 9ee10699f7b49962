"""The status of an Iceberg table: its files, and what tidying and history will do next, as the worker decides it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError
from pyiceberg.table import Table

from config.errors import PipelineStopped
from config.pipeline import IcebergConfig
from sinks import tiers
from sinks.base import Target
from sinks.iceberg import history, tidy
from sinks.iceberg.catalog import connect, sorted_errors
from sinks.iceberg.compaction import as_asked
from sinks.iceberg.live_files import LiveFile, LiveFiles
from sinks.iceberg.rebuild import dead_rows, deleted_positions
from sinks.iceberg.state import SinkState, lineage, retired_key
from sinks.owners import owner_id, owner_of
from sinks.status import Deletes, Files, TableStatus, Upkeep, by_size
from sources.changes import TopicPartition


def iceberg_status(config: IcebergConfig, target: Target) -> TableStatus | None:
    """None if there is no such table, or if it has no snapshot yet. Raises as the sink's `open` does."""
    with sorted_errors(config):
        try:
            table = connect(config).load_table(target.name)
        except (NoSuchTableError, NoSuchNamespaceError):
            return None
        return _status(table, config, target)


def _status(table: Table, config: IcebergConfig, target: Target) -> TableStatus | None:
    metadata, io = table.metadata, table.io
    snapshot = table.current_snapshot()
    if snapshot is None:
        return None
    state = SinkState.read(metadata, target)
    live = LiveFiles(target)
    foreign: tuple[Upkeep, ...] = ()
    try:
        live.catch_up(table, state.offsets, state.offsets)
    except PipelineStopped as error:
        foreign = (Upkeep("nothing is tidied", str(error)),)
    dead = _dead_rows(table, live)
    known = {tp: live.indexed(tp, dead if config.write_mode == "upsert" else {}) for tp in state.offsets}
    data, deletes = live.data.values(), live.deletes.values()
    manifests = snapshot.manifests(io)
    sizes = [len(io.new_input(path)) for path in (table.metadata_location, snapshot.manifest_list)]
    lists = list(history.lists(io, metadata.properties.get(retired_key(target))))
    return TableStatus(
        target.sink_id,
        target.name,
        str(metadata.table_uuid),
        str(snapshot.snapshot_id),
        datetime.fromtimestamp(snapshot.timestamp_ms / 1000, UTC),
        sum(file.rows - dead[file.path] for file in data),
        Files(
            len(data),
            sum(file.size for file in data),
            by_size(file.size for file in data),
            sum(dead[file.path] for file in data),
            sum(dead[file.path] > tiers.CALM.dirty_share * file.rows for file in data),
        ),
        len(metadata.snapshots),
        sum(sizes) + sum(manifest.manifest_length for manifest in manifests),
        (*foreign, *_upkeep(live, known), *_maintenance(config, live, known), *_history(table, lists)),
        Deletes(len(deletes), sum(file.rows for file in deletes), sum(file.size for file in deletes)),
        len(manifests),
        sum(len(retired.files) for retired in lists),
    )


def _dead_rows(table: Table, live: LiveFiles) -> Counter[str]:
    """How many rows of each data file the delete files name."""
    gone = deleted_positions(table.io, live.deletes, live.data)
    return Counter({path: dead_rows(gone, path) for path in gone})


def _upkeep(live: LiveFiles, known: Mapping[TopicPartition, tiers.Files]) -> Iterator[Upkeep]:
    step = tidy.due(live, tiers.CALM, known)
    if step is not None:
        data = sum(len(candidates) for _, candidates in step.data)
        deletes = sum(len(found) for _, found in step.deletes)
        parts = [f"{data} data files"] * bool(data) + [f"{deletes} delete files"] * bool(deletes)
        yield Upkeep(f"rewrite {' and '.join(parts)}", "after the next commit")
        return
    waiting: Counter[str] = Counter()
    for tp, files in known.items():
        owned = [live.data[file.path] for file in files.values()]
        small = [file for file in owned if file.size <= tiers.LARGEST_SMALL_BYTES]
        waiting.update(f"data files of {tp.topic}/{tp.partition}{_where(file)}" for file in small)
        waiting.update(_delete_files(tp, live))
    if waiting:
        what, count = waiting.most_common(1)[0]
        yield Upkeep(f"merge {what}", f"once {tiers.FAN_IN} of one size are there; {count} small ones so far")


def _maintenance(
    config: IcebergConfig, live: LiveFiles, known: Mapping[TopicPartition, tiers.Files]
) -> Iterator[Upkeep]:
    step = tidy.due(live, as_asked(config.maintenance), known) if config.maintenance.enabled else None
    if step is not None:
        files = sum(len(candidates) for _, candidates in step.data)
        seconds = config.maintenance.compaction_interval_seconds
        yield Upkeep(f"compact {files} data files", f"when the worker looks, every {seconds:g} s")


def _delete_files(tp: TopicPartition, live: LiveFiles) -> list[str]:
    return [f"delete files{_where(file)}" for file in live.deletes.values() if owner_of(file.path) == owner_id(tp)]


def _where(file: LiveFile) -> str:
    """The table partition, for readers of the status."""
    values = [str(file.partition[n]) for n in range(len(file.partition))]
    return f" in partition ({', '.join(values)})" if values else ""


def _history(table: Table, lists: list[history.Retired]) -> Iterator[Upkeep]:
    kept = len(list(lineage(table.metadata, table.metadata.current_snapshot_id)))
    left = max(1, history.KEEP + history.GROUP - kept)
    yield Upkeep(
        f"drop {history.GROUP} snapshots or more", f"in {left} commits at the earliest ({kept} in the history)"
    )
    if lists:
        grace = float(table.metadata.properties.get(history.GRACE_PROPERTY, history.GRACE_SECONDS))
        due = min(retired.at for retired in lists) + grace
        when = f"from {datetime.fromtimestamp(due, UTC):%Y-%m-%d %H:%M:%S}Z on" if due > time.time() else "now"
        yield Upkeep(f"remove {sum(len(retired.files) for retired in lists)} files that no snapshot needs", when)
