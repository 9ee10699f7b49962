"""The Delta sink in the contract suite, on local disk, read back by DuckDB."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from contract_events import TOPIC, canonical
from contract_harness import Factory, target
from deltalake import DeltaTable, QueryBuilder

from config.evolution import SchemaEvolution
from config.pipeline import DeltaConfig
from sinks.base import Sink
from sinks.delta.sink import DeltaSink
from sinks.delta.vector_sink import VectorSink
from stack.readers import connect_duckdb
from tables.key_index import KeyIndex

Hook = Callable[[], None] | None


def read_delta(path: Path) -> list[dict[str, Any]]:
    """All rows of a Delta table by DuckDB, which shares no code with delta-rs' writer."""
    with connect_duckdb(delta=True) as connection:
        found: list[dict[str, Any]] = (
            connection.execute(f"SELECT * FROM delta_scan('{path}')").to_arrow_table().to_pylist()
        )
    return found


def read_by_delta_rs(path: Path) -> list[dict[str, Any]]:
    """All rows of a Delta table by delta-rs, which has no part in commits with vectors."""
    rows: pa.Table = pa.table(QueryBuilder().register("t", DeltaTable(path)).execute("SELECT * FROM t").read_all())
    return canonical(rows.to_pylist())


class Racy(DeltaSink):
    """A Delta sink whose commits can be raced or answered by silence."""

    harness: DeltaHarness

    def _commit(self, action: Callable[[], None]) -> bool:
        before, after = self.harness.hooks or (None, None)
        self.harness.hooks = None
        if before:
            before()
        landed = super()._commit(action)
        if after and landed:
            after()
        return landed


class RacyDeltaSink(Racy):
    """By delta-rs."""


class RacyVectorSink(Racy, VectorSink):
    """By deletion vectors, with the key index of a worker of its own, which ends with it."""

    folder: Path

    def close(self) -> None:
        super().close()
        if self.folder not in self.harness.free:
            self.harness.free.append(self.folder)


class DeltaHarness:
    """One Delta table in a local folder."""

    examples = 12
    widens = False

    def __init__(self, mode: Literal["append", "upsert"], folder: Path, **settings: Any) -> None:
        self.upsert = mode == "upsert"
        self.hooks: tuple[Hook, Hook] | None = None
        self.path = folder / "orders"
        self.folder = folder
        self.free: list[Path] = []
        self._numbers = count()
        self.config = DeltaConfig(table_uri=str(self.path), write_mode=mode, **settings)

    def new_sink(self, topics: tuple[str, ...] = (TOPIC,), policies: SchemaEvolution | None = None) -> Sink:
        sink: Racy
        config = self.config if policies is None else self.config.model_copy(update={"schema_evolution": policies})
        where = target(topics, str(self.path))
        if self.config.has_vectors:
            # that of a sink that was closed, as a restarted worker does
            folder = self.free.pop() if self.free else self.folder / f"index-{next(self._numbers)}"
            sink = RacyVectorSink(config, where, KeyIndex.shared(folder))
            sink.folder = folder
        else:
            sink = RacyDeltaSink(config, where)
        sink.harness = self
        return sink

    def rows(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        rows = canonical(read_delta(self.path))
        assert not self.config.has_vectors or read_by_delta_rs(self.path) == rows
        return rows

    def drop(self) -> None:
        shutil.rmtree(self.path)

    @contextmanager
    def around_next_commit(self, before: Hook = None, after: Hook = None) -> Iterator[None]:
        self.hooks = (before, after)
        yield
        assert self.hooks is None, "no commit was made"


def _make(mode: Literal["append", "upsert"], folder: Path) -> DeltaHarness:
    return DeltaHarness(mode, folder)


def vector_harness(folder: Path, **settings: Any) -> DeltaHarness:
    """A table that is upserted by deletion vectors."""
    return DeltaHarness("upsert", folder, upserts="deletion_vectors", **settings)


HARNESSES: dict[str, Factory] = {
    "delta-append": partial(_make, "append"),
    "delta-upsert": partial(_make, "upsert"),
    "delta-vectors-upsert": vector_harness,
}
