"""`cdc validate`: what a user sees, with exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from app.commands.validate import validate

ROOT = Path(__file__).parents[2]
EXAMPLE = [str(ROOT / "pipeline.yaml"), "--platform-config", str(ROOT / "platform.yaml")]


def test_example_is_valid_and_shown_with_topics_tables_and_sinks() -> None:
    result = CliRunner().invoke(validate, EXAMPLE)
    assert result.exit_code == 0, result.output
    for part in ("kafka", "public.customers", "cdc.public.customers.dlq", "iceberg-lake", "upsert"):
        assert part in result.output
    assert "demo.public_customers" in result.output


def test_show_prints_the_effective_configuration_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDC_SOURCE_PASSWORD", "hunter2")
    result = CliRunner().invoke(validate, [*EXAMPLE, "--show"])
    assert result.exit_code == 0
    assert "snapshot_mode: initial" in result.output
    assert "schema_monitor_interval_seconds: 30.0" in result.output
    assert "hunter2" not in result.output


def test_json_is_for_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDC_SOURCE_PASSWORD", "hunter2")
    result = CliRunner().invoke(validate, [*EXAMPLE, "--format", "json"])
    shown = json.loads(result.stdout)
    assert shown["valid"] is True
    assert shown["topics"][0] == "cdc.public.customers"
    assert shown["sinks"][0]["destinations"]["public.customers"] == "demo.public_customers"
    assert shown["configuration"]["platform"]["health_port"] == 8080
    assert "hunter2" not in result.output


def test_mistakes_of_both_files_are_reported_and_the_exit_status_is_1(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("pipeline_id: x\nkafka: 1\n")
    (tmp_path / "q.yaml").write_text("helth_port: 1\n")
    arguments = [str(tmp_path / "p.yaml"), "--platform-config", str(tmp_path / "q.yaml")]
    result = CliRunner().invoke(validate, arguments)
    assert result.exit_code == 1
    assert "p.yaml:2: kafka: belongs to platform.yaml" in result.stderr
    assert "q.yaml:1: helth_port: is unknown; did you mean health_port?" in result.stderr
    result = CliRunner().invoke(validate, [*arguments, "--format", "json"])
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["valid"] is False
    assert {"file": str(tmp_path / "q.yaml"), "line": 1, "path": "helth_port"}.items() <= found["mistakes"][-1].items()


def test_sink_type_that_is_not_built_yet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(
        "pipeline_id: x\ntopic_prefix: cdc\nsource: {database: d, tables: [a.b]}\n"
        "sinks: [{sink_id: h, sink_type: webhook, webhook: {url: 'http://x'}}]\n"
    )
    result = CliRunner().invoke(validate, [str(tmp_path / "p.yaml")])
    assert result.exit_code == 1
    assert "sink_type webhook isn't built yet" in result.stderr
    assert "Traceback" not in result.output
