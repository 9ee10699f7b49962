"""The agent `schemas` under Faust's own test context, over a registry in memory that can be away or change its mind."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import faust
import httpx
import pytest
from structlog.testing import capture_logs

from agents.schema import AGENT_NAME, SchemaWatch, register_schema_agent, subjects_of
from config.errors import ConfigurationError, PipelineStopped, Unavailable
from config.registry import CompatibilityMode, SchemaRegistryConfig
from sources.schema_registry import SchemaRegistry
from tables.schema_versions import KEPT_VERSIONS, SeenVersion, parsed, stored

VALUE = "cdc.public.t-value"


class Registry:
    """The answers of a registry: versions by subject; `breaks` are (new, old) pairs of schemas that aren't compatible;
    `status`, if set, is what every request gets; with `away` none gets an answer."""

    def __init__(self) -> None:
        self.subjects: dict[str, dict[int, str]] = {}
        self.breaks: set[tuple[str, str]] = set()
        self.modes: dict[str, str] = {}
        self.away = False
        self.status: int | None = None
        self.asked: list[str] = []

    def register(self, subject: str, *schemas: str) -> None:
        versions = self.subjects.setdefault(subject, {})
        for schema in schemas:
            versions[max(versions, default=0) + 1] = schema

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(f"{request.method} {request.url.path}")
        if self.away:
            raise httpx.ConnectError("no route", request=request)
        if self.status is not None:
            return httpx.Response(self.status, text="as told")
        match request.url.path.strip("/").split("/"):
            case ["subjects", subject, "versions"] if subject in self.subjects:
                return httpx.Response(200, json=list(self.subjects[subject]))
            case ["subjects", subject, "versions", number] if int(number) in self.subjects.get(subject, {}):
                schema = self.subjects[subject][int(number)]
                return httpx.Response(200, json={"id": 100 + int(number), "schema": schema})
            case ["config", subject]:
                if request.method == "PUT":
                    self.modes[subject] = json.loads(request.content)["compatibility"]
                    return httpx.Response(200, json={"compatibility": self.modes[subject]})
                return httpx.Response(200, json={"compatibilityLevel": self.modes.get(subject, "BACKWARD")})
            case ["compatibility", "subjects", subject, "versions", number]:
                pair = json.loads(request.content)["schema"], self.subjects[subject][int(number)]
                return httpx.Response(200, json={"is_compatible": pair not in self.breaks})
        return httpx.Response(404, json={"error_code": 40401})

    def client(self, retries: int = 0) -> SchemaRegistry:
        config = SchemaRegistryConfig(url="http://registry", max_retries=retries)
        return SchemaRegistry(config, transport=httpx.MockTransport(self.answer), wait=lambda _: 0.0)


class Running:
    """A pipeline as far as the agent knows it."""

    def __init__(self) -> None:
        self.failures: list[BaseException] = []

    async def fail(self, error: BaseException, **context: str) -> None:
        assert context == {"agent": AGENT_NAME}
        self.failures.append(error)


@pytest.fixture
def registry() -> Registry:
    return Registry()


def watch(registry: Registry, table: dict[str, Any], **options: Any) -> SchemaWatch:
    return SchemaWatch(registry.client(), table, subjects_of(["cdc.public.t"]), **options)


def told(logs: list[Any]) -> list[tuple[str, str, Any, int, bool]]:
    """(level, event, previous version, new version, compatible) of the promised events."""
    return [
        (e["log_level"], e["event"], e["previous_version"], e["new_version"], e["compatible"])
        for e in logs
        if e["event"] in ("schema.version_changed", "schema.incompatible_change_detected")
    ]


async def looks(watching: SchemaWatch) -> list[Any]:
    with capture_logs() as logs:
        await watching.look()
    return list(logs)


def versions(table: dict[str, Any], subject: str = VALUE) -> list[tuple[int, int, bool | None]]:
    return [(v.version, v.schema_id, v.compatible) for v in parsed(table.get(subject)) or ()]


async def test_what_is_there_at_first_is_the_baseline_and_what_comes_is_told_once(registry: Registry) -> None:
    table: dict[str, Any] = {}
    registry.register(VALUE, "a", "b")
    watching = watch(registry, table)
    assert told(await looks(watching)) == []
    registry.register(VALUE, "c", "d")
    registry.register("cdc.public.t-key", "k")
    assert told(await looks(watching)) == [
        ("info", "schema.version_changed", 2, 3, True),
        ("info", "schema.version_changed", 3, 4, True),
    ]
    assert told(await looks(watching)) == []
    assert versions(table) == [(1, 101, None), (2, 102, None), (3, 103, True), (4, 104, True)]
    assert versions(table, "cdc.public.t-key") == [(1, 101, None)]


async def test_what_was_registered_while_the_worker_was_away_is_told_after_its_restart(registry: Registry) -> None:
    table: dict[str, Any] = {}
    registry.register(VALUE, "a")
    await looks(watch(registry, table))
    registry.register(VALUE, "b")
    assert told(await looks(watch(registry, table))) == [("info", "schema.version_changed", 1, 2, True)]


@pytest.mark.parametrize("mode", ["BACKWARD", "FORWARD", "FULL", "NONE"])
@pytest.mark.parametrize("transitive", [False, True])
async def test_versions_before_the_last_count_in_transitive_modes_only(
    registry: Registry, mode: str, transitive: bool
) -> None:
    table: dict[str, Any] = {}
    registry.register(VALUE, "a", "b")
    registry.modes[VALUE] = f"{mode}_TRANSITIVE" if transitive else mode
    if registry.modes[VALUE] == "NONE_TRANSITIVE":
        registry.modes[VALUE] = "UNKNOWN"
    registry.breaks = {("c", "a")}
    watching = watch(registry, table)
    await looks(watching)
    registry.register(VALUE, "c")
    logs = await looks(watching)
    if registry.modes[VALUE] == "UNKNOWN":
        assert told(logs) == []
        assert "the compatibility mode UNKNOWN is unknown" in str(logs)
    elif transitive:
        assert told(logs) == [
            ("warning", "schema.version_changed", 2, 3, False),
            ("error", "schema.incompatible_change_detected", 2, 3, False),
        ]
    else:
        assert told(logs) == [("info", "schema.version_changed", 2, 3, True)]


async def test_incompatible_version_stops_if_told_so_until_it_is_settled(registry: Registry) -> None:
    table: dict[str, Any] = {}
    registry.register(VALUE, "a")
    registry.breaks = {("b", "a")}
    await looks(watch(registry, table, stop=True))
    registry.register(VALUE, "b")
    for _ in range(2):  # a supervisor restarts the worker, which must not go on in silence
        with pytest.raises(
            PipelineStopped, match=rf"subject {VALUE}: version 2 \(schema id 102\).*Delete that version"
        ):
            await watch(registry, table, stop=True).look()
    await looks(watch(registry, table, stop=False))
    del registry.subjects[VALUE][2]
    await looks(watch(registry, table, stop=True))
    assert versions(table) == [(1, 101, None)]


async def test_compatible_version_after_an_incompatible_one_settles_it(registry: Registry) -> None:
    table: dict[str, Any] = {}
    registry.register(VALUE, "a")
    registry.breaks = {("b", "a")}
    await looks(watch(registry, table))
    registry.register(VALUE, "b", "a again")
    await looks(watch(registry, table, stop=True))
    assert versions(table)[1:] == [(2, 102, False), (3, 103, True)]


@pytest.mark.parametrize("status", [None, 500, 401, 429])
async def test_registry_that_is_away_never_stops_and_is_asked_again(registry: Registry, status: int | None) -> None:
    table: dict[str, Any] = {}
    registry.register(VALUE, "a")
    watching = watch(registry, table, stop=True)
    await looks(watching)
    registry.register(VALUE, "b")
    registry.away, registry.status = status is None, status
    logs = await looks(watching)
    assert {entry["log_level"] for entry in logs} == {"debug"}
    registry.away, registry.status = False, None
    assert told(await looks(watching)) == [("info", "schema.version_changed", 1, 2, True)]


async def test_registry_that_goes_away_in_the_middle_tells_nothing_twice(registry: Registry) -> None:
    table: dict[str, Any] = {}
    registry.register(VALUE, "a")
    watching = watch(registry, table)
    await looks(watching)
    registry.register(VALUE, "b", "c")
    answer = registry.answer

    def until_c(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("versions/3"):
            raise httpx.ReadTimeout("slow", request=request)
        return answer(request)

    registry.answer = until_c  # type: ignore[method-assign]
    broken = SchemaWatch(registry.client(), table, [VALUE])
    assert [entry[3] for entry in told(await looks(broken))] == [2]
    assert [entry[3] for entry in told(await looks(watching))] == [3]


async def test_mode_of_the_configuration_is_set_once_per_subject_that_is_there(registry: Registry) -> None:
    mode: CompatibilityMode = "FULL_TRANSITIVE"
    watching = watch(registry, {}, mode=mode)
    await looks(watching)
    assert registry.modes == {}
    registry.register(VALUE, "a")
    await looks(watching)
    await looks(watching)
    assert registry.modes == {VALUE: mode}
    assert registry.asked.count(f"PUT /config/{VALUE}") == 1


async def test_hundred_registrations_between_two_looks_are_all_told_and_the_newest_kept(registry: Registry) -> None:
    table: dict[str, Any] = {}
    registry.register(VALUE, "s")
    watching = watch(registry, table)
    await looks(watching)
    registry.register(VALUE, *(f"s{n}" for n in range(100)))
    assert [entry[3] for entry in told(await looks(watching))] == list(range(2, 102))
    assert [v.version for v in parsed(table[VALUE]) or ()] == list(range(102 - KEPT_VERSIONS, 102))
    assert told(await looks(watching)) == []


def agent_over(registry: Registry, new_watch: Callable[[Any], SchemaWatch], table: Any) -> tuple[faust.App, Running]:
    app = faust.App("schema-test", store="memory://", web_enabled=False, autodiscover=False)
    running = Running()
    register_schema_agent(app, table, new_watch, lambda: running, 30.0)  # type: ignore[arg-type,return-value]
    return app, running


async def test_agent_looks_at_each_tick_and_ends_the_worker_with_what_stops_it(registry: Registry) -> None:
    table: dict[str, Any] = {VALUE: stored([SeenVersion(1, 101, "2026-01-01T00:00:00+00:00")])}
    registry.register(VALUE, "a")
    registry.breaks = {("b", "a")}
    app, running = agent_over(registry, lambda found: watch(registry, found, stop=True), table)
    async with app.agents[AGENT_NAME].test_context() as agent:
        await agent.put("look")
        assert running.failures == []
        registry.register(VALUE, "b")
        with pytest.raises(PipelineStopped):
            await agent.put("look")
    assert [str(error) for error in running.failures] == [str(running.failures[0])]
    assert isinstance(running.failures[0], PipelineStopped)
    assert versions(table) == [(1, 101, None), (2, 102, False)]


async def test_client_tries_again_and_says_what_the_registry_said(registry: Registry) -> None:
    registry.status = 503
    with pytest.raises(Unavailable, match="http://registry, GET subjects/s/versions: HTTP 503, as told"):
        await registry.client(retries=3).versions("s")
    assert len(registry.asked) == 4
    registry.status = 401
    with pytest.raises(ConfigurationError, match=r"credentials are refused.*schema_registry_username"):
        await registry.client().versions("s")
    registry.status = 200
    with pytest.raises(Unavailable, match="the answer isn't JSON: as told"):
        await registry.client().versions("s")
