"""The Delta sink in the contract suite, on local disk, read back by DuckDB."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import duckdb
import duckdb_extension_delta
from contract_events import TOPIC, canonical
from contract_harness import Factory, target

from config.pipeline import DeltaConfig
from sinks.base import Sink
from sinks.delta.sink import DeltaSink

Hook = Callable[[], None] | None


def read_delta(path: Path) -> list[dict[str, Any]]:
    """All rows of a Delta table by DuckDB, which shares no code with delta-rs' writer."""
    extension = next(Path(duckdb_extension_delta.__file__).parent.rglob("*.duckdb_extension"))
    with duckdb.connect() as connection:
        connection.execute(f"INSTALL '{extension}'; LOAD delta; SET TimeZone = 'UTC'")
        return connection.execute(f"SELECT * FROM delta_scan('{path}')").to_arrow_table().to_pylist()


class RacyDeltaSink(DeltaSink):
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


class DeltaHarness:
    """One Delta table in a local folder."""

    examples = 12

    def __init__(self, mode: Literal["append", "upsert"], folder: Path, **settings: Any) -> None:
        self.upsert = mode == "upsert"
        self.hooks: tuple[Hook, Hook] | None = None
        self.path = folder / "orders"
        self.config = DeltaConfig(table_uri=str(self.path), write_mode=mode, **settings)

    def new_sink(self, topics: tuple[str, ...] = (TOPIC,)) -> Sink:
        sink = RacyDeltaSink(self.config, target(topics, str(self.path)))
        sink.harness = self
        return sink

    def rows(self) -> list[dict[str, Any]]:
        return canonical(read_delta(self.path)) if self.path.exists() else []

    def drop(self) -> None:
        shutil.rmtree(self.path)

    @contextmanager
    def around_next_commit(self, before: Hook = None, after: Hook = None) -> Iterator[None]:
        self.hooks = (before, after)
        yield
        assert self.hooks is None, "no commit was made"


def _make(mode: Literal["append", "upsert"], folder: Path) -> DeltaHarness:
    return DeltaHarness(mode, folder)


HARNESSES: dict[str, Factory] = {
    "delta-append": partial(_make, "append"),
    "delta-upsert": partial(_make, "upsert"),
}
