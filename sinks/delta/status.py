"""The status of a Delta table: its files, its log, and what the upkeep will do next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.fs import DeltaStorageHandler
from pyarrow.fs import FileSelector, PyFileSystem

from config.pipeline import DeltaConfig
from sinks.base import Target
from sinks.delta.state import LoadedTable
from sinks.delta.storage import load, storage_options, store_errors
from sinks.delta.upkeep import FAN_IN, LOOK_EVERY, SIZES, PartitionSizes, Upkeep, partition_sizes
from sinks.status import Files, TableStatus, by_size
from sinks.status import Upkeep as Planned


def delta_status(config: DeltaConfig, target: Target) -> TableStatus | None:
    """None if there is no such table. Raises as the sink's `open` does."""
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
