"""Readers of Delta tables that answer the same SQL about a view `t`, and those that read the change data feed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable, QueryBuilder

from stack import dist

Ask = Callable[[str], pa.Table]
"""Answers a query about the view `t`."""


def delta_rs(uri: str, options: dict[str, str] | None = None) -> Ask:
    """delta-rs with its DataFusion."""
    table = DeltaTable(uri, storage_options=options)
    return lambda query: pa.table(QueryBuilder().register("t", table).execute(query).read_all())


def polars(uri: str, options: dict[str, str] | None = None) -> Ask:
    """Polars' lazy scan."""
    context = pl.SQLContext(t=pl.scan_delta(uri, storage_options=options))
    return lambda query: context.execute(query).collect().to_arrow()


def duckdb(uri: str, secret: str = "") -> Ask:
    """DuckDB with its Delta extension, from the package beside it."""
    import duckdb
    import duckdb_extension_delta
    import duckdb_extension_httpfs

    connection = duckdb.connect()
    for package in (duckdb_extension_httpfs, duckdb_extension_delta):
        extension = next(Path(package.__file__).parent.rglob("*.duckdb_extension"))
        connection.execute(f"INSTALL '{extension}'; LOAD {extension.name.split('.')[0]}")
    connection.execute("SET TimeZone = 'UTC'")
    if secret:
        connection.execute(secret)
    connection.execute(f"CREATE VIEW t AS SELECT * FROM delta_scan('{uri}')")
    return lambda query: connection.execute(query).arrow().read_all()


def spark_session() -> Any:
    """Spark with Delta alone: with Iceberg's extension beside Delta's, Spark can't resolve an UPDATE of a Delta table
    (a MatchError in a rule of Iceberg 1.11). Two partitions for the log's state, instead of 50, as it is small here."""
    from pyspark.sql import SparkSession

    settings = {
        "spark.jars": ",".join(str(jar) for jar in sorted(dist.SPARK.prepare().glob("*.jar"))),
        "spark.driver.memory": "2g",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.databricks.delta.snapshotPartitions": "2",
        "spark.databricks.delta.retentionDurationCheck.enabled": "false",
    }
    builder = SparkSession.builder.master("local[2]").appName("lakeward")
    for key, value in settings.items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    return session


def spark(session: Any, uri: str) -> Ask:
    """Spark 3.5 with delta-spark."""

    def ask(query: str) -> pa.Table:
        session.read.format("delta").load(uri).createOrReplaceTempView("t")
        return _arrow(session.sql(query))

    return ask


def spark_feed(session: Any, uri: str, first: int, last: int) -> pa.Table:
    """Spark's change data feed of some versions."""
    reader = session.read.format("delta").option("readChangeFeed", "true")
    found = reader.option("startingVersion", first).option("endingVersion", last).load(uri)
    return _arrow(found.select("id", "version", "_change_type", "_commit_version"))


def delta_rs_feed(uri: str, first: int, last: int) -> pa.Table:
    """The change data feed of delta-rs."""
    table = pa.table(DeltaTable(uri).load_cdf(starting_version=first, ending_version=last).read_all())
    found = table.select(["id", "version", "_change_type", "_commit_version"])
    return found.set_column(3, "_commit_version", pc.cast(found["_commit_version"], pa.int64()))


def _arrow(frame: Any) -> pa.Table:
    """A small Spark result: through rows, as Spark's Arrow path wants pandas."""
    names = frame.columns
    rows = [tuple(row) for row in frame.collect()]
    return pa.table({name: [row[n] for row in rows] for n, name in enumerate(names)})
