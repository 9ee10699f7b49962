"""The sink contract as checks: each takes a harness over an empty destination and fails if a promise isn't kept.

`test_sinks.py` runs all over every sink; `test_broken_sinks.py` shows that each kind of broken sink fails one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any, Literal

import pyarrow as pa
import pytest
from contract_events import (
    INVOICES,
    LINES,
    ORDERS,
    ORDERS_WITH_NOTE,
    ORDERS_WITH_TEXT_ID,
    ORDERS_WITHOUT_AMOUNT,
    OTHER_TOPIC,
    TOPIC,
    batch,
    changes,
    empty_batch,
    folded,
    log_rows,
    order,
)
from contract_harness import SinkHarness

from config.errors import ConfigurationError, DestinationChanged, KeyMoved, OffsetGap, Unavailable, UnsupportedChange
from sinks.base import Batch, Receipt, Sink
from sources.changes import ChangeBatch, TableSchema, TopicPartition

Check = Callable[[SinkHarness], None]
TP0, TP1 = TopicPartition(TOPIC, 0), TopicPartition(TOPIC, 1)

CHECKS: dict[str, tuple[Check, Literal["both", "append", "upsert"]]] = {}


def check(mode: Literal["both", "append", "upsert"] = "both") -> Callable[[Check], Check]:
    """Register a check under its name, for the write modes that it applies to."""

    def register(function: Check) -> Check:
        CHECKS[function.__name__] = (function, mode)
        return function

    return register


def checks_for(*, upsert: bool) -> list[str]:
    mode = "upsert" if upsert else "append"
    return [name for name, (_, wanted) in CHECKS.items() if wanted in ("both", mode)]


def expected(harness: SinkHarness, *parts: ChangeBatch) -> list[dict[str, Any]]:
    return folded(*parts) if harness.upsert else log_rows(*parts)


def opened(harness: SinkHarness, topics: tuple[str, ...] = (TOPIC,)) -> Sink:
    sink = harness.new_sink(topics)
    sink.open()
    return sink


def committed(harness: SinkHarness, *partitions: TopicPartition) -> dict[TopicPartition, int]:
    """The destination's offsets, as a new process reads them."""
    with closing(opened(harness)) as sink:
        return sink.committed(partitions or (TP0, TP1))


def write_until_acknowledged(sink: Sink, todo: Batch) -> Receipt:
    """Write as the agents do: an Unavailable destination is asked again with the same batch."""
    for _ in range(4):
        try:
            return sink.write(todo)
        except Unavailable:
            continue
    return sink.write(todo)


def inserts(first: int, count: int, *, partition: int = 0) -> ChangeBatch:
    """Creates of keys that no other offset or partition uses."""
    rows = [order("c", 10 * offset + partition) for offset in range(first, first + count)]
    return changes(rows, first, partition=partition)


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
        with harness.around_next_commit(before=lambda: _write(owner, batch(part, later))):
            write_until_acknowledged(zombie, batch(part))
    assert harness.rows() == expected(harness, early, part, later)
    assert committed(harness) == {TP0: 7}


@check()
def two_first_writers_make_one_table(harness: SinkHarness) -> None:
    mine, theirs = inserts(0, 2), inserts(0, 2, partition=1)
    with closing(opened(harness)) as one, closing(opened(harness)) as two:
        with harness.around_next_commit(before=lambda: _write(two, batch(theirs))):
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
        with harness.around_next_commit(before=lambda: _write(quick, batch(part))):
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


@check("append")
def two_topics_share_one_table(harness: SinkHarness) -> None:
    orders = changes([order("c", 1), order("d", 1)], 0)
    invoices = changes([("c", {"id": 1, "payer": "Ada"})], 4, topic=OTHER_TOPIC, schema=INVOICES)
    both = (TOPIC, OTHER_TOPIC)
    with closing(opened(harness, both)) as sink:
        sink.write(batch(orders))
        sink.write(batch(invoices))
        sink.write(batch(inserts(2, 1), changes([("d", {"id": 1})], 5, topic=OTHER_TOPIC, schema=INVOICES)))
        offsets = sink.committed([TP0, TopicPartition(OTHER_TOPIC, 0)])
    assert offsets == {TP0: 3, TopicPartition(OTHER_TOPIC, 0): 6}
    invoice_gone = changes([("d", {"id": 1})], 5, topic=OTHER_TOPIC, schema=INVOICES)
    assert harness.rows() == log_rows(orders, invoices, inserts(2, 1), invoice_gone)


