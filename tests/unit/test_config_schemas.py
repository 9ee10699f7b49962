"""What ships for editors and readers is what the models say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from config.schemas import FOLDER, SCHEMAS, render_schema
from config.schemas.tables import insert_tables

ROOT = Path(__file__).parents[2]
AGAIN = "run `python -m config.schemas`"


@pytest.mark.parametrize("name", SCHEMAS)
def test_shipped_schema_is_that_of_the_models(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == render_schema(SCHEMAS[name]), AGAIN


def test_documented_keys_are_those_of_the_models() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert insert_tables(page) == page, AGAIN


def check(name: str, data: Any) -> list[str]:
    schema = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return [error.json_path for error in jsonschema.Draft202012Validator(schema).iter_errors(data)]


@pytest.mark.parametrize("kind", ["pipeline", "platform"])
def test_example_files_fit_the_schema(kind: str) -> None:
    data = yaml.safe_load((ROOT / f"{kind}.yaml").read_text(encoding="utf-8"))
    assert check(f"{kind}.schema.json", data) == []


def test_schema_takes_variables_for_numbers_and_refuses_unknown_keys_and_missing_sections() -> None:
    data = {
        "pipeline_id": "x",
        "topic_prefix": "cdc",
        "source": {"database": "d", "port": "${PORT}", "mysql_server_id": 5},
        "sinks": [{"sink_id": "a", "sink_type": "delta", "enabled": "${ON:-true}", "delta": {"table_uri": "/x"}}],
    }
    assert check("pipeline.schema.json", data) == []
    assert check("pipeline.schema.json", {**data, "kafka": {}}) == ["$"]
    assert check("pipeline.schema.json", {**data, "sinks": []}) == ["$.sinks"]
    assert check("pipeline.schema.json", {**data, "sinks": [{"sink_id": "a", "sink_type": "iceberg"}]}) == [
        "$.sinks[0]"
    ]
    assert check("platform.schema.json", {"health_port": "abc"}) == ["$.health_port"]
