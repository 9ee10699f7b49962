"""The schema watch over a real registry: what each compatibility mode says, many registrations, and none at all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from time import monotonic
from typing import Any
from uuid import uuid4

import httpx
import pytest
from structlog.testing import capture_logs

from agents.schema import SchemaWatch
from config.errors import PipelineStopped, Unavailable
from config.registry import CompatibilityMode, SchemaRegistryConfig
from sources.schema_registry import SchemaRegistry
from stack.manager import Endpoint
from stack.ports import free_port
from tables.schema_versions import parsed


def record(**columns: Any) -> str:
    """An Avro record with these columns; a list of a type and a default is a column with that default."""
    fields = [
        {"name": name, "type": kind[0], "default": kind[1]} if isinstance(kind, list) else {"name": name, "type": kind}
        for name, kind in columns.items()
    ]
    return json.dumps({"type": "record", "name": "Value", "fields": fields})


PLAIN = record(id="long")
REQUIRED = record(id="long", a="string")
OPTIONAL = record(id="long", a=["string", ""])
RETYPED = record(id="string")

# Avro's rules of resolution: without a default, a column that came can't be read from older records, and one that went
# can't be read by older readers.
STEPS: list[tuple[str, list[str], set[str]]] = [
    ("add a required column", [PLAIN, REQUIRED], {"BACKWARD", "FULL"}),
    ("add an optional column", [PLAIN, OPTIONAL], set()),
    ("drop a required column", [REQUIRED, PLAIN], {"FORWARD", "FULL"}),
    ("drop an optional column", [OPTIONAL, PLAIN], set()),
    ("another type", [PLAIN, RETYPED], {"BACKWARD", "FORWARD", "FULL"}),
]
MODES: list[CompatibilityMode] = [
    "BACKWARD", "BACKWARD_TRANSITIVE", "FORWARD", "FORWARD_TRANSITIVE", "FULL", "FULL_TRANSITIVE", "NONE"
]  # fmt: skip


class Registry:
    """The real one, as a connector's converter uses it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = httpx.AsyncClient(base_url=url, timeout=30)

    async def register(self, subject: str, schema: str) -> int:
        answer = await self._client.post(f"subjects/{subject}/versions", json={"schema": schema})
        answer.raise_for_status()
        found: int = answer.json()["id"]
        return found

    async def close(self) -> None:
        await self._client.aclose()

    def client(self) -> SchemaRegistry:
        return SchemaRegistry(SchemaRegistryConfig(url=self.url, max_retries=0))


@pytest.fixture
async def real(registry: Endpoint) -> AsyncIterator[Registry]:
    found = Registry(registry.url)
    yield found
    await found.close()


@pytest.fixture
def subject() -> str:
    return f"s{uuid4().hex[:10]}-value"


async def look(watch: SchemaWatch) -> list[tuple[str, int, bool]]:
    with capture_logs() as logs:
        await watch.look()
    return [(e["event"], e["new_version"], e["compatible"]) for e in logs if "new_version" in e]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("_what", "schemas", "refusing"), STEPS, ids=[step[0].replace(" ", "-") for step in STEPS])
async def test_registry_judges_each_step_by_the_subjects_mode(
    real: Registry, subject: str, mode: CompatibilityMode, _what: str, schemas: list[str], refusing: set[str]
) -> None:
    """The step is registered while nothing is enforced, as by a connector whose registry has no rule."""
    table: dict[str, Any] = {}
    client = real.client()
    watch = SchemaWatch(client, table, [subject], stop=True)
    try:
        await real.register(subject, schemas[0])
        await client.set_mode(subject, "NONE")
        await watch.look()
        await real.register(subject, schemas[1])
        await client.set_mode(subject, mode)
        assert await client.mode(subject) == mode
        if mode.removesuffix("_TRANSITIVE") in refusing:
            with pytest.raises(PipelineStopped, match=f"subject {subject}: version 2 "):
                await watch.look()
        else:
            assert await look(watch) == [("schema.version_changed", 2, True)]
        assert [v.compatible for v in parsed(table[subject]) or ()] == [
            None,
            mode.removesuffix("_TRANSITIVE") not in refusing,
        ]
    finally:
        await watch.close()


@pytest.mark.parametrize(("mode", "compatible"), [("BACKWARD", True), ("BACKWARD_TRANSITIVE", False)])
async def test_transitive_mode_looks_at_versions_before_the_last(
    real: Registry, subject: str, mode: CompatibilityMode, compatible: bool
) -> None:
    """A required column that an optional one went before: readable from the last version, not from the first."""
    table: dict[str, Any] = {}
    client = real.client()
    watch = SchemaWatch(client, table, [subject])
    try:
        await real.register(subject, PLAIN)
        await client.set_mode(subject, "NONE")
        await watch.look()
        await real.register(subject, OPTIONAL)
        await real.register(subject, REQUIRED)
        await client.set_mode(subject, mode)
        told = await look(watch)
        assert [(version, fits) for event, version, fits in told if event == "schema.version_changed"] == [
            (2, True),
            (3, compatible),
        ]
        assert ("schema.incompatible_change_detected", 3, False) in told or compatible
    finally:
        await watch.close()


async def test_wanted_mode_is_enforced_from_the_first_look_on(real: Registry, subject: str) -> None:
    watch = SchemaWatch(real.client(), {}, [subject], mode="BACKWARD")
    try:
        await real.register(subject, PLAIN)
        await watch.look()
        with pytest.raises(httpx.HTTPStatusError, match="409"):
            await real.register(subject, RETYPED)
        await real.register(subject, OPTIONAL)
    finally:
        await watch.close()


async def test_registry_takes_a_hundred_registrations_a_minute_and_all_are_told(real: Registry, subject: str) -> None:
    """From ten writers at once, while the watch looks."""
    table: dict[str, Any] = {}
    client = real.client()
    watch = SchemaWatch(client, table, [subject])
    told: list[tuple[str, int, bool]] = []
    try:
        await real.register(subject, PLAIN)
        await watch.look()
        began = monotonic()
        columns = [record(id="long", **{f"c{n}": ["string", ""]}) for n in range(100)]

        async def write(share: list[str]) -> None:
            for schema in share:
                await real.register(subject, schema)

        writing = asyncio.gather(*(write(columns[n::10]) for n in range(10)))
        while not writing.done():
            told += await look(watch)
        await writing
        assert monotonic() - began < 60
        told += await look(watch)
        assert sorted(version for _, version, _ in told) == (await client.versions(subject))[1:]
        assert len(told) == 100
    finally:
        await watch.close()


async def test_registry_that_is_not_there_stops_nothing(closed_port: int) -> None:
    gone = SchemaRegistryConfig(url=f"http://127.0.0.1:{closed_port}", max_retries=1, timeout_seconds=1)
    watch = SchemaWatch(SchemaRegistry(gone), {}, ["t-value"], stop=True)
    with capture_logs() as logs:
        await watch.look()
    assert [(entry["log_level"], entry["event"]) for entry in logs] == [("debug", "schema.registry_unavailable")]
    await watch.close()
    client = SchemaRegistry(gone)
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1.*GET subjects/t-value/versions"):
        await client.versions("t-value")
    await client.close()


@pytest.fixture
def closed_port() -> int:
    return free_port()
