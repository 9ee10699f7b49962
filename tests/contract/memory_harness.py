"""The memory sink in the contract suite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from contract_events import TOPIC, canonical
from contract_harness import DEFAULT, Factory, target

from config.evolution import SchemaEvolution
from sinks.base import Sink
from sinks.memory import MemorySink, MemoryStore, TableState, WriteMode

Hook = Callable[[], None] | None


class RacyStore(MemoryStore):
    """A memory store whose next commit can be raced or answered by silence."""

    hooks: tuple[Hook, Hook] | None = None

    def swap(self, expected: TableState | None, new: TableState) -> bool:
        before, after = self.hooks or (None, None)
        self.hooks = None
        if before:
            before()
        landed = super().swap(expected, new)
        if after and landed:
            after()
        return landed


class MemoryHarness:
    """One memory store and sinks of one class on it."""

    examples = 60
    widens = True

    def __init__(self, mode: WriteMode, sink_class: type[MemorySink] = MemorySink) -> None:
        self.upsert = mode == "upsert"
        self._mode = mode
        self._sink_class = sink_class
        self._store = RacyStore()

    def new_sink(self, topics: tuple[str, ...] = (TOPIC,), policies: SchemaEvolution = DEFAULT) -> Sink:
        return self._sink_class(target(topics, "memory"), self._mode, self._store, policies)

    def rows(self) -> list[dict[str, Any]]:
        return canonical(self._store.rows().to_pylist())

    def drop(self) -> None:
        self._store.drop()

    @contextmanager
    def around_next_commit(self, before: Hook = None, after: Hook = None) -> Iterator[None]:
        self._store.hooks = (before, after)
        yield
        assert self._store.hooks is None, "no commit was made"


def _make(mode: WriteMode, _: Path) -> MemoryHarness:
    return MemoryHarness(mode)


HARNESSES: dict[str, Factory] = {
    "memory-append": partial(_make, "append"),
    "memory-upsert": partial(_make, "upsert"),
}
