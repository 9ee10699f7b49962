"""What is secret in a configuration, and how it is shown: never.

Secret are fields of type SecretStr, values under keys whose name says so (properties, headers, storage options), and
the user part of addresses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import SecretStr

from config.model import Model

MASK = "**********"

_SECRET_NAME = re.compile(
    r"pass(word|wd|phrase)?|pwd|secret|token|credential|authorization|cookie|signature|jaas|private"
    r"|(api|access|account|shared|master|encryption|sas)[-_.]?key|[-_.]auth$|^auth|\bsas\b",
    re.IGNORECASE,
)
_USER_INFO = re.compile(r"(?<=://).*@", re.DOTALL)
_BROKEN_USER_INFO = re.compile(r"^[^/\s]*:[^@]*@", re.DOTALL)
_QUERY = re.compile(r"([?&;][^=&;]*=)([^&;]*)")


def is_secret_name(name: object) -> bool:
    """Whether a key's or a variable's name says that its value is secret."""
    return isinstance(name, str) and _SECRET_NAME.search(name) is not None


def mask_text(text: str) -> str:
    """A text without the user part of an address and without secret query parameters."""
    text = _USER_INFO.sub(f"{MASK}@", text) if "://" in text else _BROKEN_USER_INFO.sub(f"{MASK}@", text)
    return _QUERY.sub(lambda match: match[1] + MASK if is_secret_name(match[1]) else match[0], text)


def masked(model: Model) -> dict[str, Any]:
    """The effective configuration as plain data, secrets masked; for `--show`, pages and logs."""
    shown: dict[str, Any] = _masked(model.model_dump())
    return shown


def _masked(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return MASK
    if isinstance(value, str):
        return mask_text(value)
    if isinstance(value, Mapping):
        return {
            key: MASK if is_secret_name(key) and isinstance(item, str) else _masked(item) for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_masked(item) for item in value]
    return value
