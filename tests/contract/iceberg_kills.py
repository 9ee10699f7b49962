"""Workers of Iceberg tables that are killed at each change of the store or the catalog."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from contract_events import TOPIC
from contract_harness import target
from iceberg_harness import NAME, IcebergHarness
from kills import Worker, under_kills
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.io.pyarrow import PyArrowFileIO

from config.pipeline import IcebergConfig
from sinks.base import Sink
from sinks.iceberg.sink import IcebergSink
from sources.changes import ChangeBatch
from tables.key_index import KeyIndex

PLACES = [
    (PyArrowFileIO, "new_output"),
    (PyArrowFileIO, "delete"),
    (SqlCatalog, "commit_table"),
    (RestCatalog, "commit_table"),
]


def tidied_under_kills(
    folder: Path,
    make: Callable[[Path], IcebergHarness],
    tidied: Sequence[ChangeBatch],
    untidied: Sequence[ChangeBatch],
    after: Sequence[ChangeBatch],
    *,
    small: bool = True,
) -> int:
    """Kill a worker at each change of store or catalog that one tidying step makes; return how many there are."""

    def worker(harness: IcebergHarness, index: Path) -> Worker:
        return Worker(partial(_sink, harness.config, index), PLACES, tidied, untidied, None, small)

    return under_kills(folder, make, worker, after)


def _sink(config: IcebergConfig, folder: Path) -> Sink:
    index = KeyIndex.shared(folder) if config.write_mode == "upsert" else None
    return IcebergSink(config, target((TOPIC,), f"{config.table_namespace}.{NAME}"), index)
