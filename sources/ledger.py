"""The offset ledger: which next offset each sink wants of each Kafka partition, and so what the group may commit.

The destinations own the offsets. The ledger remembers what they said (on assignment) and what their receipts say
since, and derives the consumer group's offset from it: the minimum over the sinks that read the topic. It decides
nothing about what is written; losing it costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sources.changes import TopicPartition


class OffsetLedger:
    """Next wanted offsets per (sink, Kafka partition). `sinks_of` names the sinks that read each topic."""

    def __init__(self, sinks_of: Mapping[str, Iterable[str]]) -> None:
        self._sinks_of = {topic: frozenset(sinks) for topic, sinks in sinks_of.items()}
        self._next: dict[TopicPartition, dict[str, int]] = {}

    def assign(self, offsets: Mapping[TopicPartition, Mapping[str, int]]) -> None:
        """Start anew with these partitions and what each sink wants next of them, where it knows."""
        self._next = {TopicPartition(*tp): dict(wanted) for tp, wanted in offsets.items()}

    def record(self, sink_id: str, next_offsets: Mapping[TopicPartition, int]) -> None:
        """Take in a receipt. Partitions that aren't assigned any more are ignored; offsets never move back."""
        for tp, offset in next_offsets.items():
            wanted = self._next.get(tp)
            if wanted is not None:
                wanted[sink_id] = max(offset, wanted.get(sink_id, offset))

    def next_offset(self, sink_id: str, tp: TopicPartition) -> int | None:
        """What this sink wants next of an assigned partition, None where it has no offset yet."""
        return self._next.get(tp, {}).get(sink_id)

    def committable(self, tp: TopicPartition) -> int | None:
        """The offset that the consumer group may commit: the minimum over the topic's sinks.

        None while one of them has no offset yet, and for partitions that aren't assigned.
        """
        wanted = self._next.get(tp)
        sinks = self._sinks_of.get(tp.topic)
        if not wanted or not sinks or any(sink not in wanted for sink in sinks):
            return None
        return min(wanted[sink] for sink in sinks)

    def partitions(self) -> tuple[TopicPartition, ...]:
        """The assigned partitions."""
        return tuple(self._next)
