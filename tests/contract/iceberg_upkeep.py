"""What tests of the upkeep of Iceberg tables share: changes that give it work, its limits made small."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from contract_base import TP0
from iceberg_harness import IcebergHarness
from pyiceberg.table import Table

from sinks import tiers
from sinks.base import Sink
from sinks.iceberg import commit as commits
from sinks.iceberg import history, tidy
from sinks.iceberg.deletes import DeletedRows
from sinks.iceberg.evolved import Evolved
from sinks.iceberg.files import Staging
from sinks.iceberg.history import Expiry
from sinks.iceberg.sink import IcebergSink


@contextmanager
def small_sizes(**more: int) -> Iterator[None]:
    """Tiers and limits of a table of a few rows."""
    sizes = {"FAN_IN": 4, "DIRTY_ROWS": 12, "GARBAGE_POSITIONS": 12, "POSITIONS_PER_TIER": 4, **more}
    with pytest.MonkeyPatch.context() as patch:
        for name, size in sizes.items():
            patch.setattr(tidy if hasattr(tidy, name) else tiers, name, size)
        patch.setattr(history, "KEEP", 6)
        patch.setattr(history, "GROUP", 3)
        yield


def present(harness: IcebergHarness) -> Table:
    table = harness.table()
    assert table is not None
    return table


def counts(table: Table) -> tuple[int, int]:
    """Data files and delete files."""
    summary = table.current_snapshot().summary  # type: ignore[union-attr]  # there is one
    assert summary is not None
    return int(summary["total-data-files"] or 0), int(summary["total-delete-files"] or 0)


def on_disk(folder: Path) -> set[str]:
    return {str(path) for path in (folder / "warehouse").rglob("*") if path.is_file() and ".crc" not in path.name}


def needed(table: Table) -> set[str]:
    """What the table's snapshots and its log of metadata need."""
    paths = {table.metadata_location, *(entry.metadata_file for entry in table.metadata.metadata_log)}
    for snapshot in table.snapshots():
        paths.add(snapshot.manifest_list)
        for manifest in snapshot.manifests(table.io):
            paths.add(manifest.manifest_path)
            paths |= {entry.data_file.file_path for entry in manifest.fetch_manifest_entry(table.io)}
    return {path.removeprefix("file://") for path in paths}


@contextmanager
def between_rewrite_and_commit(sink: Sink, action: Callable[[], object]) -> Iterator[list[object]]:
    """`action` happens once when the files of a tidying step are written, before it is committed."""
    assert isinstance(sink, IcebergSink)
    publish = sink._publish_tidied
    happened: list[object] = []

    def late(*args: Any) -> bool:
        if not happened:
            happened.append(action())
        return publish(*args)

    sink._publish_tidied = late  # type: ignore[method-assign, assignment]  # put back below
    try:
        yield happened
    finally:
        sink._publish_tidied = publish  # type: ignore[method-assign]  # as above


def delete_by_position(harness: IcebergHarness, key: int) -> int:
    """Another engine's row delta: one position delete, in a file with a name of its own."""

    table = present(harness)
    staging = Staging(table.metadata, table.io)
    for task in table.scan().plan_files():
        with table.io.new_input(task.file.file_path).open() as stream:
            ids = pa.parquet.read_table(stream, columns=["id"]).column("id").to_pylist()
        if key in ids:
            deleted = DeletedRows.of([(task.file.file_path, np.array([ids.index(key)]))])
            ours = staging.position_deletes(TP0, deleted, task.file.spec_id, task.file.partition)
            foreign = ours.file_path.replace("lw-deletes-", "spark-")
            content = table.io.new_input(ours.file_path).open().read()
            with table.io.new_output(foreign).create() as stream:
                stream.write(content)
            table.io.delete(ours.file_path)
            ours._data[1] = foreign
            assert ours.file_path == foreign
            change = commits.FileChange([ours], (), {})
            prepared = commits.prepare(Evolved(table.metadata), table, change, Expiry(), {})
            commits.publish(table, prepared)
            return 1
    return 0
