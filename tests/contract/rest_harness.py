"""The Iceberg sink over a REST catalog with its warehouse in an S3 store, as tests use it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from contract_events import canonical
from iceberg_harness import IcebergHarness
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.table import Table

from stack.manager import Endpoint
from stack.places import in_catalog
from stack.readers import Store, connect_duckdb


class RestHarness(IcebergHarness):
    """A table in a namespace of its own of the one REST catalog."""

    def __init__(
        self, mode: Literal["append", "upsert"], folder: Path, catalog: Endpoint, store: Endpoint, **settings: Any
    ) -> None:
        self.store = store
        namespace = f"contract_{uuid4().hex[:10]}"
        super().__init__(
            mode,
            folder,
            table_namespace=namespace,
            **in_catalog(catalog, store),
            **settings,
        )

    def catalog(self) -> Catalog:
        store, config = self.store, self.config
        return load_catalog(
            config.catalog_name,
            **{
                "type": "rest",
                "uri": config.catalog_uri,
                "warehouse": config.warehouse,
                "s3.endpoint": store.url,
                "s3.access-key-id": str(store.user),
                "s3.secret-access-key": str(store.password),
                "s3.region": store.more["region"],
                "py-io-impl": "pyiceberg.io.pyarrow.PyArrowFileIO",
            },
        )

    def keys(self) -> Store:
        """The store as readers are told of it."""
        return Store(self.store.url, str(self.store.user), str(self.store.password), self.store.more["region"])

    def read_by_duckdb(self, table: Table) -> list[dict[str, Any]]:
        if table.current_snapshot() is None:
            return []
        with connect_duckdb(self.keys()) as connection:
            found = connection.execute(f"SELECT * FROM iceberg_scan('{table.metadata_location}')").to_arrow_table()
        return canonical(found.to_pylist())
