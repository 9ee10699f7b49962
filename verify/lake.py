"""Reading a sink's table as its readers do: PyIceberg's scan, delta-rs' query engine."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import QueryBuilder
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError

from config.errors import ConfigurationError
from config.pipeline import DeltaConfig, IcebergConfig
from sinks.delta.storage import load, storage_options
from sinks.factory import TablePlan
from sinks.iceberg.catalog import connect
from sources.changes import CDC_TOPIC


def read_sink_table(plan: TablePlan, topic: str) -> pa.Table | None:
    """The rows of one topic in a sink's table, `CDC_FIELDS` included; None if there is no table yet."""
    table = _iceberg(plan) if isinstance(plan.settings, IcebergConfig) else _delta(plan)
    if table is None or len(plan.target.topics) == 1:
        return table
    return table.filter(pc.equal(table.column(CDC_TOPIC), topic))


def _iceberg(plan: TablePlan) -> pa.Table | None:
    assert isinstance(plan.settings, IcebergConfig)
    try:
        table = connect(plan.settings).load_table(plan.target.name)
    except (NoSuchTableError, NoSuchNamespaceError):
        return None
    return table.scan().to_arrow()


def _delta(plan: TablePlan) -> pa.Table | None:
    if not isinstance(plan.settings, DeltaConfig):
        raise ConfigurationError(f"sink {plan.target.sink_id}: `cdc verify` can't read this kind of sink yet")
    options = storage_options(plan.target.name, plan.settings.storage_options)
    table = load(plan.target.name, options)
    if table is None:
        return None
    rows = pa.table(QueryBuilder().register("t", table).execute("SELECT * FROM t").read_all())
    # delta-rs returns views, which Arrow's kernels don't take yet
    return rows.cast(pa.schema([field.with_type(_plain(field.type)) for field in rows.schema]))


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_plain(kind.value_type)))
    return {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}.get(kind, kind)
