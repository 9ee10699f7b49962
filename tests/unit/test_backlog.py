"""The backlog's promise: bytes under way stay bounded, and a partition is never starved."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sources.changes import Chunk, TopicPartition
from sources.kafka.backlog import Backlog


def chunk(partition: int, first: int, nbytes: int) -> Chunk:
    offsets = np.array([first], dtype=np.int64)
    return Chunk("t", partition, 1, first, first + 1, offsets, offsets, [None], [b"x"], [()], nbytes)


def test_a_partition_with_nothing_under_way_may_always_fetch() -> None:
    backlog = Backlog(budget=1)
    backlog.assign([TopicPartition("t", 0)])
    assert backlog.has_room(TopicPartition("t", 0))
    backlog.add(chunk(0, 0, 1_000_000))
    assert not backlog.has_room(TopicPartition("t", 0))
    backlog.release(TopicPartition("t", 0), 1)
    assert backlog.has_room(TopicPartition("t", 0))


def test_an_assignment_forgets_what_was_under_way() -> None:
    backlog = Backlog(budget=100)
    backlog.assign([TopicPartition("t", 0)])
    backlog.add(chunk(0, 0, 90))
    backlog.assign([TopicPartition("t", 1)])
    assert backlog.total == 0
    backlog.add(chunk(0, 1, 90))  # a late chunk of a partition that was revoked
    assert backlog.total == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 50), st.booleans()), max_size=100))
def test_bytes_under_way_stay_below_budget_plus_one_chunk_per_partition(steps: list[tuple[int, int, bool]]) -> None:
    budget, largest = 200, 50
    backlog = Backlog(budget)
    backlog.assign([TopicPartition("t", p) for p in range(4)])
    following = dict.fromkeys(range(4), 0)
    for partition, nbytes, release in steps:
        tp = TopicPartition("t", partition)
        if release:
            backlog.release(tp, following[partition])
        elif backlog.has_room(tp):
            backlog.add(chunk(partition, following[partition], nbytes))
            following[partition] += 1
        assert backlog.total <= budget + 4 * largest
