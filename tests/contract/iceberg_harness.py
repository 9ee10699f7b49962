"""The Iceberg sink in the contract suite: SQLite catalog and local disk, read back by DuckDB and by PyIceberg."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from contract_events import TOPIC, canonical
from contract_harness import Factory, target
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.table import Table

from config.evolution import SchemaEvolution
from config.pipeline import IcebergConfig
from sinks.base import Sink
from sinks.iceberg.sink import IcebergSink
from stack.readers import connect_duckdb
from tables.key_index import KeyIndex

Hook = Callable[[], None] | None
NAMESPACE, NAME = "lake", "orders"


def read_by_duckdb(table: Table) -> list[dict[str, Any]]:
    """All rows of an Iceberg table by DuckDB, which shares no code with the sink's writer."""
    if table.current_snapshot() is None:
        return []
    with connect_duckdb() as connection:
        found = connection.execute(f"SELECT * FROM iceberg_scan('{table.metadata_location}')").to_arrow_table()
    return canonical(found.to_pylist())


def read_by_pyiceberg(table: Table, snapshot_id: int | None = None) -> list[dict[str, Any]]:
    rows: pa.Table = table.scan(snapshot_id=snapshot_id).to_arrow()
    return canonical(rows.to_pylist())


class WorkerSink(IcebergSink):
    """A sink with the key index of a worker of its own, which ends with it."""

    def __init__(self, config: IcebergConfig, topics: tuple[str, ...], free: list[Path], fresh: Callable[[], Path]):
        self._free, self._folder = free, free.pop() if free else fresh()
        index = KeyIndex.shared(self._folder) if config.write_mode == "upsert" else None
        super().__init__(config, target(topics, f"{config.table_namespace}.{NAME}"), index)

    def close(self) -> None:
        super().close()
        if self._folder not in self._free:
            self._free.append(self._folder)


class IcebergHarness:
    """One Iceberg table. A new sink takes up the index folder of one that was closed, as a restarted worker does."""

    examples = 10
    widens = True

    def __init__(self, mode: Literal["append", "upsert"], folder: Path, **settings: Any) -> None:
        self.upsert = mode == "upsert"
        self.folder = folder
        self.free: list[Path] = []
        self._numbers = count()
        self.config = IcebergConfig(
            **{
                "catalog_uri": f"sqlite:///{folder}/catalog.db",
                "warehouse": f"file://{folder}/warehouse",
                "table_namespace": NAMESPACE,
                "write_mode": mode,
                **settings,
            }
        )

    def new_sink(self, topics: tuple[str, ...] = (TOPIC,), policies: SchemaEvolution | None = None) -> Sink:
        config = self.config if policies is None else self.config.model_copy(update={"schema_evolution": policies})
        return WorkerSink(config, topics, self.free, lambda: self.folder / f"index-{next(self._numbers)}")

    def catalog(self) -> Catalog:
        """The catalog, reached without the sink's code."""
        config = self.config
        properties = {"uri": config.catalog_uri, "warehouse": config.warehouse}
        return load_catalog(config.catalog_name, type="rest" if config.is_rest else "sql", **properties)

    def table(self) -> Table | None:
        try:
            return self.catalog().load_table((self.config.table_namespace, NAME))
        except NoSuchTableError:
            return None

    def rows(self) -> list[dict[str, Any]]:
        table = self.table()
        if table is None:
            return []
        rows = self.read_by_duckdb(table)
        assert read_by_pyiceberg(table) == rows
        return rows

    def read_by_duckdb(self, table: Table) -> list[dict[str, Any]]:
        """All rows by a reader that shares no code with the sink's writer."""
        return read_by_duckdb(table)

    def drop(self) -> None:
        self.catalog().drop_table((self.config.table_namespace, NAME))

    @contextmanager
    def around_next_commit(self, before: Hook = None, after: Hook = None) -> Iterator[None]:
        with around_next_catalog_commit(before, after):
            yield


@contextmanager
def around_next_catalog_commit(before: Hook = None, after: Hook = None) -> Iterator[None]:
    """While entered, the next change of a table in any catalog of this process has `before` and `after` around it."""
    waiting = [True]

    def racy(send: Callable[..., Any]) -> Callable[..., Any]:
        def around(*args: Any, **more: Any) -> Any:
            ours = waiting and waiting.pop()
            if ours and before:
                before()
            answer = send(*args, **more)
            if ours and after:
                after()
            return answer

        return around

    methods = [(kind, name) for kind in (SqlCatalog, RestCatalog) for name in ("commit_table", "create_table")]
    originals = [(kind, name, getattr(kind, name)) for kind, name in methods]
    for kind, name, send in originals:
        setattr(kind, name, racy(send))
    try:
        yield
    finally:
        for kind, name, send in originals:
            setattr(kind, name, send)
    assert not waiting, "no commit was made"


def _make(mode: Literal["append", "upsert"], folder: Path) -> IcebergHarness:
    return IcebergHarness(mode, folder)


HARNESSES: dict[str, Factory] = {
    "iceberg-append": partial(_make, "append"),
    "iceberg-upsert": partial(_make, "upsert"),
}
