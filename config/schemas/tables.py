"""The tables of keys in docs/configuration.md, from the models: one table per section of a file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from config.mistakes import model_in
from config.model import Model
from config.pipeline import PipelineConfig
from config.platform import PlatformConfig

_FILES: dict[str, type[Model]] = {"pipeline": PipelineConfig, "platform": PlatformConfig}


def insert_tables(page: str) -> str:
    """The page with the tables between its markers `<!-- keys of pipeline -->` and `<!-- end -->` made anew."""
    for name, model in _FILES.items():
        start, end = f"<!-- keys of {name} -->", "<!-- end -->"
        pattern = re.compile(rf"(?<={re.escape(start)}\n).*?(?={re.escape(end)})", re.DOTALL)
        if not pattern.search(page):
            raise ValueError(f"the page has no {start} … {end}")
        tables = "\n".join(_tables(model, ""))
        page = pattern.sub(lambda _, tables=tables: f"\n{tables}\n", page, count=1)  # type: ignore[misc]
    return page


def _tables(model: type[Model], path: str) -> Iterator[str]:
    yield f"#### `{path}`\n" if path else "#### Top level\n"
    yield "| key | default | meaning |\n|---|---|---|"
    for name, field in model.model_fields.items():
        meaning = " ".join((field.description or "").split())
        values = _choices(field.annotation)
        chosen = f" One of {values}." if values else ""
        yield f"| `{name}` | {_default(field)} | {(meaning + chosen).replace('|', chr(92) + '|')} |"
    yield ""
    for name, field in model.model_fields.items():
        inner = model_in(field.annotation)
        if inner is not None and not (path and name == "retry"):
            origin = get_origin(field.annotation)
            listed = "[]" if origin is tuple else ".<table>.<column>" if origin is dict else ""
            yield from _tables(inner, f"{path}.{name}{listed}" if path else f"{name}{listed}")


def _choices(annotation: Any) -> str:
    values = get_args(annotation) if get_origin(annotation) is Literal else ()
    return ", ".join(f"`{value}`" for value in values) if len(values) > 1 else ""


def _default(field: FieldInfo) -> str:
    value = field.default
    if field.default_factory is not None or value is None:
        return "–"
    if value is PydanticUndefined:
        return "**required**"
    if isinstance(value, Model):
        return "see below"
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    text = value if isinstance(value, str) else json.dumps(list(value) if isinstance(value, tuple) else value)
    return f"`{text}`"
