"""What the pipeline makes of each column of the source, so that both sides of a comparison are in one representation.

The connector's modes decide what a column becomes on Kafka, `source.columns` what becomes of values that no lake type
holds, as for `cdc deploy` and the worker; `verify.postgres_types` and `verify.mariadb_types` ask the database for the
same representation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import pyarrow as pa

from config.columns import ColumnConfig
from config.errors import UnsupportedChange
from config.pipeline import PipelineConfig
from config.platform import PlatformConfig
from sources.debezium.column_checks import captured_columns
from sources.debezium.connect_types import ConnectType
from sources.debezium.connectors import connector_for
from sources.debezium.policies import DEFAULT, column_type
from sources.debezium.schemaless import wire_type
from sources.debezium.source_database import not_logged, source_database
from sources.debezium.source_types import CONNECT, TIME, Modes, SourceColumn
from verify.lake_types import holds
from verify.texts import Read


@dataclass(frozen=True)
class Column:
    """A column of the source, as a connector with these modes captures it. `wire`: its type on Kafka; `stored`: the
    Arrow type that the decoder gives it. Of a column that isn't sent or can't be stored they are None, and `why` says
    the reason."""

    source: SourceColumn
    modes: Modes
    rule: ColumnConfig = DEFAULT
    wire: ConnectType | None = None
    stored: pa.DataType | None = None
    why: str = ""

    @property
    def name(self) -> str:
        """Its name, on both sides."""
        return self.source.name

    @property
    def temporal(self) -> bool:
        """Whether it has dates, times or durations."""
        return self.wire is not None and (self.wire.name or "").startswith((TIME, f"{CONNECT}Date", f"{CONNECT}Time"))

    def fits(self, kind: pa.DataType) -> bool:
        """Whether a sink's table has the column as the decoder and the sink make it now."""
        return self.stored is not None and holds(kind, self.stored)


@dataclass(frozen=True)
class Reading:
    """How a column is asked for (`sql`, an expression whose type is text), and what reads the answer. `alike` brings
    values of both sides into one way of writing, where the connector writes the same value in several ways."""

    sql: str
    read: Read
    alike: Callable[[pa.Array], pa.Array] | None = None


async def source_columns(pipeline: PipelineConfig, platform: PlatformConfig) -> dict[str, tuple[Column, ...]]:
    """The columns of the pipeline's tables (`schema.table`) that exist, from the source's catalogue of now.

    Raises Unavailable when the source doesn't answer.
    """
    catalogue = await source_database(pipeline).columns()
    config = connector_for(pipeline, platform, not_logged(catalogue)).to_connector_config()
    captured = {table: {c.name for c in found} for table, found in captured_columns(catalogue, config).items()}
    modes = Modes.of(config)
    return {
        table: tuple(_columns(pipeline, table, columns, captured[table], modes)) for table, columns in catalogue.items()
    }


def _columns(
    pipeline: PipelineConfig, table: str, columns: Iterable[SourceColumn], captured: set[str], modes: Modes
) -> Iterable[Column]:
    rules = pipeline.source.columns.get(table, {})
    for column in columns:
        if column.name not in captured:
            yield Column(column, modes, why="the connector leaves it out")
        else:
            yield column_in(column, rules.get(column.name, DEFAULT), pipeline.source.source_type, modes)


def column_in(column: SourceColumn, rule: ColumnConfig, source_type: str, modes: Modes) -> Column:
    """A column that a connector of a kind of source with these modes captures."""
    wire = wire_type(source_type, column.type, modes)
    if wire.type is None:
        return Column(column, modes, rule, why=wire.loss)
    sent = replace(wire.type, optional=column.nullable and not column.key)
    try:
        stored = column_type(sent, rule, f"column {column.name}", zero_dates=False, key=column.key).arrow
    except UnsupportedChange as error:
        return Column(column, modes, rule, why=str(error))
    return Column(column, modes, rule, sent, stored)
