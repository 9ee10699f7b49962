"""Faults of Kafka Connect: what is tried again, what isn't, and that its own message is always heard.

The network is replaced here because these answers can't be had on demand; everything else runs against a real
Connect in tests/integration/test_deploy.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import httpx
import pytest
from structlog.testing import capture_logs

from config.errors import ConfigurationError, Unavailable
from sources.debezium import DebeziumClient
from sources.debezium.connect_errors import (
    ConnectError,
    ConnectorExists,
    ConnectorFailed,
    ConnectorMissing,
    ConnectUnavailable,
    summarise_trace,
)

CONFIG = {"connector.class": "x", "tasks.max": "1"}
REBALANCING = "Cannot complete request momentarily due to stale configuration"


def answer(status: int, message: str) -> httpx.Response:
    return httpx.Response(status, json={"error_code": status, "message": message})


def client(handle: Callable[[httpx.Request], httpx.Response], attempts: int = 3) -> DebeziumClient:
    return DebeziumClient(
        "http://connect:8083",
        retry_max_attempts=attempts,
        retry_wait_seconds=0.001,
        transport=httpx.MockTransport(handle),
    )


def script(
    answers: Iterable[httpx.Response | Exception],
) -> tuple[Callable[[httpx.Request], httpx.Response], list[str]]:
    """A handler that gives these answers in turn, and the requests that it got."""
    queue, seen = iter(answers), []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(f"{request.method} {request.url.raw_path.decode()}")
        item = next(queue)
        if isinstance(item, Exception):
            raise item
        return item

    return handle, seen


@pytest.mark.parametrize(
    "fault",
    [
        httpx.ConnectError("All connection attempts failed"),
        httpx.ReadTimeout("timed out"),
        answer(500, "Request timed out"),
        answer(503, "starting"),
        answer(409, REBALANCING),
    ],
)
async def test_what_may_pass_is_tried_again_and_said(fault: httpx.Response | Exception) -> None:
    handle, seen = script([fault, httpx.Response(204)])
    with capture_logs() as logs:
        assert await client(handle).delete("a") is True
    assert seen == ["DELETE /connectors/a"] * 2
    assert [(log["event"], log["service"]) for log in logs] == [
        ("service.waiting", "Kafka Connect at http://connect:8083")
    ]


async def test_connect_that_stays_away_is_named_with_its_address() -> None:
    handle, seen = script([httpx.ConnectError("refused")] * 3)
    with pytest.raises(ConnectUnavailable, match=r"Kafka Connect at http://connect:8083 doesn't answer: refused"):
        await client(handle).list()
    assert len(seen) == 3
    assert issubclass(ConnectUnavailable, Unavailable)


async def test_a_refusal_is_not_repeated_and_carries_connects_message() -> None:
    message = (
        "Connector configuration is invalid and contains the following 1 error(s):\nThe 'slot.name' value is invalid\n"
        "You can also find these errors at the endpoint `/connector-plugins/{connectorType}/config/validate`"
    )
    handle, seen = script([answer(400, message)])
    with pytest.raises(ConnectError, match=r"HTTP 400.*1 error\(s\): The 'slot\.name' value is invalid$"):
        await client(handle).update("a", CONFIG)
    assert len(seen) == 1
    assert issubclass(ConnectError, ConfigurationError)


async def test_a_proxy_that_answers_html_is_quoted_too() -> None:
    handle, _ = script([httpx.Response(403, text="<h1>Forbidden</h1>")])
    with pytest.raises(ConnectError, match="Forbidden"):
        await client(handle).list()


async def test_already_exists_is_not_taken_for_a_rebalance() -> None:
    handle, seen = script([answer(409, "Connector a already exists")])
    with pytest.raises(ConnectorExists, match="Connector a already exists"):
        await client(handle).create("a", CONFIG)
    assert len(seen) == 1


async def test_a_create_whose_answer_was_lost_is_not_an_error() -> None:
    there = httpx.Response(200, json={"name": "a", "config": {**CONFIG, "name": "a"}, "tasks": []})
    handle, _ = script([httpx.ReadTimeout("lost"), answer(409, "Connector a already exists"), there])
    await client(handle).create("a", CONFIG)


async def test_a_lost_create_that_meets_another_connector_is_an_error() -> None:
    there = httpx.Response(200, json={"name": "a", "config": {"connector.class": "other", "name": "a"}, "tasks": []})
    handle, _ = script([httpx.ReadTimeout("lost"), answer(409, "Connector a already exists"), there])
    with pytest.raises(ConnectorExists):
        await client(handle).create("a", CONFIG)


async def test_a_missing_connector_is_none_or_false_to_read_and_an_error_to_change() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        return answer(404, "Connector a not found")

    connect = client(handle)
    assert await connect.get("a") is None
    assert await connect.exists("a") is False
    assert await connect.status("a") is None
    assert await connect.is_running("a") is False
    assert await connect.delete("a") is False
    assert await connect.ensure_deleted("a") is False
    with pytest.raises(ConnectorMissing, match="Connector a not found"):
        await connect.restart("a")


def status(connector: str, *tasks: str, trace: str = "") -> httpx.Response:
    return httpx.Response(
        200,
        json={
            "name": "a",
            "connector": {"state": connector, "worker_id": "w"},
            "tasks": [{"id": i, "state": state, "worker_id": "w", "trace": trace} for i, state in enumerate(tasks)],
        },
    )


async def test_a_connector_without_tasks_does_not_run() -> None:
    assert await client(lambda _: status("RUNNING")).is_running("a") is False
    assert await client(lambda _: status("RUNNING", "RUNNING", "FAILED")).is_running("a") is False
    assert await client(lambda _: status("RUNNING", "RUNNING")).is_running("a") is True


async def test_a_failure_of_before_the_restart_is_not_believed_at_once() -> None:
    handle, _ = script([status("RUNNING", "FAILED", trace="old"), answer(404, "none"), status("RUNNING", "RUNNING")])
    assert (await client(handle).wait_until_running("a", 10)).running


async def test_a_lasting_failure_ends_the_wait_with_its_cause() -> None:
    trace = (
        "org.x.ConnectException: Unable to create publication\n\tat a.b(C.java:1)\nCaused by: must be owner\n\t... 1"
    )
    failed = status("RUNNING", "FAILED", trace=trace)
    with pytest.raises(
        ConnectorFailed, match=r"task 0 of connector a failed: .*Unable to create.*caused by must be owner"
    ):
        await client(lambda _: failed).wait_until_running("a", 60)


async def test_a_connector_that_never_starts_is_said_with_its_state() -> None:
    with pytest.raises(ConnectUnavailable, match=r"doesn't run after 1 s \(UNASSIGNED\)"):
        await client(lambda _: status("UNASSIGNED")).wait_until_running("a", 0.6)


async def test_names_with_special_characters_reach_connect() -> None:
    handle, seen = script([httpx.Response(204)])
    await client(handle).pause("a/b c")
    assert seen == ["PUT /connectors/a%2Fb%20c/pause"]


def test_an_address_with_a_login_is_shown_without_it() -> None:
    assert DebeziumClient("http://me:geheim@connect:8083").address == "http://connect:8083"


def test_a_trace_is_summed_up_by_its_head_and_its_innermost_cause() -> None:
    trace = "A: outer\n\tat x\nCaused by: B: middle\n\tat y\nCaused by: C: root\n\t... 3 more"
    assert summarise_trace(trace) == "A: outer — caused by C: root"
    assert summarise_trace("A: alone\n\tat x") == "A: alone"
    assert summarise_trace("") == "no reason given"
