"""`cdc health` tells which part is down, by its address, and its exit status says whether one is."""

from __future__ import annotations

import json
from typing import Any

from workbench import Workbench


def report(bench: Workbench) -> tuple[int, dict[str, Any]]:
    run = bench.cdc("health", "--format", "json")
    assert "Traceback" not in run.err
    parsed = json.loads(run.out)
    return run.code, {part["name"]: part for part in parsed["components"]} | {"healthy": parsed["healthy"]}


def test_all_parts_of_a_deployed_pipeline_are_up(bench: Workbench) -> None:
    connector = f"connector {bench.pipeline_id}"
    code, parts = report(bench)
    assert (code, parts["healthy"]) == (1, False)
    assert [name for name, part in parts.items() if name != "healthy" and not part["up"]] == [connector]
    assert "cdc deploy" in parts[connector]["detail"]

    assert bench.cdc("deploy").code == 0
    code, parts = report(bench)
    assert (code, parts["healthy"]) == (0, True), json.dumps(parts, indent=2)
    assert list(parts) == ["kafka", "registry", "connect", connector, "source", "sink lake", "healthy"]
    assert "task 0 RUNNING" in parts[connector]["detail"]
    assert parts["source"]["detail"].startswith("PostgreSQL 15")

    table = bench.cdc("health").out.splitlines()
    assert len(table) == 6
    assert all(line.startswith("up ") for line in table)


def test_each_part_that_is_away_is_down_with_its_address_and_the_others_are_not(bench: Workbench) -> None:
    nowhere = "127.0.0.1:9"
    bench.platform["kafka"]["schema_registry_url"] = f"http://{nowhere}"
    bench.platform["connector"]["connect_url"] = f"http://{nowhere}"
    bench.source |= {"host": "127.0.0.1", "port": 9}
    bench.sinks[0]["iceberg"]["catalog_uri"] = f"http://{nowhere}"
    code, parts = report(bench)
    assert code == 1
    down = [name for name, part in parts.items() if name != "healthy" and not part["up"]]
    assert down == ["registry", "connect", f"connector {bench.pipeline_id}", "source", "sink lake"]
    assert all(nowhere in parts[name]["address"] for name in down)
    assert all(parts[name]["detail"] for name in down)


def test_what_is_no_registry_is_not_taken_for_one(bench: Workbench) -> None:
    bench.platform["kafka"]["schema_registry_url"] = bench.platform["connector"]["connect_url"]
    code, parts = report(bench)
    assert code == 1
    assert not parts["registry"]["up"]
