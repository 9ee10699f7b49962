"""How many bytes of raw records are on their way to the sinks, and whether a partition may fetch more.

The bound holds whatever the lag and the number of topics: a partition may fetch while nothing of it is under way, or
while it has used less than its share of the budget. The fetcher's own prefetch (one response per partition, at most
`max_partition_fetch_bytes` each) comes on top.
"""

from __future__ import annotations

from collections import deque
from threading import Lock

from sources.changes import Chunk, TopicPartition


class Backlog:
    """Bytes under way per partition. Filled by the consumer's thread, released by the event loop's: thread-safe."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._lock = Lock()
        self._chunks: dict[TopicPartition, deque[tuple[int, int]]] = {}
        self._bytes: dict[TopicPartition, int] = {}

    def assign(self, partitions: list[TopicPartition]) -> None:
        """Forget everything; the budget is shared by these partitions from now on."""
        with self._lock:
            self._chunks = {TopicPartition(*tp): deque() for tp in partitions}
            self._bytes = dict.fromkeys(self._chunks, 0)

    def add(self, chunk: Chunk) -> None:
        """Count a fetched chunk in, until `release` passes its next offset."""
        with self._lock:
            if chunk.tp in self._chunks:
                self._chunks[chunk.tp].append((chunk.next, chunk.nbytes))
                self._bytes[chunk.tp] += chunk.nbytes

    def release(self, tp: TopicPartition, next_offset: int) -> None:
        """Count out the partition's chunks that every sink has (those that end at or before `next_offset`)."""
        with self._lock:
            chunks = self._chunks.get(tp)
            while chunks and chunks[0][0] <= next_offset:
                self._bytes[tp] -= chunks.popleft()[1]

    def has_room(self, tp: TopicPartition) -> bool:
        """Whether this partition may fetch another chunk."""
        with self._lock:
            used = self._bytes.get(tp, 0)
            return used == 0 or used < self.budget // max(1, len(self._bytes))

    def holds(self, tp: TopicPartition) -> bool:
        """Whether anything of this partition is under way."""
        with self._lock:
            return bool(self._chunks.get(tp))

    @property
    def total(self) -> int:
        """Bytes under way over all partitions."""
        with self._lock:
            return sum(self._bytes.values())
