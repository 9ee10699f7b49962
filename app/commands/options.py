"""What commands have in common: where their files come from, logging to stderr, and running a coroutine."""

from __future__ import annotations

import asyncio
import logging.config
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click

from app.logging import configure_structlog, logging_config

_F = TypeVar("_F", bound=Callable[..., Any])
_T = TypeVar("_T")

_FILE = click.Path(dir_okay=False, path_type=Path)


def pipeline_argument(*, required: bool = True) -> Callable[[_F], _F]:
    """PIPELINE, the path of a pipeline file."""
    return click.argument("pipeline", type=_FILE, required=required)


def platform_option() -> Callable[[_F], _F]:
    """`--platform-config`, the path of a platform file."""
    return click.option(
        "--platform-config", type=_FILE, help="platform.yaml; default: CDC_PLATFORM, else ./platform.yaml if there."
    )


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a command's work. What is waited for is logged to stderr; stdout is the command's own."""
    configure_structlog()
    config = logging_config("WARNING")
    # aiokafka logs each refused connection with its own words; the command says it once, in ours.
    config["loggers"]["aiokafka"] = {"level": "CRITICAL"}
    logging.config.dictConfig(config)
    return asyncio.run(work)
