"""`cdc run`: deploy what is missing, then become the worker (the same one as `faust -A app worker`)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from app.commands.deploy import deploy


@click.command()
@click.argument("pipeline", type=click.Path(path_type=Path))
@click.option(
    "--platform-config", type=click.Path(path_type=Path), help="platform.yaml; default: ./platform.yaml if there."
)
@click.option("--loglevel", default="info", show_default=True, help="The worker's log level.")
@click.option("--web-port", type=int, help="Port of the web view; default: health_port.")
@click.option("--deploy/--no-deploy", "deploying", default=True, show_default=True, help="Create topics and connector.")
@click.pass_context
def run(
    ctx: click.Context,
    pipeline: Path,
    platform_config: Path | None,
    loglevel: str,
    web_port: int | None,
    deploying: bool,
) -> None:
    """Deploy if needed and run the worker of PIPELINE until it is stopped."""
    if deploying:
        ctx.invoke(deploy, pipeline=pipeline, platform_config=platform_config)
    environment = {**os.environ, "CDC_PIPELINE": str(pipeline)}
    if platform_config is not None:
        environment["CDC_PLATFORM"] = str(platform_config)
    command = [sys.executable, "-m", "faust", "-A", "app", "worker", "-l", loglevel]
    if web_port is not None:
        command += ["--web-port", str(web_port)]
    os.execve(sys.executable, command, environment)
