"""A pipeline that writes one topic five ways (format x mode), its workers, and the check of its five tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from confluent_kafka.admin import AdminClient

from chaos.load import Load
from chaos.unruly import Unruly
from config.pipeline import PipelineConfig
from sinks.factory import plan_tables
from stack.manager import Endpoint, Endpoints
from stack.places import bucket, in_catalog, storage_options
from stack.ports import free_port
from stack.worker import WorkerProcess
from stack.worker_log import WorkerLog
from verify.lake import read_sink_table

SINKS = ("iceberg-append", "iceberg-upsert", "delta-append", "delta-upsert", "delta-vectors")
SESSION_TIMEOUT = 6.0
"""The least that a broker grants by default: a killed worker's partitions are free after it."""

GROUP = "chaos-pipe"


class ChaosPipeline:
    """The files of the pipeline; `worker()` makes workers, which share a data directory."""

    def __init__(self, folder: Path, services: Endpoints, load: Load) -> None:
        self.folder = folder
        self.load = load
        self.admin = AdminClient({"bootstrap.servers": services["kafka"].address})
        self.data = folder / "data"
        self.lake = folder / "lake"
        self.lake.mkdir()
        self.group = f"{GROUP}-{load.table}"
        self.content: dict[str, Any] = {
            "pipeline_id": load.table,
            "topic_prefix": load.prefix,
            "source": {"database": "chaos", "tables": [f"public.{load.table}"]},
            "sinks": self.sinks(),
        }
        self._config = PipelineConfig.model_validate(self.content)
        kafka = {
            "bootstrap_servers": services["kafka"].address,
            "schema_registry_url": services["registry"].url,
            "group_id": GROUP,
            "session_timeout_seconds": SESSION_TIMEOUT,
        }
        (folder / "pipeline.yaml").write_text(yaml.safe_dump(self.content))
        (folder / "platform.yaml").write_text(yaml.safe_dump({"kafka": kafka}))
        self._workers: list[WorkerProcess] = []

    def sinks(self) -> list[dict[str, Any]]:
        """The pipeline's."""
        return [self._sink(*sink.split("-")) for sink in SINKS]

    def _sink(self, form: str, mode: str) -> dict[str, Any]:
        """Small and frequent commits: more of them to be killed in."""
        write_mode = "upsert" if mode == "vectors" else mode
        section: dict[str, Any] = {"write_mode": write_mode, "batch_size": 200, "flush_interval_seconds": 0.3}
        if form == "iceberg":
            section |= {
                "catalog_uri": f"sqlite:///{self.lake}/{mode}.db",
                "warehouse": f"file://{self.lake}/warehouse-{mode}",
                "table_name": "{table}",
                # the table's old files are removed at once, under the kills
                "table_properties": {"lakeward.reader-grace-seconds": "0"},
            }
        else:
            section |= {"table_uri": f"{self.lake}/delta-{mode}"}
        if mode == "vectors":
            # as above
            properties = {"delta.deletedFileRetentionDuration": "interval 0 seconds"}
            section |= {"upserts": "deletion_vectors", "table_properties": properties}
        return {"sink_id": f"{form}-{mode}", "sink_type": form, form: section}

    def worker(
        self, name: str = "worker", environment: Mapping[str, str] | None = None, data: Path | None = None
    ) -> WorkerProcess:
        """A worker that hasn't been started; `data`: another data directory than the pipeline's."""
        files = self.folder / "pipeline.yaml", self.folder / "platform.yaml"
        log = self.folder / f"{name}.log"
        worker = WorkerProcess(*files, data or self.data, log, web_port=free_port(), environment=environment)
        self._workers.append(worker)
        return worker

    def close(self) -> None:
        """End the load and the workers."""
        for worker in self._workers:
            if worker.running():
                worker.kill()
        self.load.stop()

    def catch_up(self, log: WorkerLog) -> None:
        """Wait until one worker, alone, has brought everything to all tables."""
        log.wait_for(lambda: log.reached(self.load.ends, *SINKS), "everything in all tables", 120)

    def assert_tables_exact(self) -> None:
        """Append tables hold every change once, upsert tables each key's last: nothing lost, nothing doubled."""
        for plan in plan_tables(self._config):
            table = read_sink_table(plan, self.load.topic)
            assert table is not None, plan.target.sink_id
            found = pl.from_arrow(table.select(["_cdc_partition", "_cdc_offset", "_cdc_op", "id", "balance", "status"]))
            assert isinstance(found, pl.DataFrame)
            found = found.select(
                partition=pl.col("_cdc_partition").cast(pl.Int32),
                offset=pl.col("_cdc_offset").cast(pl.Int64),
                op=pl.col("_cdc_op").cast(pl.String),
                id=pl.col("id"),
                cents=(pl.col("balance") * 100).cast(pl.Int64),
                status=pl.col("status").cast(pl.String),
            )
            if plan.settings.write_mode == "append":
                assert_same(plan.target.sink_id, found, self.load.changelog(), ["partition", "offset"])
            else:
                assert_same(plan.target.sink_id, found, self.load.end_state(), ["id"])


class StoredPipeline(ChaosPipeline):
    """Its tables lie in an S3 store, those of Iceberg in a REST catalog, and each of the two may misbehave."""

    def __init__(self, folder: Path, services: Endpoints, load: Load, store: Endpoint, catalog: Endpoint) -> None:
        self.unruly = {"store": Unruly(store.url), "catalog": Unruly(catalog.url)}
        self._store, self._catalog = store, catalog
        self.name = f"outages_{load.table}"
        super().__init__(folder, services, load)

    def _sink(self, form: str, mode: str) -> dict[str, Any]:
        sink = super()._sink(form, mode)
        store, catalog = (
            replace(endpoint, url=self.unruly[name].url)
            for name, endpoint in (("store", self._store), ("catalog", self._catalog))
        )
        if form == "iceberg":
            table = {"table_namespace": self.name, "table_name": f"{mode}_{{table}}"}
            sink[form] |= in_catalog(catalog, store) | table
        else:
            uri = f"{bucket(store)}/{self.name}/{mode}"
            sink[form] |= {"table_uri": uri, "storage_options": storage_options(store)}
        return sink

    def close(self) -> None:
        super().close()
        for service in self.unruly.values():
            service.close()


def assert_same(name: str, found: pl.DataFrame, expected: pl.DataFrame, key: list[str]) -> None:
    """Equal as sets of rows with one row per key; else says what is missing, extra, doubled or different."""
    doubled = found.group_by(key).len().filter(pl.col("len") > 1).sort(key)
    assert doubled.is_empty(), f"{name}: {len(doubled)} keys are there more than once: {doubled.head(5).rows()}"
    lost = expected.join(found, on=key, how="anti").sort(key)
    assert lost.is_empty(), f"{name}: {len(lost)} rows are lost, the first: {lost.head(5).rows()}"
    extra = found.join(expected, on=key, how="anti").sort(key)
    assert extra.is_empty(), f"{name}: {len(extra)} rows shouldn't be there, the first: {extra.head(5).rows()}"
    found, expected = found.sort(key), expected.select(found.columns).sort(key)
    unequal = [(a, b) for a, b in zip(found.rows(), expected.rows(), strict=True) if a != b]
    assert not unequal, f"{name}: {len(unequal)} rows differ, the first (found, expected): {unequal[:3]}"