@check()
def writers_of_two_partitions_interleave(harness: SinkHarness) -> None:
    ours = [inserts(first, 2) for first in range(0, 6, 2)]
    theirs = [inserts(first, 2, partition=1) for first in range(0, 6, 2)]
    with closing(opened(harness)) as one, closing(opened(harness)) as two:
        for mine, yours in zip(ours, theirs, strict=True):
            with harness.around_next_commit(before=lambda yours=yours: _write(two, batch(yours))):  # type: ignore[misc]
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
def last_change_of_a_key_wins_and_deletes_remove(harness: SinkHarness) -> None:
    start = changes([order("r", key) for key in range(6)], 0)
    burst = changes(
        [
            order("u", 0, "first"),
            order("u", 0, "second"),
            order("d", 1),
            order("d", 2),
            order("c", 2, "again"),
            order("c", 7),
            order("d", 7),
            order("u", 0, "third"),
        ],
        6,
    )
    with closing(opened(harness)) as sink:
        sink.write(batch(start))
        sink.write(batch(burst))
    rows = harness.rows()
    assert rows == folded(start, burst)
    assert {row["id"]: row["name"] for row in rows}[0] == "third"
    assert {row["id"] for row in rows} == {0, 2, 3, 4, 5}


@check("upsert")
def update_of_a_missing_key_inserts_and_its_delete_is_harmless(harness: SinkHarness) -> None:
    parts = changes([order("u", 5), order("d", 6)], 0), changes([order("d", 8), order("u", 9), order("c", 5)], 2)
    with closing(opened(harness)) as sink:
        for part in parts:
            sink.write(batch(part))
    assert harness.rows() == folded(*parts)
    assert committed(harness) == {TP0: 5}


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


@check("append")
def change_log_keeps_every_change_and_deletes_as_keys(harness: SinkHarness) -> None:
    part = changes([order("c", 1), order("u", 1, "again"), order("d", 1), order("c", 1)], 0)
    with closing(opened(harness)) as sink:
        sink.write(batch(part))
    rows = harness.rows()
    assert rows == log_rows(part)
    assert [row["_cdc_op"] for row in rows] == ["c", "u", "d", "c"]
    assert "name" not in rows[2]


@check()
def added_column_in_the_middle_of_a_batch_evolves_the_table(harness: SinkHarness) -> None:
    noted = changes([order("u", 1, note="careful"), order("c", 3, note="new")], 2, schema=ORDERS_WITH_NOTE)
    late = changes([order("c", 11), order("u", 11, "again")], 0, partition=1)
    parts = changes([order("c", 1), order("c", 2)], 0), noted, late
    with closing(opened(harness)) as sink:
        sink.write(batch(*parts[:2]))
        assert harness.rows() == expected(harness, *parts[:2])
    with closing(opened(harness)) as sink:
        sink.write(batch(late))
    assert harness.rows() == expected(harness, *parts)


@check()
def json_column_added_in_the_middle_of_a_batch_is_no_drop_before_it(harness: SinkHarness) -> None:
    plain, noted = _with_id(ORDERS, None), _with_id(ORDERS_WITH_NOTE, None)
    later = _with_id(TableSchema(noted.columns.append(pa.field("more", pa.int32())), noted.key, 1), None)
    parts = [
        changes([order("c", 1)], 0, schema=plain),
        changes([order("u", 1, note="x")], 1, schema=noted),
        changes([order("u", 1, note="y"), order("c", 2, note="y")], 2, schema=noted),
        changes([order("u", 2, note="z", more=7)], 4, schema=later),
    ]
    with closing(opened(harness)) as sink:
        sink.write(batch(*parts[:2]))
        sink.write(batch(*parts[2:]))
    assert harness.rows() == expected(harness, *parts)
    with closing(opened(harness)) as sink, pytest.raises(UnsupportedChange, match="more"):
        sink.write(batch(changes([order("c", 3)], 5, schema=noted)))


@check()
def changed_type_stops_and_nothing_lands(harness: SinkHarness) -> None:
    part = inserts(0, 2)
    text = changes([("c", {"id": "three", "name": "x"})], 3, schema=ORDERS_WITH_TEXT_ID)
    with closing(opened(harness)) as sink:
        sink.write(batch(part))
        with pytest.raises(UnsupportedChange, match=rf"(?s)id.*{TOPIC}|{TOPIC}.*id"):
            sink.write(batch(inserts(2, 1), text))
    assert harness.rows() == expected(harness, part)
    assert committed(harness) == {TP0: 2}


@check()
def dropped_column_stops_even_after_a_restart(harness: SinkHarness) -> None:
    part = inserts(0, 2)
    shorter = changes([("c", {"id": 3, "name": "x"})], 2, schema=ORDERS_WITHOUT_AMOUNT)
    with closing(opened(harness)) as sink:
        sink.write(batch(part))
    with closing(opened(harness)) as sink, pytest.raises(UnsupportedChange, match="amount"):
        sink.write(batch(shorter))
    assert harness.rows() == expected(harness, part)
    assert committed(harness) == {TP0: 2}


