"""The status of a Delta table: its files, its log, and what the upkeep will do next."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.fs import DeltaStorageHandler
from pyarrow.fs import FileSelector, PyFileSystem

from config.pipeline import DeltaConfig
from sinks import tiers
from sinks.base import Target
from sinks.delta.actions import Snapshot
from sinks.delta.clean import grace_seconds, waiting
from sinks.delta.folder import Folder
from sinks.delta.log import TableLog
from sinks.delta.state import LoadedTable, written_partitions
from sinks.delta.storage import load, storage_options, store_errors
from sinks.delta.upkeep import FAN_IN, LOOK_EVERY, SIZES, PartitionSizes, Upkeep, partition_sizes
from sinks.owners import owner_id
from sinks.status import Deletes, Files, TableStatus, by_size
from sinks.status import Upkeep as Planned
from sources.changes import TopicPartition
from tables.key_index import IndexedFile


def delta_status(config: DeltaConfig, target: Target) -> TableStatus | None:
    """None if there is no such table. Raises as the sink's `open` does."""
    if config.has_vectors:
        return _vector_status(config, target)
    options = storage_options(target.name, config.storage_options)
    table = load(target.name, options)
    if table is None:
        return None
    state = LoadedTable(target, table)
    with store_errors(target.name):
        partitions = partition_sizes(state)
        counts = pa.table(table.get_add_actions(flatten=True)).column("num_records").to_pylist()
        newest = table.history(1)[0]
        log = _log(table)
    sizes = [size for files in partitions.values() for size in files]
    return TableStatus(
        target.sink_id,
        target.name,
        state.id,
        str(state.version),
        datetime.fromtimestamp(newest["timestamp"] / 1000, UTC),
        sum(count or 0 for count in counts),
        Files(len(sizes), sum(sizes), by_size(sizes)),
        sum(path.endswith(".json") for path in log),
        _to_read(log),
        tuple(_upkeep(Upkeep(config, options, target), config, state, partitions)),
    )


def _vector_status(config: DeltaConfig, target: Target) -> TableStatus | None:
    """By the log alone: delta-rs doesn't tell which rows are gone."""
    log = TableLog(Folder(target.name, storage_options(target.name, config.storage_options)), target)
    table = log.look()
    if table is None:
        return None
    files = list(table.files.values())
    sizes = [file.size for file in files]
    vectors = [file.vector for file in files if file.vector is not None]
    dirty = sum(file.dead > tiers.CALM.dirty_share * (file.rows or 0) for file in files)
    names = log.files()
    return TableStatus(
        target.sink_id,
        target.name,
        str(table.metadata["id"]),
        str(table.version),
        datetime.fromtimestamp(table.at / 1000, UTC),
        sum((file.rows or 0) - file.dead for file in files),
        Files(len(files), sum(sizes), by_size(sizes), sum(file.dead for file in files), dirty),
        sum(path.endswith(".json") for path in names),
        _to_read(names),
        tuple(_vector_upkeep(config, table, target)),
        Deletes(len(vectors), sum(v.cardinality for v in vectors), sum(v.size for v in vectors)),
        retired_files=waiting(table),
    )


def _vector_upkeep(config: DeltaConfig, table: Snapshot, target: Target) -> Iterator[Planned]:
    owned: dict[TopicPartition, dict[int, IndexedFile]] = defaultdict(dict)
    owners = {owner_id(tp): tp for tp in written_partitions(table.transactions, target)}
    for number, file in enumerate(table.files.values()):
        if file.owner in owners:
            owned[owners[file.owner]][number] = IndexedFile(file.path, file.rows or 0, file.dead)
    step = tiers.worth_rewriting(tiers.candidates(table.files, owned, row_bytes=0.0), tiers.CALM)
    if step:
        yield Planned(f"rewrite {sum(len(files) for _, files in step)} data files", "after the next commit")
    else:
        small: Counter[str] = Counter()
        for tp, files in owned.items():
            for known in files.values():
                if (file := table.files[known.path]).size <= tiers.LARGEST_SMALL_BYTES:
                    where = ", ".join(f"{name}={value}" for name, value in file.partition.items())
                    small[f"data files of {tp.topic}/{tp.partition}{f' of {where}' * bool(where)}"] += 1
        for what, count in small.most_common(1):
            yield Planned(f"merge {what}", f"once {tiers.FAN_IN} of one size are there; {count} small ones so far")
    foreign = sum(file.owner is None for file in table.files.values())
    if foreign:
        yield Planned(f"leave {foreign} data files of other writers as they are", "always")
    if not config.maintenance.enabled:
        yield Planned("leave what other writers left behind", "unless delta.maintenance is enabled")
    if waiting(table):
        latest = min(table.given_up.values()) / 1000 + grace_seconds(table.properties)
        yield Planned(f"remove {waiting(table)} files that were replaced",
                      f"from {datetime.fromtimestamp(latest, UTC):%Y-%m-%d %H:%M:%S}Z on")  # fmt: skip


def _log(table: DeltaTable) -> dict[str, int]:
    """The files of the table's log, by name, with their bytes."""
    store = PyFileSystem(DeltaStorageHandler.from_table(table._table))
    found = store.get_file_info(FileSelector("_delta_log"))
    return {info.base_name: info.size for info in found if info.is_file}


def _to_read(log: Mapping[str, int]) -> int:
    """Bytes of the last checkpoint and of what came after it."""
    checkpoints = [name for name in log if ".checkpoint." in name]
    last = max((name[:20] for name in checkpoints), default="")
    return sum(size for name, size in log.items() if name[:20] > last or (name in checkpoints and name[:20] == last))


def _upkeep(upkeep: Upkeep, config: DeltaConfig, state: LoadedTable, partitions: PartitionSizes) -> Iterator[Planned]:
    soon = f"within {LOOK_EVERY} commits"
    compaction = upkeep.due(partitions, hurried=False)
    if compaction is not None:
        where = ", ".join(f"{name}={value}" for name, value in compaction.partition)
        yield Planned(f"compact {compaction.files} small files{f' of {where}' * bool(where)}", soon)
    else:
        small = SIZES[1] // 2
        most = max((sum(size <= small for size in files) for files in partitions.values()), default=0)
        yield Planned("compact small files of a partition", f"once {FAN_IN} of one size are there; {most} so far")
    if not config.maintenance.enabled:
        yield Planned("nothing is vacuumed", "unless delta.maintenance is enabled")
    for job in upkeep.jobs(state):
        yield Planned(job.what, soon)
