"""The demo's pipeline files: PostgreSQL into Iceberg (upsert, REST and S3) and Delta (append), MariaDB into Iceberg
(append, SQLite and disk) and Delta (upsert)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from demo.workload import TABLES
from stack.manager import Endpoint, Endpoints
from stack.places import in_catalog


def write_files(folder: Path, endpoints: Endpoints) -> list[tuple[Path, Path]]:
    """(pipeline file, platform file) of each database."""
    folder.mkdir(parents=True, exist_ok=True)
    platform = folder / "platform.yaml"
    platform.write_text(yaml.safe_dump(platform_of(endpoints)))
    rest = in_catalog(endpoints["catalog"], endpoints["s3"]) | {"table_namespace": "postgres", "write_mode": "upsert"}
    disk = {
        "catalog_uri": f"sqlite:///{folder}/catalog.db",
        "warehouse": f"file://{folder}/warehouse",
        "table_namespace": "mariadb",
        "write_mode": "append",
    }
    pipelines = {
        "postgres": pipeline_of("demo-postgres", "postgres", endpoints["postgres"], TABLES, [
            _sink("iceberg-upsert", "iceberg", rest),
            _sink("delta-append", "delta", {"table_uri": f"{folder}/delta-append/{{table}}", "write_mode": "append"}),
        ]),
        "mariadb": pipeline_of("demo-mariadb", "mariadb", endpoints["mariadb"], TABLES, [
            _sink("iceberg-append", "iceberg", disk),
            _sink("delta-upsert", "delta", {"table_uri": f"{folder}/delta-upsert/{{table}}", "write_mode": "upsert"}),
        ]),
    }  # fmt: skip
    files = []
    for name, pipeline in pipelines.items():
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(pipeline, sort_keys=False))
        files.append((path, platform))
    return files


def platform_of(endpoints: Endpoints) -> dict[str, Any]:
    """The platform file over a local stack."""
    registry = endpoints["registry"]
    return {
        "kafka": {
            "bootstrap_servers": endpoints["kafka"].address,
            "schema_registry_url": registry.url,
            "topic_num_partitions": 2,
        },
        "connector": {
            "connect_url": endpoints["connect"].url,
            "converter": "avro-apicurio",
            "registry_url": registry.more["converter_url"],
        },
    }


def pipeline_of(
    name: str, kind: str, database: Endpoint, tables: Sequence[str], sinks: list[dict[str, Any]]
) -> dict[str, Any]:
    """A pipeline file over tables of a database of the local stack; its topics' prefix is the kind of database."""
    schema = "public" if kind == "postgres" else database.more["database"]
    return {
        "pipeline_id": name,
        "topic_prefix": kind,
        "source": {
            "source_type": kind,
            "host": database.host,
            "port": database.port,
            "database": database.more["database"],
            "username": database.user,
            "password": database.password,
            "tables": [f"{schema}.{table}" for table in tables],
        },
        "sinks": sinks,
    }


def _sink(sink_id: str, kind: str, section: dict[str, Any]) -> dict[str, Any]:
    # an interval and a size at which a minute of changes is a few tens of commits
    return {"sink_id": sink_id, "sink_type": kind, kind: {**section, "batch_size": 5_000, "flush_interval_seconds": 2}}
