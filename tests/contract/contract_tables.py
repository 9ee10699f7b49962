"""Checks of what a table holds and accepts: keys, columns, topics, partitions, and tables that others touch."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pyarrow as pa
import pytest
from contract_base import TP0, check, committed, expected, inserts, opened
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
    folded,
    log_rows,
    order,
)
from contract_harness import SinkHarness

from config.errors import ConfigurationError, DestinationChanged, KeyMoved, UnsupportedChange
from sources.changes import TableSchema, TopicPartition


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


def _with_id(schema: TableSchema, schema_id: int | None) -> TableSchema:
    return TableSchema(schema.columns, schema.key, schema_id)


_KEYLESS = TableSchema(ORDERS.columns, (), 1)
_TEXT_INVOICES = TableSchema(INVOICES.columns.set(0, ORDERS_WITH_TEXT_ID.columns.field("id")), ("id",), 8)
