"""Checks of rows and offsets in one commit: races, replays, gaps, lost responses, restarts."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest
from contract_base import TP0, TP1, check, committed, expected, inserts, opened, write, write_until_acknowledged
from contract_events import (
    TOPIC,
    batch,
    changes,
    empty_batch,
    folded,
    order,
)
from contract_harness import SinkHarness

from config.errors import OffsetGap, Unavailable
from sources.changes import TopicPartition


@check()
def new_destination_has_no_offsets(harness: SinkHarness) -> None:
    assert committed(harness) == {}
    assert harness.rows() == []


@check()
def rows_and_offsets_land_together(harness: SinkHarness) -> None:
    part = inserts(5, 3)
    with closing(opened(harness)) as sink:
        receipt = sink.write(batch(part))
    assert receipt.next_offsets == {TP0: 8}
    assert receipt.version is not None
    assert receipt.rows == 3
    assert committed(harness) == {TP0: 8}
    assert harness.rows() == expected(harness, part)


@check()
def nothing_lands_before_the_commit(harness: SinkHarness) -> None:
    first, second = inserts(0, 2), inserts(2, 2)
    seen: list[tuple[list[dict[str, Any]], dict[TopicPartition, int]]] = []
    with closing(opened(harness)) as sink:
        sink.write(batch(first))
        with harness.around_next_commit(before=lambda: seen.append((harness.rows(), committed(harness)))):
            sink.write(batch(second))
    assert seen == [(expected(harness, first), {TP0: 2})]
    assert harness.rows() == expected(harness, first, second)


@check()
def one_commit_carries_rows_and_offsets(harness: SinkHarness) -> None:
    first, second = inserts(0, 2), inserts(2, 2)
    seen: list[tuple[list[dict[str, Any]], dict[TopicPartition, int]]] = []
    with closing(opened(harness)) as sink:
        sink.write(batch(first))
        with harness.around_next_commit(after=lambda: seen.append((harness.rows(), committed(harness)))):
            sink.write(batch(second))
    assert seen == [(expected(harness, first, second), {TP0: 4})]


@check()
def stale_writer_lands_nothing(harness: SinkHarness) -> None:
    early, part = inserts(0, 2), inserts(2, 3)
    with closing(opened(harness)) as stale, closing(opened(harness)) as owner:
        stale.write(batch(early))
        owner.write(batch(part))
        receipt = stale.write(batch(part))
    assert receipt.next_offsets == {TP0: 5}
    assert receipt.version is None
    assert receipt.rows == 0
    assert harness.rows() == expected(harness, early, part)


@check()
def writer_that_loses_the_race_lands_nothing(harness: SinkHarness) -> None:
    early, part = inserts(0, 2), inserts(2, 3)
    later = changes([order("u", 20, "newer"), order("d", 30)], 5)
    with closing(opened(harness)) as zombie, closing(opened(harness)) as owner:
        zombie.write(batch(early))
        with harness.around_next_commit(before=lambda: write(owner, batch(part, later))):
            write_until_acknowledged(zombie, batch(part))
    assert harness.rows() == expected(harness, early, part, later)
    assert committed(harness) == {TP0: 7}


@check()
def two_first_writers_make_one_table(harness: SinkHarness) -> None:
    mine, theirs = inserts(0, 2), inserts(0, 2, partition=1)
    with closing(opened(harness)) as one, closing(opened(harness)) as two:
        with harness.around_next_commit(before=lambda: write(two, batch(theirs))):
            write_until_acknowledged(one, batch(mine))
        one.write(batch(inserts(2, 1)))
        two.write(batch(inserts(2, 1, partition=1)))
    parts = mine, theirs, inserts(2, 1), inserts(2, 1, partition=1)
    assert harness.rows() == expected(harness, *parts)
    assert committed(harness) == {TP0: 3, TP1: 3}


@check()
def writer_that_loses_part_of_the_race_lands_the_rest(harness: SinkHarness) -> None:
    early, part, rest = inserts(0, 2), inserts(2, 3), inserts(5, 2)
    with closing(opened(harness)) as slow, closing(opened(harness)) as quick:
        slow.write(batch(early))
        with harness.around_next_commit(before=lambda: write(quick, batch(part))):
            write_until_acknowledged(slow, batch(part, rest))
    assert harness.rows() == expected(harness, early, part, rest)
    assert committed(harness) == {TP0: 7}


@check()
def lost_response_is_retried_once_only(harness: SinkHarness) -> None:
    first, second = inserts(0, 2), inserts(2, 3)
    with closing(opened(harness)) as sink:
        for part in (first, second):
            with harness.around_next_commit(after=_lose_the_response):
                write_until_acknowledged(sink, batch(part))
    assert harness.rows() == expected(harness, first, second)
    assert committed(harness) == {TP0: 5}


@check()
def overlapping_batch_is_trimmed(harness: SinkHarness) -> None:
    parts = inserts(0, 4), inserts(4, 4)
    with closing(opened(harness)) as sink:
        sink.write(batch(parts[0]))
        receipt = sink.write(batch(inserts(1, 5)))
        assert receipt.next_offsets == {TP0: 6}
        assert receipt.rows == 2
        sink.write(batch(inserts(2, 6)))
    assert harness.rows() == expected(harness, *parts)


@check()
def replayed_update_does_not_bring_an_older_row_back(harness: SinkHarness) -> None:
    old = changes([order("c", 1, "old"), order("u", 1, "newer")], 0)
    new = changes([order("u", 1, "newest"), order("d", 2)], 2)
    with closing(opened(harness)) as sink:
        sink.write(batch(old))
        sink.write(batch(new))
        sink.write(batch(old))
        sink.write(batch(old, new))
    assert harness.rows() == expected(harness, old, new)


@check()
def gap_is_refused_and_nothing_lands(harness: SinkHarness) -> None:
    part, other = inserts(0, 2), inserts(0, 2, partition=1)
    with closing(opened(harness)) as sink:
        sink.write(batch(part))
        with pytest.raises(OffsetGap, match=f"{TOPIC}/0"):
            sink.write(batch(other, inserts(3, 2)))
        assert harness.rows() == expected(harness, part)
        assert committed(harness) == {TP0: 2}
        sink.write(batch(inserts(2, 1)))
    assert committed(harness) == {TP0: 3}


@check()
def batch_without_rows_moves_the_offsets(harness: SinkHarness) -> None:
    part = inserts(0, 2)
    with closing(opened(harness)) as sink:
        sink.write(batch(part))
        receipt = sink.write(empty_batch(2, 9))
        assert receipt.next_offsets == {TP0: 9}
        assert receipt.rows == 0
        sink.write(batch(inserts(9, 1)))
    assert harness.rows() == expected(harness, part, inserts(9, 1))
    assert committed(harness) == {TP0: 10}


@check()
def first_batch_without_rows_moves_the_offsets(harness: SinkHarness) -> None:
    with closing(opened(harness)) as sink:
        receipt = sink.write(empty_batch(3, 9))
        assert receipt.next_offsets == {TP0: 9}
        assert sink.committed([TP0]) == {TP0: 9}
        with pytest.raises(OffsetGap):
            sink.write(batch(inserts(12, 2)))
        sink.write(batch(inserts(9, 2)))
    assert harness.rows() == expected(harness, inserts(9, 2))
    assert committed(harness) == {TP0: 11}


@check()
def range_wider_than_its_changes_moves_to_its_end(harness: SinkHarness) -> None:
    part = changes([order("c", 1), order("c", 2)], 0, offsets=[3, 7], end=20)
    with closing(opened(harness)) as sink:
        assert sink.write(batch(part)).next_offsets == {TP0: 20}
        sink.write(batch(changes([order("c", 2), order("c", 3)], 5, offsets=[7, 25], end=30)))
    assert harness.rows() == expected(harness, part, changes([order("c", 3)], 20, offsets=[25], end=30))
    assert committed(harness) == {TP0: 30}


@check()
def restart_resumes_where_the_destination_stands(harness: SinkHarness) -> None:
    with closing(opened(harness)) as sink:
        sink.write(batch(inserts(0, 3)))
    with closing(opened(harness)) as sink:
        assert sink.committed([TP0, TP1]) == {TP0: 3}
        sink.write(batch(inserts(1, 4)))
        sink.open()
        sink.close()
    assert harness.rows() == expected(harness, inserts(0, 5))
    assert committed(harness) == {TP0: 5}


@check()
def writers_of_two_partitions_interleave(harness: SinkHarness) -> None:
    ours = [inserts(first, 2) for first in range(0, 6, 2)]
    theirs = [inserts(first, 2, partition=1) for first in range(0, 6, 2)]
    with closing(opened(harness)) as one, closing(opened(harness)) as two:
        for mine, yours in zip(ours, theirs, strict=True):
            with harness.around_next_commit(before=lambda yours=yours: write(two, batch(yours))):  # type: ignore[misc]
                write_until_acknowledged(one, batch(mine))
    assert harness.rows() == expected(harness, *ours, *theirs)
    assert committed(harness) == {TP0: 6, TP1: 6}


@check()
def partitions_of_one_batch_land_in_one_commit(harness: SinkHarness) -> None:
    first, second = inserts(0, 2), inserts(0, 2, partition=1)
    with closing(opened(harness)) as sink:
        sink.write(batch(first))
        receipt = sink.write(batch(inserts(0, 3), second))
    assert receipt.next_offsets == {TP0: 3, TP1: 2}
    assert harness.rows() == expected(harness, inserts(0, 3), second)


@check("upsert")
def batch_that_changes_no_row_moves_the_offsets(harness: SinkHarness) -> None:
    only_deletes = changes([order("d", 1), order("d", 2)], 0)
    with closing(opened(harness)) as sink:
        sink.write(batch(only_deletes))
        assert committed(harness) == {TP0: 2}
        sink.write(batch(inserts(2, 2)))
        assert sink.write(batch(changes([order("d", 999)], 4))).next_offsets == {TP0: 5}
    assert harness.rows() == folded(inserts(2, 2))
    assert committed(harness) == {TP0: 5}


def _lose_the_response() -> None:
    raise Unavailable("the connection broke after the commit was sent")
