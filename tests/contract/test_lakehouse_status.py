"""`cdc lakehouse status`: what it says of a table is what the table consists of, and what the worker then does."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner
from contract_base import inserts, updates
from contract_events import TOPIC, batch, changes, folded, order

from app.cli import cdc
from config.environment import load_settings
from sinks.base import Batch
from sinks.factory import KEY_INDEX, plan_tables
from sources.changes import ChangeBatch

WORKER = "worker-0"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pipeline file with an upsert and an append table in Iceberg, and two in Delta, one with deletion vectors."""
    iceberg = {"catalog_uri": f"sqlite:///{tmp_path}/catalog.db", "warehouse": f"file://{tmp_path}/warehouse"}
    sinks: list[dict[str, Any]] = [
        {"sink_id": "now", "sink_type": "iceberg", "iceberg": {**iceberg, "write_mode": "upsert"}},
        {"sink_id": "log", "sink_type": "iceberg", "iceberg": {**iceberg, "table_namespace": "log"}},
        {"sink_id": "delta", "sink_type": "delta", "delta": {"table_uri": f"{tmp_path}/delta/{{table}}"}},
        {
            "sink_id": "vectors",
            "sink_type": "delta",
            "delta": {
                "table_uri": f"{tmp_path}/vectors/{{table}}",
                "write_mode": "upsert",
                "upserts": "deletion_vectors",
            },
        },
    ]
    prefix, schema, table = TOPIC.split(".")
    pipeline = {
        "pipeline_id": "contract",
        "topic_prefix": prefix,
        "source": {"database": "shop", "password": "unused", "tables": [f"{schema}.{table}"]},
        "sinks": sinks,
    }
    path = tmp_path / "pipeline.yaml"
    path.write_text(yaml.safe_dump(pipeline))
    monkeypatch.setenv("CDC_DATA_DIR", str(tmp_path / "data"))
    return path


def write(place: Path, parts: list[ChangeBatch], *, tidy: bool) -> None:
    settings = load_settings(place, None)
    for plan in plan_tables(settings.pipeline):
        with closing(plan.create(settings.data_dir / settings.app_id / WORKER)) as sink:
            sink.open()
            for part in parts:
                sink.write(batch(part))
                if tidy:
                    sink.tidy()


def status(place: Path, *options: str) -> str:
    done = CliRunner().invoke(cdc, ["lakehouse", "status", str(place), *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def found(place: Path) -> dict[str, dict[str, Any]]:
    return {table["sink_id"]: table for table in json.loads(status(place, "--format", "json"))}


def test_a_table_that_is_not_there_yet_is_said(place: Path) -> None:
    assert "now default.public_orders: no commit yet" in status(place)


def test_counts_are_those_of_the_files(place: Path) -> None:
    parts = [inserts(0, 30), *updates(9, keys=30, start=30)]
    write(place, parts, tidy=False)
    tables = found(place)
    rows = folded(*parts)
    now, log, delta = tables["now"], tables["log"], tables["delta"]
    changed = sum(part.rows.num_rows for part in parts)
    assert now["rows"] == now["index_keys"] == len(rows)
    assert log["rows"] == delta["rows"] == changed
    assert now["index_bytes"] > 0
    assert log["index_keys"] == 0
    on_disk = [
        path for path in (place.parent / "warehouse/default").rglob("*.parquet") if "lw-deletes" not in path.name
    ]
    assert now["files"]["count"] == len(on_disk) == sum(now["files"]["by_size"])
    assert now["files"]["bytes"] == sum(path.stat().st_size for path in on_disk)
    assert now["files"]["dead_rows"] == sum(pq.read_metadata(path).num_rows for path in on_disk) - len(rows)
    assert now["files"]["dirty"] > 0
    assert now["deletes"]["positions"] == now["files"]["dead_rows"]
    assert (log["files"]["count"], log["deletes"]["count"], log["files"]["dead_rows"]) == (len(parts), 0, 0)
    assert delta["files"]["count"] == len(list((place.parent / "delta/orders").glob("*.parquet")))
    assert delta["snapshots"] == len(list((place.parent / "delta/orders/_delta_log").glob("*.json")))
    assert now["metadata_bytes"] > now["manifests"] * 1000
    vectors, folder = tables["vectors"], place.parent / "vectors/orders"
    on_disk = list(folder.glob("*.parquet"))
    assert vectors["rows"] == vectors["index_keys"] == len(rows)
    assert vectors["files"]["count"] == len(on_disk) == sum(vectors["files"]["by_size"])
    assert vectors["files"]["bytes"] == sum(path.stat().st_size for path in on_disk)
    assert vectors["files"]["dead_rows"] == sum(pq.read_metadata(path).num_rows for path in on_disk) - len(rows)
    assert vectors["files"]["dirty"] == now["files"]["dirty"]
    assert vectors["deletes"]["positions"] == vectors["files"]["dead_rows"]
    assert vectors["snapshots"] == len(list(folder.glob("_delta_log/*.json")))
    assert vectors["retired_files"] > 0


def test_what_it_announces_is_what_the_worker_does(place: Path) -> None:
    parts = [inserts(3 * n, 3) for n in range(17)]
    write(place, parts[:15], tidy=False)
    waiting = next(u for u in found(place)["log"]["upkeep"])
    assert waiting["what"] == f"merge data files of {TOPIC}/0"
    assert waiting["when"] == "once 16 of one size are there; 15 small ones so far"
    assert found(place)["vectors"]["upkeep"][0] == waiting
    write(place, parts[15:16], tidy=False)
    announced = {sink: table["upkeep"][0] for sink, table in found(place).items()}
    assert announced["log"] == announced["now"] == {"what": "rewrite 16 data files", "when": "after the next commit"}
    assert announced["vectors"] == announced["log"]
    assert announced["delta"] == {"what": "compact 16 small files", "when": "within 8 commits"}
    write(place, parts[16:], tidy=True)
    after = found(place)
    assert after["log"]["files"]["count"] < 3
    assert after["now"]["files"]["count"] < 4
    assert after["vectors"]["files"]["count"] < 4
    shown = status(place)
    for words in ("now", "log", "delta", "drop 25 snapshots", "nothing is vacuumed"):
        assert words in shown


def test_index_of_a_running_worker_is_seen_as_of_its_last_flush(place: Path) -> None:
    write(place, [inserts(0, 30)], tidy=False)
    settings = load_settings(place, None)
    plan = plan_tables(settings.pipeline)[0]
    with closing(plan.create(settings.data_dir / settings.app_id / WORKER)) as sink:
        sink.open()
        sink.write(Batch({}, []))
        sink.write(batch(changes([order("d", 0)], 30)))
        assert found(place)["now"]["index_keys"] in (29, 30)
    assert found(place)["now"]["index_keys"] == 29
    (settings.data_dir / settings.app_id / WORKER / KEY_INDEX / "CURRENT").write_text("nonsense\n")
    assert found(place)["now"]["index_keys"] == 0
