"""Reads the two configuration files: all mistakes of a file are reported at once, with path and line."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from config.errors import ConfigurationError
from config.mistakes import FileKind, InvalidFile, Mistake, path_of, sentence
from config.model import Location, Model, Problem
from config.pipeline import PipelineConfig, SinkConfig, SourceConfig
from config.platform import PlatformConfig
from config.rules import id_problems, pipeline_problems
from config.substitution import Substitution, substitute
from config.yaml_document import Document, parse_yaml

PIPELINE_FILE = "pipeline.yaml"
PLATFORM_FILE = "platform.yaml"

_PIPELINE = FileKind(PipelineConfig, PlatformConfig, PLATFORM_FILE)
_PLATFORM = FileKind(PlatformConfig, PipelineConfig, PIPELINE_FILE)

_M = TypeVar("_M", bound=Model)


def load_pipeline(path: str | Path, environ: Mapping[str, str] = os.environ) -> PipelineConfig:
    """Read and check a pipeline file. Raises ConfigurationError: InvalidFile with every mistake, or the one
    sentence why there is nothing to check."""
    return _load(Path(path), PipelineConfig, _PIPELINE, environ)


def load_platform(path: str | Path | None, environ: Mapping[str, str] = os.environ) -> PlatformConfig:
    """Read and check a platform file; without one, the defaults. Raises as `load_pipeline` does."""
    if path is None:
        return PlatformConfig()
    return _load(Path(path), PlatformConfig, _PLATFORM, environ)


def _load(path: Path, model: type[_M], kind: FileKind, environ: Mapping[str, str]) -> _M:
    document = parse_yaml(_read(path))
    if not document.problems and not isinstance(document.data, dict):
        if document.data is None and model is PlatformConfig:
            return model()  # all keys commented out: the defaults, as for a file that isn't there
        found = {type(None): "is empty", list: "holds a list"}.get(type(document.data), "holds a single value")
        raise ConfigurationError(f"{path}: {found}; a mapping (`key: value` lines) is expected")
    if not isinstance(document.data, dict):
        raise InvalidFile(path, _mistakes(path, document, document.problems))
    values = substitute(document.data, environ)
    problems = [*document.problems, *values.problems]
    try:
        loaded = model.model_validate(values.data)
    except ValidationError as error:
        problems.extend(_new(_field_problems(error, kind, document, values), problems))
        if model is PipelineConfig:
            problems.extend(_new(_remaining_rules(values.data, [loc for loc, _ in problems]), problems))
        raise InvalidFile(path, _mistakes(path, document, problems)) from None
    if problems:
        raise InvalidFile(path, _mistakes(path, document, problems))
    return loaded


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigurationError(f"{path}: there is no such file") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise ConfigurationError(f"{path}: can't be read: {error.strerror}") from None


def _mistakes(path: Path, document: Document, problems: Iterable[Problem]) -> list[Mistake]:
    return [Mistake(str(path), document.line(loc), path_of(loc), message) for loc, message in problems]


def _field_problems(
    error: ValidationError, kind: FileKind, document: Document, values: Substitution
) -> Iterable[Problem]:
    for detail in error.errors(include_url=False):
        location = detail["loc"]
        if location[-1:] == ("server_id",) and location not in document.lines:
            location = (*location[:-1], "mysql_server_id")
        yield location, sentence(detail, kind, location, values.variables.get(location, ()))


def _new(problems: Iterable[Problem], known: list[Problem]) -> list[Problem]:
    """Problems at places of which nothing is known yet: what follows from another mistake isn't one."""
    places = [location for location, _ in known]
    return [(location, text) for location, text in problems if not any(_related(location, at) for at in places)]


def _related(one: Location, other: Location) -> bool:
    shared = min(len(one), len(other))
    return one[:shared] == other[:shared]


def _remaining_rules(data: dict[str, Any], wrong: list[Location]) -> Iterable[Problem]:
    """The rules between parts, for those parts that are sound although others aren't.

    Pydantic checks them only when every field is right; a user would meet them one run later.
    """
    source, prefix, sinks = data.get("source"), data.get("topic_prefix"), data.get("sinks")
    tables = source.get("tables") if isinstance(source, dict) else None
    if not isinstance(tables, list) or any(_related(("source", "tables"), place) for place in wrong):
        tables = []
    items = list(enumerate(sinks)) if isinstance(sinks, list) else []
    yield from id_problems([(index, str(item["sink_id"])) for index, item in items if _has_id(item)])
    sound = [
        (index, SinkConfig.model_validate(item))
        for index, item in items
        if not any(_related(("sinks", index), place) for place in wrong)
    ]
    partial_source = SourceConfig.model_construct(tables=tuple(tables))
    yield from pipeline_problems(prefix if isinstance(prefix, str) else "", partial_source, sound)


def _has_id(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("sink_id"), str)
