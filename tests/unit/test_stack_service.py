"""A service's process is supervised: started again when it dies, as often as it takes while it runs well in between."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from stack import service
from stack.layout import Layout
from stack.service import MAX_RESTARTS, ProcessService


class Sleeper(ProcessService):
    """Does nothing, well."""

    name = "sleeper"
    port_names = ("sleeper",)

    def command(self) -> list[str]:
        return ["sleep", "60"]

    async def healthy(self) -> bool:
        return True

    def endpoint(self) -> dict[str, Any]:
        return {}

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.layout.status(self.name).read_text())
        return found


async def killed(sleeper: Sleeper) -> dict[str, Any]:
    """Its status once it has got over a SIGKILL, or hasn't."""
    before = sleeper.status()
    os.kill(before["pid"], signal.SIGKILL)
    async with asyncio.timeout(30):
        while True:
            now = sleeper.status()
            if now["state"] == "failed" or (now["state"] == "ready" and now["pid"] != before["pid"]):
                return now
            await asyncio.sleep(0.01)


@pytest.fixture
def sleeper(tmp_path: Path) -> Sleeper:
    layout = Layout(tmp_path, {"sleeper": 1})
    for folder in (layout.log("sleeper").parent, layout.status("sleeper").parent):
        folder.mkdir(parents=True, exist_ok=True)
    return Sleeper(layout)


async def test_a_service_that_ran_steadily_is_started_again_however_often_it_dies(
    sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "STEADY_SECONDS", 0.0)
    async with sleeper:
        for times in range(1, MAX_RESTARTS + 3):
            status = await killed(sleeper)
            assert (status["state"], status["restarts"]) == ("ready", times)


async def test_a_service_that_dies_again_and_again_is_given_up(
    sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MAX_RESTARTS", 2)
    async with sleeper:
        assert [(await killed(sleeper))["state"] for _ in range(3)] == ["ready", "ready", "failed"]
    assert "2 restarts didn't help" in sleeper.status()["error"]
