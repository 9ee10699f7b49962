"""What a pipeline stands on, and whether each of it answers: for `cdc health`.

Every check is bounded by `TIMEOUT_SECONDS` and they run side by side, so a machine that swallows packets costs one
timeout; the time that a busy machine takes to load libraries isn't part of it. A component is `up`, or `down` with the
reason in its `detail`.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx

from config.errors import ConfigurationError, LakewardError
from config.masking import mask_text
from config.pipeline import PipelineConfig, SinkConfig
from config.platform import ConnectorConfig, KafkaConfig, PlatformConfig
from sinks.factory import plan_tables
from sources.debezium.client import DebeziumClient
from sources.debezium.source_database import source_database
from sources.kafka.provisioner import KafkaProvisioner

TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class Component:
    """One part: its name, its address, whether it is up, and its version, state or failure."""

    name: str
    address: str
    up: bool
    detail: str


@dataclass(frozen=True)
class Check:
    """How one part is looked at: `ask` returns what it says of itself, or raises a `LakewardError`."""

    name: str
    address: str
    ask: Callable[[], Awaitable[str]]


class Down(LakewardError):
    """A part answers, but not as it should."""


async def components(platform: PlatformConfig, pipeline: PipelineConfig | None = None) -> tuple[Component, ...]:
    """The state of every part, those of the pipeline too if one is given."""
    found = checks(platform, pipeline)
    if pipeline is not None:
        _load(pipeline)
    return tuple(await asyncio.gather(*(_look(check) for check in found)))


def _load(pipeline: PipelineConfig) -> None:
    for sink in pipeline.sinks:
        with suppress(ConfigurationError):  # its own check tells
            for plan in plan_tables(pipeline, {sink.sink_id}):
                plan.load()


def checks(platform: PlatformConfig, pipeline: PipelineConfig | None) -> list[Check]:
    """What there is to look at."""
    kafka = platform.kafka
    connect = platform.connector.model_copy(update={"retry_max_attempts": 1, "timeout_seconds": TIMEOUT_SECONDS})
    found = [Check("kafka", kafka.bootstrap_servers, partial(_kafka, kafka))]
    if connect.converter.startswith("avro"):
        found.append(Check("registry", kafka.schema_registry_url, partial(_registry, kafka)))
    found.append(Check("connect", connect.connect_url, partial(_connect, connect)))
    if pipeline is not None:
        name = f"connector {pipeline.pipeline_id}"
        found.append(Check(name, connect.connect_url, partial(_connector, connect, pipeline.pipeline_id)))
        database = source_database(pipeline)
        found.append(Check("source", database.address, database.version))
        found += [
            Check(f"sink {sink.sink_id}", _address(sink), partial(_sink, pipeline, sink))
            for sink in pipeline.sinks
            if sink.enabled
        ]
    return found


async def _look(check: Check) -> Component:
    try:
        detail = await asyncio.wait_for(check.ask(), TIMEOUT_SECONDS)
    except TimeoutError:
        return Component(check.name, check.address, False, f"no answer within {TIMEOUT_SECONDS:g} s")
    except LakewardError as error:
        return Component(check.name, check.address, False, str(error))
    except Exception as error:  # reported as this part's state: the report must show the other parts too
        return Component(check.name, check.address, False, f"{type(error).__name__}: {error}")
    return Component(check.name, check.address, True, detail)


async def _kafka(kafka: KafkaConfig) -> str:
    topics = await KafkaProvisioner(kafka, timeout_seconds=TIMEOUT_SECONDS).existing()
    return f"{len(topics)} topics"


async def _registry(kafka: KafkaConfig) -> str:
    user, secret = kafka.schema_registry_username, kafka.schema_registry_password
    login = None if user is None or secret is None else (user, secret.get_secret_value())
    async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS, auth=login) as http:
        try:
            response = await http.get(f"{kafka.schema_registry_url.rstrip('/')}/config")
            level = response.raise_for_status().json()["compatibilityLevel"]
        except httpx.HTTPError as error:
            raise Down(f"schema registry at {kafka.schema_registry_url}: {error or type(error).__name__}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise Down(
                f"what answers at {kafka.schema_registry_url} is no schema registry with the Confluent API"
                " (Apicurio: …/apis/ccompat/v7)"
            ) from error
    return f"compatibility {level}"


async def _connect(connect: ConnectorConfig) -> str:
    async with DebeziumClient.from_config(connect) as client:
        return f"Kafka Connect {await client.version()}"


async def _connector(connect: ConnectorConfig, name: str) -> str:
    async with DebeziumClient.from_config(connect) as client:
        status = await client.status(name)
    if status is None:
        raise Down("not deployed: `cdc deploy` creates it")
    if status.failure is not None:
        raise Down(status.failure)
    states = ", ".join(f"task {task.id} {task.state}" for task in status.tasks) or "no task"
    if not status.running:
        raise Down(f"{status.state}; {states}")
    return f"{status.state}; {states}"


async def _sink(pipeline: PipelineConfig, sink: SinkConfig) -> str:
    """Open every table of the sink as a worker would, which creates nothing."""
    plans = plan_tables(pipeline, {sink.sink_id})

    def open_all() -> str:
        with tempfile.TemporaryDirectory(prefix="lakeward-health-") as folder:
            for plan in plans:
                writer = plan.create(Path(folder))
                try:
                    writer.open()
                finally:
                    writer.close()
        return f"{len(plans)} table(s) can be opened"

    return await _in_thread(open_all)


async def _in_thread(work: Callable[[], str]) -> str:
    """Run blocking work in a thread that nobody waits for: a catalog that hangs must not keep the command alive."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[str] = loop.create_future()

    def settle(result: str | None, error: Exception | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result or "")

    def body() -> None:
        try:
            result, error = work(), None
        except Exception as caught:  # carried to the waiting side, which raises it
            result, error = None, caught
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=body, name="health", daemon=True).start()
    return await done


def _address(sink: SinkConfig) -> str:
    """Where a sink's tables are, without anything secret."""
    if sink.iceberg is not None:
        return mask_text(sink.iceberg.catalog_uri)
    if sink.delta is not None:
        return mask_text(sink.delta.table_uri)
    return sink.sink_type
