"""What the consumer asks the application: which topics are sources, and where to read each of their partitions from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from sources.changes import TopicPartition
from sources.kafka.backlog import Backlog


class Positioning(NamedTuple):
    """The next offset to read of each partition (None where no destination has one yet), and the epoch that begins
    with it: chunks of an older one are not wanted any more."""

    epoch: int
    offsets: Mapping[TopicPartition, int | None]


class Positions(Protocol):
    """What the consumer asks the application: which topics are sources, and where the sinks stand."""

    backlog: Backlog

    def is_source(self, topic: str) -> bool:
        """Whether this topic's records are delivered as chunks."""

    async def wanted(self, partitions: list[TopicPartition], generation: int) -> Positioning:
        """Where to read each partition from, by the destinations; begins a new epoch."""

    def committable(self, tp: TopicPartition) -> int | None:
        """The offset that the group may commit for this partition."""

    def assigned(self) -> Iterable[TopicPartition]:
        """The source partitions that `wanted` has positioned."""
