"""Making an upsert or append table: columns, key, partition spec and properties, from the first batch."""

from __future__ import annotations

import pyarrow as pa
import structlog
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import TableAlreadyExistsError

from config.errors import ConfigurationError, UnsupportedChange
from config.pipeline import IcebergConfig
from sinks.base import Batch, Target
from sinks.evolution import JSON_SEEN
from sinks.iceberg.catalog import create_namespace
from sinks.iceberg.schema import TABLE_PROPERTIES, new_schema, new_spec
from sinks.iceberg.state import new_table_entries
from sources.changes import TableSchema

log = structlog.get_logger("lakeward.iceberg")


def create_table(catalog: Catalog, config: IcebergConfig, target: Target, batch: Batch, *, keyed: bool) -> None:
    """Create the target's table for what `batch` brings, unless another worker is faster; `keyed` tables have its key.

    Raises ConfigurationError if tables aren't to be created, UnsupportedChange if there is no key where one is needed.
    """
    name = target.name
    if not config.auto_create_table:
        raise ConfigurationError(f"table {name} doesn't exist and auto_create_table is false")
    changes = batch.keyed if keyed else batch.changes
    first = changes[0].schema if changes else TableSchema(pa.schema([]), (), None)
    if keyed and changes and not first.key:
        raise UnsupportedChange(
            f"topic {changes[0].topic}: upsert needs a primary key, which the source table hasn't;"
            " give it one, or use write_mode: append"
        )
    schema = new_schema(first.columns, first.key if keyed else ())
    spec = new_spec(config, schema, name)
    identifier = tuple(name.rsplit(".", 1))
    create_namespace(catalog, identifier[0])
    try:
        properties = {**TABLE_PROPERTIES, **config.table_properties}
        if changes:  # a worker with an older schema, which comes between this and the first commit, lags behind
            properties |= new_table_entries(target, {changes[0].topic: first.id or JSON_SEEN})
        catalog.create_table(identifier, schema, partition_spec=spec, properties=properties)
        log.info("iceberg.table_created", table=name, columns=schema.column_names)
    except TableAlreadyExistsError:
        pass  # another worker was faster
