"""Deploying a pipeline: its topics and its Debezium connector, and taking them away again. Both are idempotent.

deploy     source looked at -> topics -> connector created, updated or restarted -> it and its tasks run
undeploy   connector's offsets forgotten -> connector deleted -> slot and publication dropped -> topics, if wanted
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from config.errors import ConfigurationError, Unavailable
from config.pipeline import PipelineConfig
from config.platform import PlatformConfig
from sources.debezium.client import DebeziumClient
from sources.debezium.connect_errors import ConnectorExists, ConnectorMissing
from sources.debezium.connectors import connector_for, internal_topics
from sources.debezium.source_database import capture_problems, not_logged, source_database
from sources.debezium.source_types import SourceColumn
from sources.kafka.provisioner import wanted_topics
from sources.protocols import TopicOutcome
from sources.registry import transport_for
from sources.retries import retrying

Say = Callable[[str], None]
"""Takes one line for the user."""

RUNNING_TIMEOUT_SECONDS = 90.0

STEADY_SECONDS = 1.0
"""How long a connector must run to count: some errors show only when streaming begins."""


async def deploy(pipeline: PipelineConfig, platform: PlatformConfig, say: Say, warn: Say) -> None:
    """Create what is missing and wait until the connector and its tasks run.

    Raises ConfigurationError with what the source, Kafka or Connect said, Unavailable when one of them is away.
    """
    async with DebeziumClient.from_config(platform.connector) as connect:
        current = await connect.get(pipeline.pipeline_id)
        columns = await _look_at_source(pipeline, platform, warn, connector_exists=current is not None)
        left_out = not_logged(columns)
        for table, column in left_out:
            warn(f"{table}: column {column} is generated: it is left out, since the source's log doesn't have it")
        config = connector_for(pipeline, platform, left_out).to_connector_config()
        await _ensure_topics(pipeline, platform, say, warn)
        await _ensure_connector(connect, pipeline.pipeline_id, current, config, say, warn)
        status = await connect.wait_until_running(pipeline.pipeline_id, RUNNING_TIMEOUT_SECONDS, steady=STEADY_SECONDS)
        say(f"connector {status.name}: {status.state}, {len(status.tasks)} task(s) RUNNING at {connect.address}")


async def undeploy(pipeline: PipelineConfig, platform: PlatformConfig, say: Say) -> None:
    """Delete the connector and what it left at the source. Topics and sink tables stay."""
    name = pipeline.pipeline_id
    async with DebeziumClient.from_config(platform.connector) as connect:
        try:
            # Connect keeps a deleted connector's offsets: the next one of this name would go on from a position
            # whose changes are no longer there, instead of reading the tables anew.
            await connect.reset_offsets(name)
        except ConnectorMissing:
            say(f"connector {name}: not there")
        else:
            await connect.ensure_deleted(name)
            say(f"connector {name}: deleted")
    for dropped in await source_database(pipeline).release():
        say(f"{dropped}: dropped")


async def deployed_topics(pipeline: PipelineConfig, platform: PlatformConfig) -> tuple[str, ...]:
    """The pipeline's topics that exist: of its tables, their dead letters, and the connector's own."""
    names = [spec.name for spec in wanted_topics(pipeline, platform)] + list(internal_topics(pipeline))
    existing = await transport_for(platform).provisioner().existing()
    return tuple(name for name in names if name in existing)


async def remove_topics(platform: PlatformConfig, topics: Sequence[str], say: Say) -> None:
    """Delete topics, with all that is in them."""
    for topic in await transport_for(platform).provisioner().remove(topics):
        say(f"topic {topic}: deleted")


async def _look_at_source(
    pipeline: PipelineConfig, platform: PlatformConfig, warn: Say, *, connector_exists: bool
) -> Mapping[str, Sequence[SourceColumn]]:
    """The columns of the captured tables."""
    database = source_database(pipeline)
    try:
        columns = await database.columns()
        problems, warnings = await capture_problems(
            database, columns, pipeline, platform, connector_exists=connector_exists
        )
    except Unavailable as error:
        # Connect may reach a database that this machine doesn't; if it doesn't either, it says so itself.
        warn(f"{error}; going on, Connect will try it")
        return {}
    for warning in warnings:
        warn(warning)
    if problems:
        raise ConfigurationError("the source can't be captured as it is:\n" + "\n".join(f"  {p}" for p in problems))
    return columns


async def _ensure_topics(pipeline: PipelineConfig, platform: PlatformConfig, say: Say, warn: Say) -> None:
    provisioner = transport_for(platform).provisioner()
    outcomes: tuple[TopicOutcome, ...] = ()
    service = f"Kafka at {platform.kafka.bootstrap_servers}"
    retry = platform.retry
    async for attempt in retrying(service, retry.max_attempts, retry.initial_wait_seconds, retry.max_wait_seconds):
        with attempt:
            outcomes = await provisioner.ensure(wanted_topics(pipeline, platform))
    for outcome in outcomes:
        spec = outcome.spec
        if outcome.created:
            say(f"topic {spec.name}: created, {spec.partitions} partition(s)")
        elif outcome.partitions != spec.partitions:
            warn(
                f"topic {spec.name}: exists with {outcome.partitions} partition(s), kept"
                f" (kafka.topic_num_partitions is {spec.partitions}: a key's partition depends on their number)"
            )
        else:
            say(f"topic {spec.name}: exists")


async def _ensure_connector(
    connect: DebeziumClient,
    name: str,
    current: Mapping[str, str] | None,
    config: Mapping[str, str],
    say: Say,
    warn: Say,
) -> None:
    if current is None:
        try:
            await connect.create(name, config)
        except ConnectorExists:
            # Another deploy was faster.
            await connect.update(name, config)
        say(f"connector {name}: created")
        return
    changed = sorted(key for key in {*current, *config} - {"name"} if current.get(key) != config.get(key))
    added = _added_tables(current, config)
    if added:
        warn(
            f"connector {name}: {', '.join(added)} will be captured from now on, without the rows that are there"
            " already; for those too, `cdc undeploy` and `cdc deploy` (all tables are read anew)"
        )
    if changed:
        await connect.update(name, config)
        say(f"connector {name}: updated ({', '.join(changed)})")
    else:
        say(f"connector {name}: exists")
    await _revive(connect, name, say)


async def _revive(connect: DebeziumClient, name: str, say: Say) -> None:
    """Connect leaves failed, paused and stopped connectors as they are."""
    status = await connect.status(name)
    if status is None:
        return
    if status.state in ("PAUSED", "STOPPED"):
        await connect.resume(name)
        say(f"connector {name}: was {status.state}, resumed")
    elif status.failure is not None:
        await connect.restart(name, only_failed=True)
        say(f"connector {name}: restarted, because {status.failure}")


def _added_tables(current: Mapping[str, str], config: Mapping[str, str]) -> list[str]:
    key = "table.include.list"
    before = set(current.get(key, "").split(","))
    return [table.replace("\\", "") for table in config[key].split(",") if table not in before]