@check()
def foreign_table_that_does_not_fit_is_refused_by_column(harness: SinkHarness) -> None:
    with closing(opened(harness)) as sink:
        sink.write(batch(inserts(0, 2)))
    stranger = changes([("c", {"id": "a", "payer": "Ada"})], 0, topic=OTHER_TOPIC, schema=_TEXT_INVOICES)
    with (
        closing(opened(harness, (OTHER_TOPIC,))) as sink,
        pytest.raises(ConfigurationError, match=r"(?s)id .*amount|amount.*id "),
    ):
        sink.write(batch(stranger))
    assert harness.rows() == expected(harness, inserts(0, 2))


@check("upsert")
def more_partitions_stop_an_upsert(harness: SinkHarness) -> None:
    with closing(opened(harness)) as sink:
        sink.write(batch(inserts(0, 2), counts={TOPIC: 1}))
        sink.write(batch(inserts(2, 1), counts={TOPIC: 1}))
    with closing(opened(harness)) as sink, pytest.raises(KeyMoved, match=TOPIC):
        sink.write(batch(inserts(3, 1), counts={TOPIC: 2}))
    assert committed(harness) == {TP0: 3}
    assert harness.rows() == folded(inserts(0, 3))


@check("append")
def more_partitions_are_fine_for_a_change_log(harness: SinkHarness) -> None:
    with closing(opened(harness)) as sink:
        sink.write(batch(inserts(0, 2), counts={TOPIC: 1}))
        sink.write(batch(inserts(2, 1), inserts(0, 2, partition=1), counts={TOPIC: 2}))
    assert harness.rows() == log_rows(inserts(0, 3), inserts(0, 2, partition=1))


@check("upsert")
def key_in_two_partitions_of_one_batch_stops(harness: SinkHarness) -> None:
    twice = changes([order("c", 1)], 0), changes([order("u", 1, "elsewhere")], 0, partition=1)
    with closing(opened(harness)) as sink, pytest.raises(KeyMoved, match="id"):
        sink.write(batch(*twice))
    assert harness.rows() == []


@check("upsert")
def table_without_key_is_refused(harness: SinkHarness) -> None:
    keyless = changes([order("c", 1)], 0, schema=_KEYLESS)
    with closing(opened(harness)) as sink, pytest.raises(UnsupportedChange, match=r"(?s)key.*append"):
        sink.write(batch(keyless))
    assert harness.rows() == []


@check()
def table_that_vanishes_is_not_made_anew_in_silence(harness: SinkHarness) -> None:
    with closing(opened(harness)) as sink:
        sink.write(batch(inserts(0, 2)))
        harness.drop()
        with pytest.raises(DestinationChanged):
            sink.write(batch(inserts(2, 2)))
        with pytest.raises(DestinationChanged):
            sink.committed([TP0])
    assert harness.rows() == []


@check()
def table_that_was_replaced_is_not_written_into(harness: SinkHarness) -> None:
    with closing(opened(harness)) as sink, closing(opened(harness)) as other:
        sink.write(batch(inserts(0, 2)))
        harness.drop()
        other.write(batch(inserts(0, 2, partition=1)))
        with pytest.raises(DestinationChanged):
            sink.write(batch(inserts(2, 2)))
    assert harness.rows() == expected(harness, inserts(0, 2, partition=1))


@check()
def table_that_was_replaced_by_one_with_the_same_offsets_is_noticed(harness: SinkHarness) -> None:
    with closing(opened(harness)) as sink, closing(opened(harness)) as other:
        sink.write(batch(inserts(0, 2)))
        harness.drop()
        other.write(batch(inserts(1, 1)))
        with pytest.raises(DestinationChanged):
            sink.write(batch(inserts(2, 2)))
    assert harness.rows() == expected(harness, inserts(1, 1))


@check("upsert")
def composite_key_with_text_folds_by_all_its_columns(harness: SinkHarness) -> None:
    def line(op: str, region: str, number: int, name: str | None = None) -> tuple[str, dict[str, Any]]:
        return op, {"region": region, "line": number, "name": name}

    tricky = ["north", "north'; --", 'say "hi"', "", "Zürich 🏔", "back\\slash", "a\nb", "null"]
    start = changes([line("c", region, n, "old") for region in tricky for n in (1, 2)], 0, schema=LINES)
    later = [line("u", region, 1, "new") for region in tricky] + [line("d", region, 2) for region in tricky[:4]]
    update = changes(later, start.next, schema=LINES)
    with closing(opened(harness)) as sink:
        sink.write(batch(start))
        sink.write(batch(update))
    assert harness.rows() == folded(start, update)


def _write(sink: Sink, todo: Batch) -> None:
    sink.write(todo)


def _lose_the_response() -> None:
    raise Unavailable("the connection broke after the commit was sent")


def _with_id(schema: TableSchema, schema_id: int | None) -> TableSchema:
    return TableSchema(schema.columns, schema.key, schema_id)


_KEYLESS = TableSchema(ORDERS.columns, (), 1)
_TEXT_INVOICES = TableSchema(INVOICES.columns.set(0, ORDERS_WITH_TEXT_ID.columns.field("id")), ("id",), 8)
