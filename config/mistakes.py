"""From pydantic's errors to sentences: what was found, what is allowed, what was perhaps meant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from pydantic_core import ErrorDetails

from config.errors import ConfigurationError
from config.masking import is_secret_name, mask_text
from config.model import PATTERNS, Location, Model

_EXPECTED = {
    "int": "a whole number is expected",
    "float": "a number is expected",
    "bool": "true or false is expected",
    "string": "text is expected; put a number or true/false in quotes",
    "model": "a mapping (`key: value` lines) is expected",
    "dict": "a mapping (`key: value` lines) is expected",
    "tuple": "a list (`- item` lines, or [a, b]) is expected",
}
_LIMITS = {"greater_than_equal": ">=", "greater_than": ">", "less_than_equal": "<=", "less_than": "<"}


@dataclass(frozen=True)
class Mistake:
    """One mistake of one file: its line, the place as users write it (`sinks[1].delta.table_uri`), and a sentence."""

    file: str
    line: int | None
    path: str
    message: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"


class InvalidFile(ConfigurationError):
    """All mistakes of one file at once."""

    def __init__(self, file: Path, mistakes: list[Mistake]) -> None:
        self.mistakes = tuple(sorted(mistakes, key=lambda mistake: mistake.line or 0))
        lines = [str(mistake) for mistake in self.mistakes]
        super().__init__(lines[0] if len(lines) == 1 else "\n  ".join([f"{len(lines)} mistakes in {file}", *lines]))


def path_of(location: Location) -> str:
    """`("sinks", 1, "iceberg")` as `sinks[1].iceberg`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


@dataclass(frozen=True)
class FileKind:
    """One of the two files: its model, and the other one's, for keys that were put into the wrong file."""

    root: type[Model]
    other: type[Model]
    other_name: str


def sentence(error: ErrorDetails, kind: FileKind, location: Location, variables: tuple[str, ...]) -> str:
    """What an error says to a user. `variables` are the environment variables that the value came from."""
    if error["type"] == "extra_forbidden":
        return _unknown_key(kind, location)
    if error["type"] == "missing":
        return "is required"
    if error["type"] == "rule":
        return error["msg"]
    expected = _expected(error)
    return expected if repr(error["input"]) in expected else _found(error["input"], location, variables) + expected


def _expected(error: ErrorDetails) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        return f"allowed: {context['expected']}"
    if kind in _LIMITS:
        return f"must be {_LIMITS[kind]} {next(iter(context.values()))}"
    if kind == "string_pattern_mismatch":
        return f"allowed: {PATTERNS[context['pattern']]}"
    if kind == "string_too_short":
        return "must not be empty"
    if kind == "string_too_long":
        return f"must not be longer than {context['max_length']} characters"
    return _EXPECTED.get(kind.split("_", maxsplit=1)[0], error["msg"])


def _found(value: Any, location: Location, variables: tuple[str, ...]) -> str:
    """The value, unless it may be secret, or is said better by its place."""
    if value is None or isinstance(value, Mapping | list):
        kind = "nothing" if value is None else "a mapping" if isinstance(value, Mapping) else "a list"
        return f"found {kind}; "
    source = f" (from {', '.join(f'${{{name}}}' for name in variables)})" if variables else ""
    if any(is_secret_name(name) for name in (*location, *variables)):
        return f"the value{source} doesn't fit; "
    shown = repr(mask_text(value)) if isinstance(value, str) else str(value).lower()
    return f"found {shown}{source}; "


def _unknown_key(kind: FileKind, location: Location) -> str:
    key = location[-1]
    if not isinstance(key, str):
        return "has no place here"
    owner = model_at(kind.root, location[:-1])
    known = list(owner.model_fields) if owner is not None else []
    close = get_close_matches(key, known, n=1, cutoff=0.7)
    if key in kind.other.model_fields and not close:
        return f"belongs to {kind.other_name}"
    if close:
        return f"is unknown; did you mean {close[0]}?"
    below = [path for path, model in _models(owner, "") if key in model.model_fields] if owner is not None else []
    homes = below or [path for path, model in _models(kind.root, "") if key in model.model_fields]
    if homes:
        return f"is unknown here; it belongs into {' or '.join(homes)}"
    return f"is unknown; known here: {', '.join(known)}"


def model_at(root: type[Model], location: Location) -> type[Model] | None:
    """The model at a place of the file."""
    model: type[Model] | None = root
    for part in location:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part) if model is not None else None
        model = model_in(field.annotation) if field is not None else None
    return model


def _models(model: type[Model], path: str) -> Iterator[tuple[str, type[Model]]]:
    if path:
        yield path, model
    for name, field in model.model_fields.items():
        inner = model_in(field.annotation)
        if inner is not None:
            below = f"{path}.{name}" if path else name
            yield from _models(inner, f"{below}[]" if "tuple" in str(field.annotation) else below)


def model_in(annotation: Any) -> type[Model] | None:
    """The model that a field's annotation holds, alone, optional or in a list."""
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return annotation
    return next((found for part in get_args(annotation) if (found := model_in(part)) is not None), None)
