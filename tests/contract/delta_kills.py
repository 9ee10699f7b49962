"""Workers of Delta tables that are killed at each step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from contract_events import TOPIC
from contract_harness import target
from delta_harness import DeltaHarness
from kills import Worker, under_kills

from config.pipeline import DeltaConfig
from sinks.base import Sink
from sinks.delta.sink import DeltaSink
from sinks.delta.vector_sink import VectorSink
from sources.changes import ChangeBatch
from tables.key_index import KeyIndex


def written_under_kills(
    folder: Path,
    make: Callable[[Path], DeltaHarness],
    before: Sequence[ChangeBatch],
    last: ChangeBatch | None,
    after: Sequence[ChangeBatch],
    check: Callable[[DeltaHarness], None] = lambda _: None,
) -> list[str]:
    """Kill a worker at each step of the commit of `last`, or (None) of a tidying step; return the steps."""

    def worker(harness: DeltaHarness, index: Path) -> Worker:
        return Worker(partial(_sink, harness.config, str(harness.path), index), (), before, last, True)

    return under_kills(folder, make, worker, after, check)


def _sink(config: DeltaConfig, uri: str, folder: Path) -> Sink:
    where = target((TOPIC,), uri)
    return VectorSink(config, where, KeyIndex.shared(folder)) if config.has_vectors else DeltaSink(config, where)
