"""Schemas: Arrow columns to an Iceberg table, the table back to what `evolve` compares, and whether a table fits."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import pyarrow as pa
from pyiceberg.io.pyarrow import UnsupportedPyArrowTypeException, _pyarrow_to_schema_without_ids, schema_to_pyarrow
from pyiceberg.partitioning import PartitionField as IcebergField
from pyiceberg.partitioning import PartitionSpec
from pyiceberg.schema import Schema, assign_fresh_schema_ids
from pyiceberg.table import Table
from pyiceberg.transforms import parse_transform
from pyiceberg.types import IcebergType, NestedField

from config.errors import ConfigurationError, UnsupportedChange
from config.pipeline import IcebergConfig
from sources.changes import CDC_FIELDS, CDC_NAMES, CDC_UNCHANGED

FORMAT_VERSION: Final = 2

TABLE_PROPERTIES = {
    "format-version": str(FORMAT_VERSION),
    "write.parquet.compression-codec": "zstd",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
    # other writers of this table shouldn't make Lakeward's commits conflict with themselves
    "commit.retry.num-retries": "0",
}


@lru_cache(maxsize=256)
def iceberg_type(kind: pa.DataType) -> IcebergType:
    """The Iceberg type of an Arrow type. Raises UnsupportedChange for one that has none."""
    try:
        return (
            _pyarrow_to_schema_without_ids(pa.schema([pa.field("c", kind)]), format_version=FORMAT_VERSION)
            .fields[0]
            .field_type
        )
    except (TypeError, ValueError, KeyError, UnsupportedPyArrowTypeException) as error:
        raise UnsupportedChange(f"Iceberg v{FORMAT_VERSION} has no type for {kind}: {error}") from error


@lru_cache(maxsize=256)
def stored_type(kind: pa.DataType) -> pa.DataType:
    """The Arrow type as which PyIceberg reads back what was written at type `kind`."""
    return arrow_type(iceberg_type(kind))


def arrow_type(kind: IcebergType) -> pa.DataType:
    """The Arrow type as which PyIceberg reads an Iceberg type."""
    field = NestedField(1, "c", kind, required=False)
    return schema_to_pyarrow(Schema(field), include_field_ids=False).field(0).type


def source_columns(table: Table) -> pa.Schema:
    """The table's columns as `evolve` looks at them, without the `CDC_FIELDS`."""
    columns = schema_to_pyarrow(table.schema(), include_field_ids=False)
    return pa.schema([field for field in columns if field.name == CDC_UNCHANGED or field.name not in CDC_NAMES])


def new_schema(columns: pa.Schema, key: tuple[str, ...]) -> Schema:
    """The schema of a table to be created: source columns, then `CDC_FIELDS`; `key` columns required, others not.

    In upsert mode the key becomes the identifier fields.
    """
    fields = [field.with_nullable(field.name not in key) for field in columns]
    cdc = [field.with_nullable(True) for field in CDC_FIELDS]
    try:
        plain = _pyarrow_to_schema_without_ids(pa.schema([*fields, *cdc]), format_version=FORMAT_VERSION)
        schema = assign_fresh_schema_ids(plain)
        identifiers = [schema.find_field(name).field_id for name in key]
        return Schema(*schema.fields, schema_id=0, identifier_field_ids=identifiers)
    except (TypeError, ValueError, KeyError, UnsupportedPyArrowTypeException) as error:
        raise UnsupportedChange(f"Iceberg v{FORMAT_VERSION} can't store these columns: {error}") from error


def new_spec(config: IcebergConfig, schema: Schema, table: str) -> PartitionSpec:
    """The partition spec that `partition_by` asks for. Raises ConfigurationError for a column that isn't there."""
    columns = [wanted.column for wanted in config.partition_fields]
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:  # allowed by Iceberg, refused by PyIceberg's PartitionKey once rows are written
        raise ConfigurationError(
            f"table {table}: partition_by names {', '.join(twice)} more than once, which can't be written: choose one"
            " transform per column (hour(c) also serves queries by day, month and year)"
        )
    fields = []
    for number, wanted in enumerate(config.partition_fields):
        if wanted.column not in schema.column_names:
            raise ConfigurationError(
                f"table {table}: partition_by names {wanted.column}, which isn't a column;"
                f" there are {', '.join(name for name in schema.column_names if name not in CDC_NAMES)}"
            )
        argument = "" if wanted.argument is None else f"[{wanted.argument}]"
        name = wanted.column if wanted.transform == "identity" else f"{wanted.column}_{wanted.transform}"
        transform = parse_transform(f"{wanted.transform}{argument}")
        source = schema.find_field(wanted.column)
        if not transform.can_transform(source.field_type):
            raise ConfigurationError(f"table {table}: partition_by {wanted}: not possible on {source.field_type}")
        fields.append(IcebergField(source.field_id, 1000 + number, transform, name))
    return PartitionSpec(*fields)


def check_fits(config: IcebergConfig, table: Table, name: str) -> None:
    """Refuse an existing table that Lakeward can't write as configured, naming what doesn't fit."""
    problems = []
    if table.metadata.format_version != FORMAT_VERSION:
        problems.append(f"its format version is {table.metadata.format_version}, not {FORMAT_VERSION}")
    schema = table.schema()
    for field in CDC_FIELDS:
        if field.name not in schema.column_names:
            problems.append(f"column {field.name} ({field.type}) is missing")
        elif arrow_type(schema.find_field(field.name).field_type) != stored_type(field.type):
            found = schema.find_field(field.name).field_type
            problems.append(f"column {field.name} is {found}, not {iceberg_type(field.type)}")
    identifiers = schema.identifier_field_names()
    had_rows = any(name not in CDC_NAMES for name in schema.column_names)
    if config.write_mode == "upsert" and not identifiers and had_rows:
        problems.append("it has no identifier fields, which an upsert table needs (was it written in append mode?)")
    if config.write_mode == "append" and identifiers:
        problems.append(f"it has identifier fields ({', '.join(sorted(identifiers))}): an upsert table")
    wanted = _spec_text(new_spec(config, schema, name), schema)
    found_spec = _spec_text(table.spec(), schema)
    if wanted != found_spec:
        problems.append(f"it is partitioned by {found_spec or 'nothing'}, not by {wanted or 'nothing'}")
    if problems:
        raise ConfigurationError(
            f"the existing table {name} doesn't fit: {'; '.join(problems)}."
            " Name another table in the pipeline file, or rename the existing one and let Lakeward create it"
        )


def _spec_text(spec: PartitionSpec, schema: Schema) -> str:
    return ", ".join(f"{field.transform}({schema.find_column_name(field.source_id)})" for field in spec.fields)
