"""`cdc health`: whether everything answers that a pipeline stands on."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from app.commands.options import pipeline_argument, platform_option, run
from app.health import Component, components
from config.environment import load_settings, platform_file
from config.loader import load_platform


@click.command()
@pipeline_argument(required=False)
@platform_option()
@click.option("--format", "style", type=click.Choice(["table", "json"]), default="table", show_default=True)
def health(pipeline: Path | None, platform_config: Path | None, style: str) -> None:
    """Show the state of Kafka, the schema registry and Kafka Connect; with PIPELINE also of its connector, source
    and sinks. Exit status 1 if one of them is down.
    """
    if pipeline is None:
        found = run(components(load_platform(platform_file(platform_config))))
    else:
        settings = load_settings(pipeline, platform_config)
        found = run(components(settings.platform, settings.pipeline))
    healthy = all(component.up for component in found)
    if style == "json":
        report = {"healthy": healthy, "components": [asdict(component) for component in found]}
        click.echo(json.dumps(report, ensure_ascii=False, indent=2))
    else:
        _print_table(found)
    if not healthy:
        sys.exit(1)


def _print_table(found: tuple[Component, ...]) -> None:
    names = max(len(component.name) for component in found)
    addresses = max(len(component.address) for component in found)
    for component in found:
        state = click.style("up  ", fg="green") if component.up else click.style("down", fg="red")
        click.echo(f"{state}  {component.name:<{names}}  {component.address:<{addresses}}  {component.detail}")
