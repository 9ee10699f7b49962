"""The stage of a run: stack, databases, deployed pipelines and their workers; and what each fault does to it."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partialmethod
from pathlib import Path
from typing import Any

import yaml

from app.deployment import deploy
from chaos.changes import TABLES, Kind
from chaos.crew import Crew, Member, line_of
from chaos.foreign import touch
from chaos.schedule import HTTP_SERVICES, SERVICES, Fault
from chaos.unruly import Fault as Misbehaviour
from chaos.unruly import Unruly
from config.environment import load_settings
from demo.connections import MariaDbConnection, PostgresConnection
from demo.pipelines import pipeline_of, platform_of
from sinks.factory import plan_tables
from stack.errors import StackError
from stack.manager import Endpoints, statuses, up
from stack.places import bucket, in_catalog, storage_options

SESSION_TIMEOUT = 6.0
Later = Callable[[float, Callable[[], None]], None]
"""Do something after so many seconds."""
Say = Callable[[str], None]


class NotRunning(Exception):
    """The worker that a fault should hit is dead, or frozen; or the service is dead."""


class Scene:
    """Everything that a fault can hit."""

    def __init__(self, state: Path, ports: dict[str, int], say: Say) -> None:
        self._state, self._ports, self._say = state, ports, say
        self.endpoints: Endpoints = up(state, None, ports=ports, say=say, owner=os.getpid())
        self._unruly = {name: Unruly(self.endpoints[name].url) for name in HTTP_SERVICES}
        self.crews: dict[str, Crew] = {}
        self._hired = 0

    def connect(self, kind: Kind) -> PostgresConnection | MariaDbConnection:
        """A connection to a source."""
        endpoint = self.endpoints[kind]
        return PostgresConnection(endpoint) if kind == "postgres" else MariaDbConnection(endpoint)

    def deploy(self, kind: Kind, workers: int) -> None:
        """A pipeline over the source's tables, and its workers."""
        folder = self._state / "lake" / kind
        lake = folder / "lake"
        lake.mkdir(parents=True)
        files = folder / "pipeline.yaml", folder / "platform.yaml"
        for path, content in zip(files, (self._pipeline(kind, lake), self._platform()), strict=True):
            path.write_text(yaml.safe_dump(content, sort_keys=False))
        settings = load_settings(*files, environ=os.environ)
        asyncio.run(deploy(settings.pipeline, settings.platform, lambda _: None, self._say))
        crew = self.crews[kind] = Crew(kind, settings, files, folder, lake)
        for number in range(workers):
            crew.hire(f"{kind}-{number}")

    # -- faults

    def begin(self, fault: Fault, later: Later, over: Callable[[], None]) -> str:
        """Let a fault happen; calls `over` when it is over. Returns what happened."""
        begin = getattr(self, f"_{fault.kind.replace(' ', '_')}")
        try:
            said: str | None = begin(fault, later, over)
        except NotRunning:
            said = "isn't running"
        return f"{fault}{': ' + said if said else ''}"

    def _kill_worker(self, fault: Fault, _: Later, over: Callable[[], None]) -> None:
        self._crew(fault.target).kill(self._running(fault.target))
        over()

    def _kill_worker_at_a_step(self, fault: Fault, _: Later, over: Callable[[], None]) -> None:
        """When the worker gets to it; it runs on until then."""
        member = self._running(fault.target)
        member.outside.arm(fault.number, signal.SIGKILL, after=fault.number % 2 == 1)
        over()

    def _freeze_worker_at_a_step(self, fault: Fault, later: Later, over: Callable[[], None]) -> None:
        member = self._running(fault.target)
        member.outside.arm(fault.number, signal.SIGSTOP, after=fault.number % 2 == 1)
        member.frozen = True  # some time from now
        later(fault.seconds, in_turn(member.thaw, over))

    def _fill_disk(self, fault: Fault, later: Later, over: Callable[[], None]) -> None:
        member = self._running(fault.target)
        member.outside.fill()
        later(fault.seconds, in_turn(lambda: member.outside.fill(full=False), over))

    def _forget_names(self, fault: Fault, later: Later, over: Callable[[], None]) -> None:
        member = self._running(fault.target)
        member.outside.forget_names()
        later(fault.seconds, in_turn(lambda: member.outside.forget_names(forgotten=False), over))

    def _move_clock(self, fault: Fault, later: Later, over: Callable[[], None]) -> None:
        member = self._running(fault.target)
        member.outside.move_clock(fault.number)
        later(fault.seconds, in_turn(lambda: member.outside.move_clock(0), over))

    def _running(self, worker: str) -> Member:
        member = self._crew(worker).members.get(worker)
        if member is None or member.frozen or not member.process.running():
            raise NotRunning
        return member

    def _freeze_worker(self, fault: Fault, later: Later, over: Callable[[], None]) -> None:
        member = self._running(fault.target)
        member.process.freeze()
        member.frozen = True
        later(fault.seconds, in_turn(member.thaw, over))

    def _stop_worker(self, fault: Fault, later: Later, over: Callable[[], None]) -> None:
        member = self._running(fault.target)
        member.wanted = False
        member.process.signal_end()

        def again() -> None:
            if member.process.running():  # it is still flushing
                later(0.5, again)
                return
            member.wanted = True
            over()

        later(fault.seconds, again)

    def _add_worker(self, fault: Fault, later: Later, over: Callable[[], None]) -> str:
        crew = self.crews[fault.target]
        self._hired += 1
        name = f"{fault.target}-more-{self._hired}"
        crew.hire(name)
        later(fault.seconds, in_turn(lambda: crew.dismiss(name), over))
        return name

    def _lose_local_state(self, fault: Fault, _: Later, over: Callable[[], None]) -> None:
        self.crews[fault.target].lose_state()
        over()

    def _move_group_offset(self, fault: Fault, later: Later, over: Callable[[], None]) -> None:
        crew = self.crews[fault.target]
        for member in crew.members.values():
            member.wanted = False
            crew.kill(member)

        def move() -> None:
            self._say(f"group {crew.settings.app_id}: {crew.move_group(self.endpoints['kafka'].address)}")
            for member in crew.members.values():
                member.wanted = True
            over()

        later(fault.seconds, move)

    def _touch_tables(self, fault: Fault, later: Later, over: Callable[[], None]) -> None:
        """By another program, which takes its time."""
        plans = plan_tables(self.crews[fault.target].settings.pipeline)
        other = threading.Thread(target=lambda: self._say(touch(plans, fault.number)), daemon=True)
        other.start()

        def done() -> None:
            if other.is_alive():
                later(0.5, done)
            else:
                over()

        later(0.5, done)

    def _kill_service(self, fault: Fault, _: Later, over: Callable[[], None]) -> None:
        self._signal(fault.target, signal.SIGKILL)
        over()

    def _freeze_service(self, fault: Fault, later: Later, over: Callable[[], None]) -> None:
        self._signal(fault.target, signal.SIGSTOP)
        later(fault.seconds, in_turn(lambda: self._thaw(fault.target), over))

    def _thaw(self, name: str) -> None:
        with suppress(NotRunning):
            self._signal(name, signal.SIGCONT)

    def _misbehave(self, how: Misbehaviour, fault: Fault, later: Later, over: Callable[[], None]) -> None:
        service = self._unruly[fault.target]
        service.misbehave(how, fault.number / 100)
        later(fault.seconds, in_turn(service.behave, over))

    _throttle_service = partialmethod(_misbehave, "throttled")
    _slow_service = partialmethod(_misbehave, "slow")
    _lose_answers_of_service = partialmethod(_misbehave, "answers lost")
    _hide_objects_of_service = partialmethod(_misbehave, "objects hidden")

    def _signal(self, service: str, signum: signal.Signals) -> None:
        status = statuses(self._state)[service]
        if status["state"] == "failed":
            raise StackError(status["error"])
        try:
            os.kill(status["pid"], signum)
        except ProcessLookupError as error:
            raise NotRunning from error

    def _crew(self, worker: str) -> Crew:
        return self.crews[worker.split("-")[0]]

    # -- what keeps it going

    def supervise(self) -> list[tuple[str, dict[str, Any]]]:
        """Start again what should run; returns who has ended by itself, and how."""
        ended = [one for crew in self.crews.values() for one in crew.supervise()]
        for name, ending in ended:
            self._say(f"{name} ended by itself: {line_of(ending)}")
        return ended

    def calm(self) -> None:
        """End all faults: everything runs."""
        for name in SERVICES:
            self._thaw(name)
        for service in self._unruly.values():
            service.behave()
        for crew in self.crews.values():
            for member in crew.members.values():
                member.wanted = True
                member.thaw()
        up(self._state, None, ports=self._ports, say=self._say, owner=os.getpid())
        self.supervise()

    def end(self) -> None:
        """Stop the workers."""
        for crew in self.crews.values():
            crew.end()
        for service in self._unruly.values():
            service.close()

    # -- files

    def _platform(self) -> dict[str, Any]:
        platform = platform_of(self.endpoints)
        platform["kafka"]["session_timeout_seconds"] = SESSION_TIMEOUT
        return platform | {"retry": {"max_wait_seconds": 5}}

    def _pipeline(self, kind: Kind, folder: Path) -> dict[str, Any]:
        sinks = [self._sink(kind, sink_id, folder) for sink_id in SINKS[kind]]
        return pipeline_of(f"chaos-{kind}", kind, self.endpoints[kind], TABLES, sinks)

    def _sink(self, kind: Kind, sink_id: str, folder: Path) -> dict[str, Any]:
        form, mode, place = sink_id.split("-")
        section: dict[str, Any] = {"write_mode": "append" if mode == "append" else "upsert", **FREQUENT}
        catalog, store = (replace(self.endpoints[name], url=self._unruly[name].url) for name in ("catalog", "s3"))
        if form == "iceberg":
            section |= {"table_namespace": f"{kind}_{mode}"}
            section |= in_catalog(catalog, store) if place == "s3" else _sqlite(folder)
        elif place == "s3":
            uri = f"{bucket(store)}/chaos/{kind}/{mode}/{{table}}"
            section |= {"table_uri": uri, "storage_options": storage_options(store)}
        else:
            section |= {"table_uri": f"{folder}/{mode}/{{table}}"}
        if mode == "vectors":
            section |= {"upserts": "deletion_vectors"}
        return {"sink_id": sink_id, "sink_type": form, form: section}


def in_turn(*actions: Callable[[], None]) -> Callable[[], None]:
    """One after the other."""

    def all_of_them() -> None:
        for action in actions:
            action()

    return all_of_them


SINKS: dict[Kind, tuple[str, ...]] = {
    "postgres": ("iceberg-append-s3", "iceberg-upsert-s3", "delta-merge-s3", "delta-vectors-disk"),
    "mariadb": ("iceberg-upsert-disk", "delta-append-disk", "delta-vectors-s3"),
}
"""Format, mode and place."""

FREQUENT = {"batch_size": 500, "flush_interval_seconds": 1.0}
"""Small commits: more of them to be hit."""


def _sqlite(folder: Path) -> dict[str, Any]:
    return {"catalog_uri": f"sqlite:///{folder}/catalog.db", "warehouse": f"file://{folder}/warehouse"}
