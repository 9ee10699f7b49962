"""Readers and writers of the lake that share no code with ours: DuckDB and Spark, as tests and benchmarks use them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stack import dist


@dataclass(frozen=True)
class Store:
    """An S3-compatible object store: its URL, and the keys."""

    url: str
    user: str
    password: str
    region: str = "us-east-1"


def connect_duckdb(store: Store | None = None, *, delta: bool = False) -> Any:
    """A DuckDB connection with its Iceberg (or Delta) reader, from the packages beside it (no download)."""
    import duckdb
    import duckdb_extension_avro
    import duckdb_extension_delta
    import duckdb_extension_httpfs
    import duckdb_extension_iceberg

    connection = duckdb.connect()
    format_packages = (duckdb_extension_delta,) if delta else (duckdb_extension_avro, duckdb_extension_iceberg)
    for package in (duckdb_extension_httpfs, *format_packages):
        extension = next(Path(package.__file__).parent.rglob("*.duckdb_extension"))
        connection.execute(f"INSTALL '{extension}'; LOAD {extension.name.split('.')[0]}")
    connection.execute("SET TimeZone = 'UTC'")
    if store is not None:
        connection.execute(
            f"CREATE SECRET (TYPE s3, KEY_ID '{store.user}', SECRET '{store.password}',"
            f" ENDPOINT '{store.url.split('://')[1]}', REGION '{store.region}', URL_STYLE 'path', USE_SSL false)"
        )
    return connection


@dataclass(frozen=True)
class SparkCatalog:
    """An Iceberg catalog as Spark is told of it: REST, or PyIceberg's SQL catalog in an SQLite file."""

    name: str
    uri: str
    warehouse: str
    store: Store | None = None

    def settings(self) -> dict[str, str]:
        """Spark's configuration of it."""
        prefix = f"spark.sql.catalog.{self.name}"
        found = {prefix: "org.apache.iceberg.spark.SparkCatalog", f"{prefix}.warehouse": self.warehouse}
        if self.uri.startswith("sqlite:///"):
            found |= {
                f"{prefix}.catalog-impl": "org.apache.iceberg.jdbc.JdbcCatalog",
                f"{prefix}.uri": "jdbc:sqlite:" + self.uri.removeprefix("sqlite:///"),
                f"{prefix}.jdbc.schema-version": "V1",
            }
        else:
            found |= {f"{prefix}.type": "rest", f"{prefix}.uri": self.uri}
        # what other engines commit is seen at once
        found[f"{prefix}.cache-enabled"] = "false"
        if self.store is not None:
            found |= {
                f"{prefix}.io-impl": "org.apache.iceberg.aws.s3.S3FileIO",
                f"{prefix}.s3.endpoint": self.store.url,
                f"{prefix}.s3.path-style-access": "true",
                f"{prefix}.s3.access-key-id": self.store.user,
                f"{prefix}.s3.secret-access-key": self.store.password,
                f"{prefix}.client.region": self.store.region,
            }
        return found


SMALL_DATA = {
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.shuffle.partitions": "1",
    "spark.databricks.delta.snapshotPartitions": "1",
    "spark.sql.sources.parallelPartitionDiscovery.parallelism": "1",  # of 10,000 tasks of a vacuum
}
"""Spark settings for tables of a few rows: to compile a query takes five times as long as to run it then."""


def spark_session(
    catalogs: Iterable[SparkCatalog] = (), *, memory: str = "2g", more: Mapping[str, str] | None = None
) -> Any:
    """A Spark 3.5 session on two local cores, with Iceberg and Delta. Catalogs can be added to it: `add_catalog`.
    `more` settings win."""
    from pyspark.sql import SparkSession

    jars = ",".join(str(jar) for jar in sorted(dist.SPARK.prepare().glob("*.jar")))
    builder = SparkSession.builder.master("local[2]").appName("lakeward")
    settings = {
        "spark.jars": jars,
        "spark.driver.memory": memory,
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions,"
        "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.databricks.delta.snapshotPartitions": "2",  # of 50, as logs are small here
    }
    for catalog in catalogs:
        settings |= catalog.settings()
    for key, value in (settings | dict(more or {})).items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    return session


def add_catalog(session: Any, catalog: SparkCatalog) -> None:
    """Make a catalog known to a running session, under a name that it doesn't know yet."""
    for key, value in catalog.settings().items():
        session.conf.set(key, value)
