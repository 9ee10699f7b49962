"""Workers of Delta tables with deletion vectors that are killed at each change of the store or the log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from contract_events import TOPIC
from contract_harness import target
from delta_harness import DeltaHarness
from deltalake import DeltaTable
from kills import Worker, under_kills

from config.pipeline import DeltaConfig
from sinks.base import Sink
from sinks.delta.folder import Folder
from sinks.delta.vector_sink import VectorSink
from sources.changes import ChangeBatch
from tables.key_index import KeyIndex

PLACES = [
    (Folder, "put"),
    (Folder, "put_new"),
    (Folder, "delete"),
    (DeltaTable, "create_checkpoint"),
    (DeltaTable, "cleanup_metadata"),
]


def written_under_kills(
    folder: Path,
    make: Callable[[Path], DeltaHarness],
    before: Sequence[ChangeBatch],
    last: ChangeBatch | None,
    after: Sequence[ChangeBatch],
    check: Callable[[DeltaHarness], None],
) -> int:
    """Kill a worker at each change that the commit of `last` makes, or (None) a tidying step; return how many there
    are."""

    def worker(harness: DeltaHarness, index: Path) -> Worker:
        return Worker(partial(_sink, harness.config, str(harness.path), index), PLACES, (), before, last, True)

    return under_kills(folder, make, worker, after, check)


def _sink(config: DeltaConfig, uri: str, folder: Path) -> Sink:
    return VectorSink(config, target((TOPIC,), uri), KeyIndex.shared(folder))
