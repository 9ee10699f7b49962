"""JSON Schemas of both configuration files, for editors; `python -m config.schemas` writes what ships."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from config.model import Model
from config.pipeline import PipelineConfig
from config.platform import PlatformConfig

FOLDER = Path(__file__).parent

SCHEMAS: dict[str, type[Model]] = {
    "pipeline.schema.json": PipelineConfig,
    "platform.schema.json": PlatformConfig,
}

_REFERENCE = {"type": "string", "pattern": r"\$\{", "description": "${VAR} or ${VAR:-default}"}
_OUTSIDE = ("description", "default", "deprecated")


def render_schema(model: type[Model]) -> str:
    """The schema's text, as it ships."""
    schema = model.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps(_with_references(schema), indent=2, ensure_ascii=False) + "\n"


def _with_references(node: Any) -> Any:
    """`${VAR}` is allowed wherever a value is: also where a number, a choice or a pattern is asked for."""
    if isinstance(node, list):
        return [_with_references(item) for item in node]
    if not isinstance(node, dict):
        return node
    if isinstance(node.get("title"), str):
        node = {key: value for key, value in node.items() if key != "title"}  # "Table Uri" says nothing new
    restricted = node.get("type") in ("integer", "number", "boolean") or "enum" in node or "pattern" in node
    if restricted:
        outside = {key: node[key] for key in _OUTSIDE if key in node}
        inside = {key: value for key, value in node.items() if key not in _OUTSIDE}
        return {**outside, "anyOf": [inside, _REFERENCE]}
    if node.get("format") == "password":
        return {key: value for key, value in node.items() if key != "default"}
    return {key: value if key == "allOf" else _with_references(value) for key, value in node.items()}
