"""What a transport brings: four small interfaces, one factory (`sources/registry.py`) that chooses by `transport_mode`;
and what a source may do besides: send rows again.

The worker's own ingest is not among them: it is a Faust transport (`sources/kafka/consumer.py`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:  # `cdc deploy` doesn't pay for Arrow
    import pyarrow as pa

    from sources.changes import Chunk, Rejected, TopicPartition

StartAt = Literal["earliest", "latest"] | int
"""Where reading begins in each partition: at the log's beginning, at its end, or at an offset."""


@dataclass(frozen=True)
class TopicSpec:
    """A topic as it is wanted. `config` holds the broker's topic settings (`retention.ms`, …)."""

    name: str
    partitions: int
    replication_factor: int
    config: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TopicOutcome:
    """What became of a wanted topic: created now, or there already with `partitions`, which are never changed."""

    spec: TopicSpec
    created: bool
    partitions: int


class PartitionLag(NamedTuple):
    """How many offsets lie between a position (`offset`, the next wanted one) and the end of a partition's log."""

    topic: str
    partition: int
    lag: int
    offset: int


class Provisioner(Protocol):
    """Creates and removes the topics that a pipeline needs. Called by `cdc deploy` and `cdc undeploy`."""

    async def ensure(self, topics: Sequence[TopicSpec]) -> tuple[TopicOutcome, ...]:
        """Create the topics that are missing; one outcome per topic, in the given order. Idempotent."""

    async def remove(self, topics: Sequence[str]) -> tuple[str, ...]:
        """Delete those of `topics` that exist, and return them. Idempotent."""

    async def existing(self) -> Mapping[str, int]:
        """All topics with their number of partitions."""


class ErrorRouter(Protocol):
    """Sets records aside that can't be read. Called by the worker before a commit passes their offsets."""

    async def send(self, chunk: Chunk, rejected: Sequence[Rejected], sink_ids: Sequence[str]) -> None:
        """Returns when all `rejected` records of the chunk are safely kept, with the reason and for which sinks."""

    async def close(self) -> None:
        """Let go of connections. Idempotent."""


class Rereading(Protocol):
    """Has rows read from the source again, of which a sink lacks values that weren't sent. Called by the worker before
    a commit passes the offsets of their records."""

    async def check(self) -> None:
        """Whether rows can be asked for; called when a worker starts. Raises ConfigurationError with the way out."""

    async def ask(self, topic: str, keys: pa.Table) -> None:
        """Returns when the request for the rows with these keys (one column per key column) can't be lost any more;
        the rows come later, as records of the topic."""


class SourceMonitor(Protocol):
    """Says how far the log reaches. Called by pages, `cdc health` and `cdc verify`."""

    async def end_offsets(self, topics: Sequence[str]) -> dict[TopicPartition, int]:
        """The offset that the next record of each partition will get; partitions of missing topics are absent."""

    async def lag(self, positions: Mapping[TopicPartition, int]) -> tuple[PartitionLag, ...]:
        """How far each position is behind the end of its log."""

    async def close(self) -> None:
        """Let go of connections. Idempotent."""


class EventSource(Protocol):
    """Reads topics outside of the worker, without a consumer group. Called by `cdc consume` and `cdc verify`."""

    def chunks(self, topics: Sequence[str], start: StartAt) -> AsyncIterator[Chunk]:
        """What arrives, for ever, one partition's chunk at a time; generation 0. Waits for topics that don't exist."""

    def between(self, ranges: Mapping[TopicPartition, tuple[int, int]]) -> AsyncIterator[Chunk]:
        """What the log has of these offsets, [first, next) per partition, then the end. The last chunk of a partition
        may reach beyond its range."""
