"""`cdc validate`: says all that is wrong with a configuration, or shows what it means."""

from __future__ import annotations

import json
import sys
from typing import Any

import click
import yaml
from rich.console import Console
from rich.table import Table

from config.environment import Settings, pipeline_file, platform_file
from config.errors import ConfigurationError
from config.event_sinks import PostgresSinkConfig, WebhookConfig
from config.lake_sinks import DeltaConfig, IcebergConfig
from config.loader import load_pipeline, load_platform
from config.masking import mask_text, masked
from config.mistakes import InvalidFile
from config.pipeline import PipelineConfig, check_supported
from config.platform import PlatformConfig
from config.sink import SinkConfig

PLAIN_WIDTH = 160
"""Columns where the output isn't a terminal: a table squeezed into 80 would break its names."""


@click.command()
@click.argument("pipeline", required=False, type=click.Path())
@click.option("--platform-config", type=click.Path(), help="Platform file; default: CDC_PLATFORM, ./platform.yaml.")
@click.option("--show", is_flag=True, help="Print the effective configuration too, secrets masked.")
@click.option("--format", "output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def validate(pipeline: str | None, platform_config: str | None, show: bool, output: str) -> None:
    """Check a pipeline file (default: CDC_PIPELINE, ./pipeline.yaml) and show what it captures and where it goes.

    Exit status 1 if anything is wrong; every mistake is named at once.
    """
    settings, errors = _load(pipeline, platform_config)
    if settings is None or errors:
        _report(errors, output)
        sys.exit(1)
    if output == "json":
        click.echo(json.dumps(_summary(settings), indent=2, ensure_ascii=False))
        return
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)
    _print_tables(console, settings)
    if show:
        for title, model in (("pipeline", settings.pipeline), ("platform", settings.platform)):
            click.echo(f"\n# effective {title} configuration")
            click.echo(yaml.safe_dump(masked(model), sort_keys=False, allow_unicode=True).rstrip())


def _load(pipeline: str | None, platform: str | None) -> tuple[Settings | None, list[ConfigurationError]]:
    """Both files, so that the mistakes of one don't hide those of the other."""
    errors: list[ConfigurationError] = []
    loaded_pipeline: PipelineConfig | None = None
    loaded_platform: PlatformConfig | None = None
    try:
        path = pipeline_file(pipeline)
        loaded_pipeline = load_pipeline(path)
        check_supported(loaded_pipeline)
    except ConfigurationError as error:
        errors.append(error)
    try:
        loaded_platform = load_platform(platform_file(platform))
    except ConfigurationError as error:
        errors.append(error)
    if loaded_pipeline is None or loaded_platform is None:
        return None, errors
    return Settings(loaded_pipeline, loaded_platform, path), errors


def _report(errors: list[ConfigurationError], output: str) -> None:
    if output == "json":
        mistakes: list[dict[str, Any]] = []
        for error in errors:
            if isinstance(error, InvalidFile):
                mistakes.extend(vars(mistake) for mistake in error.mistakes)
            else:
                mistakes.append({"file": None, "line": None, "path": None, "message": str(error)})
        click.echo(json.dumps({"valid": False, "mistakes": mistakes}, indent=2, ensure_ascii=False))
        return
    for error in errors:
        click.secho(str(error), fg="red", err=True)


def _destinations(pipeline: PipelineConfig, sink: SinkConfig) -> dict[str, str]:
    """Source table -> destination, for the tables that the sink captures."""
    found = {}
    for table in filter(sink.captures, pipeline.source.tables):
        schema, name = table.rsplit(".", 1)
        match sink.settings:
            case IcebergConfig() | DeltaConfig() as lake:
                found[table] = lake.target_name(schema, name, pipeline.topic_prefix)
            case WebhookConfig() as webhook:
                found[table] = mask_text(webhook.url)
            case PostgresSinkConfig() as other:
                found[table] = other.target_table
    return found


def _summary(settings: Settings) -> dict[str, Any]:
    pipeline, platform = settings.pipeline, settings.platform
    return {
        "valid": True,
        "pipeline_id": pipeline.pipeline_id,
        "transport_mode": platform.transport_mode,
        "group": settings.app_id,
        "topics": list(pipeline.topics),
        "tables": list(pipeline.source.tables),
        "sinks": [
            {
                "sink_id": sink.sink_id,
                "sink_type": sink.sink_type,
                "enabled": sink.enabled,
                "write_mode": getattr(sink.settings, "write_mode", None),
                "destinations": _destinations(pipeline, sink),
            }
            for sink in pipeline.sinks
        ],
        "configuration": {"pipeline": masked(pipeline), "platform": masked(platform)},
    }


def _print_tables(console: Console, settings: Settings) -> None:
    pipeline, platform = settings.pipeline, settings.platform
    source = pipeline.source
    console.print(f"[bold green]valid[/]  pipeline [bold]{pipeline.pipeline_id}[/]  ({settings.pipeline_path})")
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_row("transport mode", platform.transport_mode)
    facts.add_row("source", f"{source.source_type} {source.host}:{source.port}/{source.database}")
    facts.add_row("broker", platform.kafka.bootstrap_servers)
    facts.add_row("registry", mask_text(platform.kafka.schema_registry_url))
    facts.add_row("connect", f"{mask_text(platform.connector.connect_url)} ({platform.connector.converter})")
    facts.add_row("consumer group", settings.app_id)
    console.print(facts)
    topics = Table("table", "topic", "dead letters", title="captured", title_justify="left")
    for table in source.tables:
        topic = pipeline.topic(table)
        dead_letters = pipeline.dlq_topic(topic, platform.dlq.topic_suffix) if platform.dlq.enabled else "none: stops"
        topics.add_row(table, topic, dead_letters)
    console.print(topics)
    sinks = Table("sink", "type", "mode", "table", "goes to", title="sinks", title_justify="left")
    for sink in pipeline.sinks:
        first = [sink.sink_id if sink.enabled else f"{sink.sink_id} (disabled)", sink.sink_type]
        first.append(getattr(sink.settings, "write_mode", "events"))
        for table, destination in _destinations(pipeline, sink).items():
            sinks.add_row(*first, table, destination)
            first = ["", "", ""]
        sinks.add_section()
    console.print(sinks)
