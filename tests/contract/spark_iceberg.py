"""Iceberg tables of the REST catalog as Spark knows them, and what tests of them share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from iceberg_harness import NAME, IcebergHarness
from iceberg_upkeep import present
from pyiceberg.table import Table
from rest_harness import RestHarness
from spark_history import Commit, Row, SparkTable, Version, rows_after, write

from stack.manager import Endpoint
from stack.readers import SparkCatalog, Store, add_catalog

Mode = Literal["append", "upsert"]
LAYOUTS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "identity": ("region",),
    "bucket": ("bucket(4, id)",),
    "day": ("day(at)",),
}
CASES = [(mode, layout) for mode in ("append", "upsert") for layout in LAYOUTS]
CASE_IDS = [f"{mode}-{layout}" for mode, layout in CASES]


@dataclass(frozen=True)
class IcebergLake:
    """One table: as our sink writes it, and as Spark knows it."""

    harness: IcebergHarness
    spark: SparkTable

    @property
    def table(self) -> Table:
        return present(self.harness)

    def ids(self) -> list[int]:
        """All snapshots so far, the oldest first."""
        table = self.harness.table()
        return [snapshot.snapshot_id for snapshot in table.snapshots()] if table else []

    def write(self, made: list[Commit], before: list[Commit] | None = None) -> list[Version]:
        return write(self.harness, made, self.ids, before or [])

    def agree(self, made: list[Commit]) -> None:
        self.agree_on(rows_after(self.harness.upsert, made))

    def agree_on(self, want: list[Row]) -> None:
        """Spark, DuckDB and PyIceberg read these rows."""
        assert self.spark.rows() == want
        assert self.harness.rows() == want  # by DuckDB, which has to agree with PyIceberg


def rest_lake(
    spark: Any, folder: Path, catalog: Endpoint, store: Endpoint, mode: Mode, layout: str = "plain", **settings: Any
) -> IcebergLake:
    """A table in the object store, in a namespace of its own."""
    harness = RestHarness(mode, folder, catalog, store, partition_by=LAYOUTS[layout], **settings)
    return IcebergLake(harness, SparkTable(spark, known(spark, harness)))


def disk_lake(spark: Any, folder: Path, mode: Mode, layout: str = "plain", **settings: Any) -> IcebergLake:
    """A table on disk, with an SQLite catalog."""
    name = f"c{uuid4().hex[:8]}"
    harness = IcebergHarness(mode, folder, catalog_name=name, partition_by=LAYOUTS[layout], **settings)
    return IcebergLake(harness, SparkTable(spark, known(spark, harness)))


def known(session: Any, harness: IcebergHarness) -> str:
    """The name by which a session knows a table from now on; its catalog, too, has a name of its own."""
    config = harness.config
    name = f"c{uuid4().hex[:8]}" if config.is_rest else config.catalog_name
    store: Store | None = harness.keys() if isinstance(harness, RestHarness) else None
    add_catalog(session, SparkCatalog(name, config.catalog_uri, config.warehouse, store))
    return f"{name}.{config.table_namespace}.{NAME}"
