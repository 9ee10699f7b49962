"""`cdc deploy` and `cdc undeploy`: a pipeline's topics and its Debezium connector."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from app.commands.options import pipeline_argument, platform_option, run
from app.deployment import deploy as deploy_pipeline
from app.deployment import deployed_topics, remove_topics
from app.deployment import undeploy as undeploy_pipeline
from config.environment import Settings, load_settings


def _warn(line: str) -> None:
    click.secho(line, fg="yellow", err=True)


@click.command()
@pipeline_argument()
@platform_option()
def deploy(pipeline: Path, platform_config: Path | None) -> None:
    """Create the topics, dead-letter topics and the Debezium connector of PIPELINE, and wait until it runs.

    What exists is kept; a connector whose configuration differs is updated, a failed one restarted.
    """
    settings = load_settings(pipeline, platform_config)
    run(deploy_pipeline(settings.pipeline, settings.platform, click.echo, _warn))


@click.command()
@pipeline_argument()
@platform_option()
@click.option("--yes", is_flag=True, help="Answer yes: remove the topics too, without asking.")
@click.option(
    "--delete-topics/--keep-topics", "delete_topics", default=None, help="Remove the topics or keep them; default: ask."
)
def undeploy(pipeline: Path, platform_config: Path | None, yes: bool, delete_topics: bool | None) -> None:
    """Delete the connector of PIPELINE with its replication slot and publication, and, if wanted, its topics.

    Sink tables are never touched.
    """
    settings = load_settings(pipeline, platform_config)
    run(undeploy_pipeline(settings.pipeline, settings.platform, click.echo))
    if delete_topics is False:
        return
    topics = run(deployed_topics(settings.pipeline, settings.platform))
    if not topics:
        click.echo("topics: none left")
    elif delete_topics or yes or _confirmed(settings, topics):
        run(remove_topics(settings.platform, topics, click.echo))
    else:
        click.echo(f"topics: {len(topics)} kept")


def _confirmed(settings: Settings, topics: tuple[str, ...]) -> bool:
    if not sys.stdin.isatty():
        click.echo("topics: no terminal to ask at; --delete-topics removes them")
        return False
    click.echo("\n".join(f"  {topic}" for topic in topics))
    return click.confirm(
        f"Remove these {len(topics)} topics at {settings.platform.kafka.bootstrap_servers} and all that is in them?"
        " Sink tables keep their rows and offsets; new topics of these names need new tables."
    )
