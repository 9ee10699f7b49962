"""A table's schema as the next commit needs it: what the batch asks for, and the metadata that leads there."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
from pyiceberg.exceptions import ResolveError
from pyiceberg.schema import promote
from pyiceberg.table import Table, Transaction
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.update import TableRequirement, TableUpdate

from config.evolution import SchemaEvolution
from sinks.base import Batch, Target
from sinks.evolution import Evolution, evolve
from sinks.iceberg.schema import iceberg_type, source_columns, stored_type
from sinks.iceberg.state import SinkState
from sinks.schema_changes import Before, Format


@dataclass(frozen=True)
class Evolved:
    """A table as the next commit will find it: the metadata that files are written for, and what leads there."""

    metadata: TableMetadata
    updates: tuple[TableUpdate, ...] = ()
    requirements: tuple[TableRequirement, ...] = ()


def plan(
    table: Table, state: SinkState, batch: Batch, target: Target, policies: SchemaEvolution, *, keyed: bool
) -> Evolution:
    """What `batch` asks of the table; `keyed`: it is written by key. Raises as `evolve` does."""
    before = Before(
        target.name,
        source_columns(table),
        state.schema_ids,
        shared=len(target.topics) > 1,
        log=not keyed,
        key=tuple(sorted(table.schema().identifier_field_names())) if keyed else (),
        partitions={**state.partition_counts, **batch.partition_counts},
    )
    return evolve(before, batch.changes, policies, Format(stored_type, widens))


def widens(was: pa.DataType, now: pa.DataType) -> bool:
    """Whether Iceberg widens a column so in place (Iceberg spec, "Schema Evolution": int to long, float to double, more
    digits before a decimal's point)."""
    try:
        return bool(promote(iceberg_type(was), iceberg_type(now)) == iceberg_type(now))
    except ResolveError:
        return False


def evolved(table: Table, plan: Evolution, key: tuple[str, ...]) -> Evolved:
    """The table with the plan's columns added, widened or made optional.

    `key` columns among the added ones become the identifier fields: an upsert table that has had no rows yet gets its
    key so.
    """
    if not (plan.add or plan.widen or plan.relax):
        return Evolved(table.metadata)
    transaction = Transaction(table)
    first = bool(key) and {field.name for field in plan.add}.issuperset(key)
    with transaction.update_schema(allow_incompatible_changes=first) as update:
        for field in plan.widen:
            update.update_column((field.name,), field_type=iceberg_type(field.type))
        for name in plan.relax:
            update.make_column_optional((name,))
        for field in plan.add:
            update.add_column((field.name,), iceberg_type(field.type), required=first and field.name in key)
        if first:
            update.set_identifier_fields(*key)
    return Evolved(transaction.table_metadata, transaction._updates, transaction._requirements)
