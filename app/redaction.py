"""Keeps secrets out of texts that others wrote: error messages of drivers, catalogs and Connect, shown on pages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from pydantic import SecretStr

from config.masking import MASK, is_secret_name, mask_text
from config.model import Model

SHORTEST_SECRET = 4
"""A shorter value is left alone: replacing every `a` makes a message unreadable and hides nothing."""

_WORD = re.compile(r"\S+")


def redactor(*configurations: Model) -> Callable[[str], str]:
    """A function that masks every secret value of these configurations, and the user part of any address."""
    values = {value for model in configurations for value in _secrets(model.model_dump())}
    ordered = sorted((v for v in values if len(v) >= SHORTEST_SECRET), key=len, reverse=True)
    known = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def redact(text: str) -> str:
        text = _WORD.sub(lambda word: mask_text(word[0]) if "://" in word[0] else word[0], text)
        return known.sub(MASK, text) if known else text

    return redact


def _secrets(value: Any, name: object = None) -> Iterator[str]:
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, str):
        if is_secret_name(name):
            yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _secrets(item, key)
    elif isinstance(value, Iterable):
        for item in value:
            yield from _secrets(item)
