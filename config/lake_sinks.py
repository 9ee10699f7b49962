"""The sections of `pipeline.yaml` for sinks that keep tables in a lake: `iceberg` and `delta`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator

from config.evolution import SchemaEvolution
from config.model import HttpUrl, Model, StringMap
from config.partitioning import PartitionField, parse_partition_field, parse_partition_fields
from config.templates import check_template, resolve_template

WriteMode = Literal["append", "upsert"]
Upserts = Literal["merge", "deletion_vectors"]
Template = Annotated[str, Field(min_length=1), AfterValidator(check_template)]

PartitionText = Annotated[str, AfterValidator(lambda text: str(parse_partition_field(text)))]

_CATALOG_URI = re.compile(r"^(sqlite:///.+|postgresql(\+psycopg2?)?://.+|https?://.+)")
_SCHEME = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.-]*)://")


def _column(text: str) -> str:
    if parse_partition_field(text).transform != "identity":
        raise ValueError("Delta tables are partitioned by columns, not by transforms of them")
    return text.strip()


PartitionColumn = Annotated[str, AfterValidator(_column)]


def _location(value: str) -> str:
    """A place for tables: `file:///…` or `s3://…`; a bare path becomes the former, from the working directory."""
    scheme = _SCHEME.match(value)
    if scheme is None:
        return f"file://{Path(value).absolute()}"
    if scheme[1] not in ("file", "s3", "s3a"):
        raise ValueError(f"scheme {scheme[1]}:// is unknown; allowed: file://, s3:// or a path")
    if scheme[1] == "file" and not value.startswith("file:///"):
        raise ValueError("file:// needs a full path (file:///…); for one from the working directory leave file:// out")
    return value


class IcebergMaintenanceConfig(Model):
    """`iceberg.maintenance`: the history that users see, and compaction of the whole table."""

    enabled: bool = False
    """Run maintenance in the worker."""
    expire_snapshots_interval_seconds: float = Field(default=3600, gt=0)
    """How often old snapshots are expired."""
    expire_snapshots_older_than_seconds: float = Field(default=86400, ge=0)
    """Age from which a snapshot is expired; until then time travel reaches it."""
    compaction_interval_seconds: float = Field(default=7200, gt=0)
    """How often the whole table is looked at for compaction."""
    compaction_file_threshold: int = Field(default=10, ge=2)
    """Small files in a table partition from which they are rewritten."""
    compaction_max_rows_per_batch: int = Field(default=500_000, ge=1)
    """Rows that one rewrite holds in memory at most; one of more than 256 bytes there counts as several."""


class DeltaMaintenanceConfig(Model):
    """`delta.maintenance`: more than the compaction of small files that is a part of writing."""

    enabled: bool = False
    """Run maintenance in the worker."""
    optimize_interval_seconds: float = Field(default=7200, gt=0)
    """How often the small files are compacted that are too few to be compacted as part of writing."""
    vacuum_interval_seconds: float = Field(default=86400, gt=0)
    """How often unneeded files are removed."""
    vacuum_older_than_seconds: float = Field(default=604800, ge=3600)
    """Age from which an unneeded file is removed, in whole hours (rounded up); until then time travel reaches it."""


class IcebergConfig(Model):
    """`iceberg`: tables in an Iceberg catalog."""

    catalog_name: str = Field(default="default", min_length=1)
    """The catalog's name (SQL catalogs keep several under one address)."""
    catalog_uri: str = Field(repr=False)
    """`sqlite:///…`, `postgresql://…`, or `http(s)://…` for a REST catalog."""
    warehouse: str
    """Where tables live: `file:///…`, a path, or `s3://…`; with a REST catalog also the warehouse's name."""
    table_namespace: str = Field(default="default", min_length=1)
    """Namespace of the tables."""
    table_name: Template = "{schema}_{table}"
    """Name of the tables; `{prefix}`, `{schema}`, `{table}` are replaced. Without them all go into one (append)."""
    write_mode: WriteMode = "append"
    """`append`: the log of all changes; `upsert`: the table as it is at the source."""
    batch_size: int = Field(default=1000, ge=1)
    """Rows from which on a commit is due: a threshold, not a cap."""
    flush_interval_seconds: float = Field(default=5.0, gt=0)
    """Age of the oldest waiting row at which a commit is due."""
    auto_create_table: bool = True
    """Create missing tables (and their namespace)."""
    partition_by: tuple[PartitionText, ...] = ()
    """Columns or transforms: `day(ts)`, `month(ts)`, `year(ts)`, `hour(ts)`, `bucket(16, id)`, `truncate(4, name)`."""
    schema_evolution: SchemaEvolution = SchemaEvolution()
    """What becomes of the table when its source's schema changes: a word for all kinds of change, or one for each."""
    s3_endpoint: HttpUrl | None = None
    """Address of an S3-compatible store; unset: Amazon's."""
    s3_access_key_id: str | None = Field(default=None, repr=False)
    """Access key; unset: what the environment of AWS tools says."""
    s3_secret_access_key: SecretStr | None = None
    """Secret of the access key."""
    s3_region: str = "us-east-1"
    """Region of the store."""
    catalog_properties: StringMap = Field(default={}, repr=False)
    """Further properties of the catalog, as PyIceberg names them (`token`, `credential`, …)."""
    table_properties: StringMap = Field(default={})
    """Properties of tables that are created, such as `write.parquet.compression-codec`."""
    maintenance: IcebergMaintenanceConfig = IcebergMaintenanceConfig()
    """Expiry and compaction."""

    @property
    def is_rest(self) -> bool:
        """Whether the catalog is a REST service (otherwise a SQL database)."""
        return self.catalog_uri.startswith(("http://", "https://"))

    @property
    def partition_fields(self) -> tuple[PartitionField, ...]:
        """`partition_by`, read."""
        return parse_partition_fields(self.partition_by)

    def target_name(self, schema: str, table: str, prefix: str) -> str:
        """`namespace.table` of a source table."""
        name = resolve_template(self.table_name, prefix=prefix, schema=schema, table=table)
        return f"{self.table_namespace}.{name}"

    @field_validator("catalog_uri")
    @classmethod
    def _known_catalog(cls, uri: str) -> str:
        if not _CATALOG_URI.match(uri):
            raise ValueError("allowed: sqlite:///…, postgresql://…, or http(s)://… for a REST catalog")
        return uri

    @field_validator("partition_by")
    @classmethod
    def _no_repeats(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        parse_partition_fields(texts)
        return texts

    @field_validator("table_name")
    @classmethod
    def _one_level(cls, name: str) -> str:
        if "." in name:
            raise ValueError("a table name has no dot; the part before it belongs into table_namespace")
        return name

    @field_validator("warehouse")
    @classmethod
    def _place(cls, warehouse: str, info: ValidationInfo) -> str:
        """For a REST catalog a bare word is a warehouse's name, for the others a path."""
        is_rest = info.data.get("catalog_uri", "").startswith("http")
        return warehouse if is_rest and not _SCHEME.match(warehouse) else _location(warehouse)


class DeltaConfig(Model):
    """`delta`: Delta Lake tables."""

    table_uri: Annotated[Template, AfterValidator(_location)]
    """Where a table lives: `file:///…`, a path, or `s3://…`, with `{prefix}`, `{schema}`, `{table}` replaced."""
    write_mode: WriteMode = "append"
    """`append`: the log of all changes; `upsert`: the table as it is at the source."""
    upserts: Upserts = "merge"
    """How `upsert` replaces rows: `merge` rewrites their files; `deletion_vectors` marks them as gone, for
    readers that know vectors."""
    batch_size: int = Field(default=1000, ge=1)
    """Rows from which on a commit is due: a threshold, not a cap."""
    flush_interval_seconds: float = Field(default=5.0, gt=0)
    """Age of the oldest waiting row at which a commit is due."""
    auto_create_table: bool = True
    """Create missing tables."""
    change_data_feed: bool = True
    """Record row-level changes, for readers of the change data feed."""
    partition_by: tuple[PartitionColumn, ...] = ()
    """Columns (Delta has no transforms). Records with the empty text in one go to the dead letters: Delta's readers
    take it for null."""
    schema_evolution: SchemaEvolution = SchemaEvolution()
    """What becomes of the table when its source's schema changes: a word for all kinds of change, or one for each."""
    table_properties: StringMap = Field(default={})
    """Properties of tables that are created, such as `delta.logRetentionDuration` (Lakeward's default: a day)."""
    storage_options: StringMap = Field(default={}, repr=False)
    """Access to the store, as delta-rs names it (`AWS_ENDPOINT_URL`, `aws_conditional_put: etag`, …)."""
    maintenance: DeltaMaintenanceConfig = DeltaMaintenanceConfig()
    """Compaction and vacuum."""

    @property
    def has_vectors(self) -> bool:
        """Whether rows are replaced by deletion vectors."""
        return self.upserts == "deletion_vectors"

    @property
    def partition_fields(self) -> tuple[PartitionField, ...]:
        """`partition_by`, read: identity fields only."""
        return parse_partition_fields(self.partition_by)

    def target_name(self, schema: str, table: str, prefix: str) -> str:
        """The URI of the table of a source table."""
        return resolve_template(self.table_uri, prefix=prefix, schema=schema, table=table).rstrip("/")

    @field_validator("upserts")
    @classmethod
    def _for_upserts(cls, upserts: Upserts, info: ValidationInfo) -> Upserts:
        if upserts != "merge" and info.data.get("write_mode") == "append":
            raise ValueError("an append table has no upserts; set write_mode: upsert, or leave this out")
        return upserts

    @field_validator("partition_by")
    @classmethod
    def _no_repeats(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        parse_partition_fields(texts)
        return texts
