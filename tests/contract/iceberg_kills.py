"""Workers of Iceberg tables that are killed at each step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from contract_events import TOPIC
from contract_harness import target
from iceberg_harness import NAME, IcebergHarness
from kills import Worker, under_kills

from config.pipeline import IcebergConfig
from sinks.base import Sink
from sinks.iceberg.sink import IcebergSink
from sources.changes import ChangeBatch
from tables.key_index import KeyIndex


def tidied_under_kills(
    folder: Path,
    make: Callable[[Path], IcebergHarness],
    tidied: Sequence[ChangeBatch],
    untidied: Sequence[ChangeBatch],
    after: Sequence[ChangeBatch],
    *,
    small: bool = True,
) -> list[str]:
    """Kill a worker at each step of tidying a table once; return the steps."""

    def worker(harness: IcebergHarness, index: Path) -> Worker:
        return Worker(partial(_sink, harness.config, index), tidied, untidied, None, small)

    return under_kills(folder, make, worker, after)


def written_under_kills(
    folder: Path,
    make: Callable[[Path], IcebergHarness],
    before: Sequence[ChangeBatch],
    last: ChangeBatch,
    after: Sequence[ChangeBatch],
) -> list[str]:
    """Kill a worker at each step of the commit of `last`; return the steps."""

    def worker(harness: IcebergHarness, index: Path) -> Worker:
        return Worker(partial(_sink, harness.config, index), (), before, last, True)

    return under_kills(folder, make, worker, after)


def _sink(config: IcebergConfig, folder: Path) -> Sink:
    index = KeyIndex.shared(folder) if config.write_mode == "upsert" else None
    return IcebergSink(config, target((TOPIC,), f"{config.table_namespace}.{NAME}"), index)
