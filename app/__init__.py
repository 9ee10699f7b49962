"""The application. `faust -A app worker` finds `app.app` here, built on first use from the environment's files."""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import faust

# The allocator of delta-rs and Polars keeps freed pages for 10 s, which after a large MERGE are hundreds of MB. It
# reads this when those libraries are loaded; a user's own setting wins.
os.environ.setdefault("_RJEM_MALLOC_CONF", "dirty_decay_ms:500,muzzy_decay_ms:0")


@cache
def _from_environment() -> faust.App:
    from app.factory import create_app
    from config.environment import load_settings
    from config.errors import ConfigurationError

    try:
        return create_app(load_settings())
    except ConfigurationError as error:
        # `faust -A app …` would print a traceback for what is one readable line.
        print(f"ConfigurationError: {error}", file=sys.stderr)  # noqa: T201 - logging isn't configured yet
        raise SystemExit(error.exit_status) from None


def __getattr__(name: str) -> Any:
    if name == "app":
        return _from_environment()
    raise AttributeError(name)
