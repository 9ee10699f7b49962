"""Full scans of an Iceberg table by readers that users have, each in a process of its own: seconds, CPU, peak memory.

`python -m benchmarks.readers NAME SPEC` reads the table that the JSON names and prints what it found as JSON. The best
of three scans counts: the first warms caches and, in Spark, the compiler.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from pyiceberg.table import Table

from benchmarks.measure import Watch
from config.pipeline import IcebergConfig
from stack.readers import SparkCatalog, Store, connect_duckdb, spark_session

SCANS = 3
Sums = tuple[int, int, int]


@dataclass(frozen=True)
class Scan:
    """What a scan cost (seconds, CPU seconds, peak MB of the process), and rows, sum of ids and sum of versions."""

    seconds: float
    cpu_s: float
    peak_rss_mb: float
    rows: int
    ids: int
    versions: int


def read_in_process(reader: str, table: Table, config: IcebergConfig) -> Scan:
    """Scan a table with one of `READERS`."""
    secret = config.s3_secret_access_key
    spec = {
        "identifier": list(table.name()),
        "metadata": table.metadata_location,
        "catalog": config.catalog_name,
        "uri": config.catalog_uri,
        "warehouse": config.warehouse,
        "rest": config.is_rest,
        "endpoint": config.s3_endpoint,
        "user": config.s3_access_key_id,
        "password": secret.get_secret_value() if secret else None,
    }
    command = [sys.executable, "-m", "benchmarks.readers", reader, json.dumps(spec)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1_800)
    if done.returncode:
        raise RuntimeError(f"{reader} failed:\n{done.stderr[-3000:]}")
    return Scan(**json.loads(done.stdout.splitlines()[-1]))


def pyiceberg(spec: dict[str, Any]) -> Callable[[], Sums]:
    """PyIceberg, into one Arrow table."""
    from pyiceberg.catalog import load_catalog

    properties = {"uri": spec["uri"], "warehouse": spec["warehouse"]}
    if spec["endpoint"]:
        properties |= {
            "s3.endpoint": spec["endpoint"],
            "s3.access-key-id": spec["user"],
            "s3.secret-access-key": spec["password"],
            "s3.region": "us-east-1",
        }
    catalog = load_catalog(spec["catalog"], type="rest" if spec["rest"] else "sql", **properties)

    def scan() -> Sums:
        import pyarrow.compute as pc

        rows = catalog.load_table(tuple(spec["identifier"])).scan().to_arrow()
        return rows.num_rows, pc.sum(rows["id"]).as_py(), pc.sum(rows["version"]).as_py()

    return scan


def duckdb(spec: dict[str, Any]) -> Callable[[], Sums]:
    """DuckDB with its Iceberg extension, every column read."""
    connection = connect_duckdb(_store(spec))

    def scan() -> Sums:
        found = connection.execute(
            "SELECT count(*), sum(id), sum(version), max(owner), max(balance), max(status), max(updated), max(note)"
            f" FROM iceberg_scan('{spec['metadata']}')"
        ).fetchone()
        assert found is not None
        return int(found[0]), int(found[1]), int(found[2])

    return scan


def spark(spec: dict[str, Any]) -> Callable[[], Sums]:
    """Spark 3.5 on two cores, every column read."""
    session = spark_session([SparkCatalog(spec["catalog"], spec["uri"], spec["warehouse"], _store(spec))])
    table = ".".join(f"`{part}`" for part in (spec["catalog"], *spec["identifier"]))

    def scan() -> Sums:
        row = session.sql(
            "SELECT count(*), sum(id), sum(version), max(owner), max(balance), max(status), max(updated), max(note)"
            f" FROM {table}"
        ).collect()[0]
        return int(row[0]), int(row[1]), int(row[2])

    return scan


def _store(spec: dict[str, Any]) -> Store | None:
    return Store(spec["endpoint"], spec["user"], spec["password"]) if spec["endpoint"] else None


READERS: dict[str, Callable[[dict[str, Any]], Callable[[], Sums]]] = {
    "pyiceberg": pyiceberg,
    "duckdb": duckdb,
    "spark": spark,
}


def main(reader: str, spec: dict[str, Any]) -> None:
    """Scan, and print the best scan."""
    scan = READERS[reader](spec)
    watch = Watch(family=True)
    best: Scan | None = None
    for _ in range(SCANS):
        watch.mark()
        began = time.monotonic()
        found = scan()
        seconds = time.monotonic() - began
        if best is None or seconds < best.seconds:
            best = Scan(seconds, watch.cpu_seconds(), 0.0, *found)
    assert best is not None
    sys.stdout.write(json.dumps({**asdict(best), "peak_rss_mb": watch.peak_rss_mb()}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
