"""The workers of a run, as a supervisor (systemd, Kubernetes) keeps them: one that ends by itself is started again."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from chaos.outside import Outside
from config.environment import Settings
from stack.ports import free_port
from stack.worker import WorkerProcess

FAR = 100_000
"""Records."""


@dataclass
class Member:
    """A worker that runs, unless a fault keeps it from it. `wanted`: a supervisor would start it."""

    name: str
    process: WorkerProcess
    outside: Outside
    wanted: bool = True
    frozen: bool = False

    def thaw(self) -> None:
        """Let it run on, if it is frozen, or soon will be."""
        self.outside.disarm()
        if self.frozen and self.process.running():
            self.process.thaw()
        self.frozen = False


@dataclass
class Crew:
    """The workers of one pipeline, which share a data directory. `lake`: where their tables on the disk are."""

    name: str
    settings: Settings
    files: tuple[Path, Path]
    folder: Path
    lake: Path
    members: dict[str, Member] = field(default_factory=dict)
    endings: Counter[str] = field(default_factory=Counter)
    """How workers ended that nobody ended."""

    def hire(self, name: str) -> Member:
        """One more worker, started."""
        log = self.folder / f"{name}.log"
        outside = Outside(self.folder / "outside" / name, self.folder / "data", self.lake)
        process = WorkerProcess(
            *self.files, self.folder / "data", log, web_port=free_port(), environment=outside.environment
        )
        member = self.members[name] = Member(name, process, outside)
        process.start()
        return member

    def dismiss(self, name: str) -> None:
        """Stop a worker for good."""
        member = self.members.pop(name)
        member.thaw()
        if member.process.running():
            member.process.terminate(60)

    def kill(self, member: Member) -> None:
        """SIGKILL, frozen or not."""
        member.outside.disarm()
        member.process.kill()
        member.frozen = False

    def supervise(self) -> list[tuple[str, dict[str, Any]]]:
        """Start again what should run; returns who has ended by itself, and how."""
        found = []
        for member in self.members.values():
            if not member.wanted or member.process.running():
                continue
            if member.process.ended_by_itself:
                ending = last_words(member.process)
                self.endings[f"{ending.get('exit_status')} {ending.get('reason')}"] += 1
                found.append((member.name, ending))
            member.outside.disarm()
            member.process.start()
        return found

    def lose_state(self) -> None:
        """All that the workers keep on their disk."""
        for member in self.members.values():
            self.kill(member)
        shutil.rmtree(self.folder / "data", ignore_errors=True)

    def move_group(self, brokers: str) -> str:
        """Set the group's offsets far ahead, as if all was read; the group must be empty."""
        admin = AdminClient({"bootstrap.servers": brokers})
        group = self.settings.app_id
        try:
            (done,) = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)]).values()
            moved = [
                TopicPartition(tp.topic, tp.partition, tp.offset + 100_000) for tp in done.result(20).topic_partitions
            ]
            if not moved:
                return "it has none"
            (altered,) = admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, moved)]).values()
            altered.result(20)
        except KafkaException as error:
            return f"not moved: {error}"
        return f"moved {len(moved)} offsets"

    def stats(self) -> dict[str, Any] | None:
        """What one of the workers tells of all partitions."""
        for member in self.members.values():
            if member.process.running() and not member.frozen:
                try:
                    answer = httpx.get(f"http://127.0.0.1:{member.process.web_port}/api/stats", timeout=2)
                    found: dict[str, Any] = answer.raise_for_status().json()
                except (httpx.HTTPError, ValueError):
                    continue
                if found["partitions"]:
                    return found
        return None

    def end(self) -> None:
        """Stop all workers."""
        for member in self.members.values():
            member.wanted = False
            member.thaw()
        for member in self.members.values():
            if member.process.running():
                member.process.terminate(60)


def last_words(process: WorkerProcess) -> dict[str, Any]:
    """The line `worker.ended` of a worker that ended, or what else its log ends with."""
    ended = list(process.events("worker.ended"))
    return ended[-1] if ended else {"exit_status": None, "reason": process.tail(3)}


def line_of(ending: dict[str, Any]) -> str:
    """For people."""
    return json.dumps({name: ending.get(name) for name in ("exit_status", "reason", "error")}, ensure_ascii=False)
