"""What all configuration models share: frozen, strict about keys, silent about values in errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic_core import InitErrorDetails, PydanticCustomError

Location = tuple[str | int, ...]
"""A place in a file: keys, and indexes into lists."""

Problem = tuple[Location, str]
"""Where (below the model that found it) and what, with what is allowed."""


class Model(BaseModel):
    """Base of the models. `hide_input_in_errors`: a password in the wrong place must not reach a log."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True)


def refuse(problems: Iterable[Problem]) -> None:
    """Raise all problems at once, each at its own place, from inside a pydantic validator."""
    details = [
        InitErrorDetails(type=PydanticCustomError("rule", "{text}", {"text": message}), loc=loc, input=None)
        for loc, message in problems
    ]
    if details:
        raise ValidationError.from_exception_data("configuration", details, hide_input=True)


def _texts(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {key: _text(item) for key, item in value.items()}


def _text(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


IDENTIFIER = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
TOPIC_PART = r"^[A-Za-z0-9._-]+$"
SLOT_NAME = r"^[a-z0-9_]{1,63}$"
QUALIFIED_TABLE = r"^[^.\s]+\.[^.\s]+$"
HTTP_URL = r"^https?://[^\s/]+\S*$"

PATTERNS = {
    IDENTIFIER: "letters, digits, - and _, beginning with a letter or digit",
    TOPIC_PART: "letters, digits, '.', - and _",
    SLOT_NAME: "lower-case letters, digits and _, at most 63",
    QUALIFIED_TABLE: "schema.table, such as public.customers",
    HTTP_URL: "an address, http://… or https://…",
}
"""The fields' patterns, and how errors say them."""

Identifier = Annotated[str, Field(pattern=IDENTIFIER, max_length=64)]
"""Becomes part of property keys, group names and folders: a dot would make `lakeward.offsets.a.b` ambiguous."""

TopicPart = Annotated[str, Field(pattern=TOPIC_PART)]
HttpUrl = Annotated[str, Field(pattern=HTTP_URL)]

StringMap = Annotated[
    dict[str, str],
    BeforeValidator(_texts),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}),
]
"""Properties that are passed on as text; `true` and `4` may be written without quotes."""
