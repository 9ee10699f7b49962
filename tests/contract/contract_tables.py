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
    OTHER_TOPIC,
    TOPIC,
    batch,
    changes,
    folded,
    log_rows,
    order,
    truncate,
    unsent,
)
from contract_harness import SinkHarness

from config.errors import ConfigurationError, DestinationChanged, KeyMoved, UnsupportedChange, ValuesUnknown
from sinks.unchanged import without
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


ONE_PARTITION = {TOPIC: 1}


@check("upsert")
def truncate_empties_the_table_where_it_stands(harness: SinkHarness) -> None:
    before = [changes([order("c", key) for key in range(6)], 0), changes([order("u", 1, "new"), order("d", 2)], 6)]
    mixed = [changes([order("c", 8), order("u", 0, "gone")], 8), truncate(10), changes([order("c", 9)], 11)]
    after = changes([order("c", 0, "back"), order("u", 9, "changed"), order("d", 5)], 12)
    with closing(opened(harness)) as sink:
        for part in before:
            sink.write(batch(part, counts=ONE_PARTITION))
        sink.write(batch(*mixed, counts=ONE_PARTITION))
        assert harness.rows() == folded(*before, *mixed)
        sink.write(batch(after, counts=ONE_PARTITION))
        assert harness.rows() == folded(*before, *mixed, after)
        sink.write(batch(truncate(15), truncate(16), counts=ONE_PARTITION))
        assert harness.rows() == []
        sink.tidy()
    assert committed(harness) == {TP0: 17}
    again = changes([order("c", 0, "again"), order("c", 1)], 17)
    with closing(opened(harness)) as sink:
        sink.write(batch(again, counts=ONE_PARTITION))
    assert harness.rows() == folded(again)


@check("upsert")
def truncate_of_a_table_that_is_not_there_is_none(harness: SinkHarness) -> None:
    with closing(opened(harness)) as sink:
        sink.write(batch(truncate(0), counts=ONE_PARTITION))
        later = [truncate(1), changes([order("c", 1)], 2), truncate(3), changes([order("c", 2)], 4)]
        sink.write(batch(*later, counts=ONE_PARTITION))
    assert harness.rows() == folded(*later)
    assert committed(harness) == {TP0: 5}


@check("upsert")
def truncate_of_a_topic_with_several_partitions_stops(harness: SinkHarness) -> None:
    start = inserts(0, 3)
    with closing(opened(harness)) as sink:
        sink.write(batch(start, counts={TOPIC: 2}))
        with pytest.raises(UnsupportedChange, match=r"partition 0, offset 3: .*truncated.* has 2 partitions"):
            sink.write(batch(truncate(3), counts={TOPIC: 2}))
    assert harness.rows() == folded(start)
    assert committed(harness) == {TP0: 3}


@check("append")
def truncate_is_a_row_of_the_log(harness: SinkHarness) -> None:
    parts = [inserts(0, 2), truncate(2), changes([order("c", 1, "new")], 3)]
    with closing(opened(harness)) as sink:
        sink.write(batch(*parts, counts={TOPIC: 3}))
        sink.write(batch(truncate(4), counts={TOPIC: 3}))
    rows = harness.rows()
    assert rows == log_rows(*parts, truncate(4))
    assert [row["_cdc_op"] for row in rows] == ["c", "c", "t", "c", "t"]


@check("upsert")
def value_that_was_not_sent_stays_as_it_was(harness: SinkHarness) -> None:
    """In the table, in the same batch, after a restart, and through a chain of such changes."""
    parts = [
        changes([order("r", key, f"first {key}") for key in range(8)], 0),
        changes([unsent("u", 0, "name"), unsent("u", 1, "name", "amount"), order("u", 2, "second")], 8),
        changes(
            [
                order("u", 3, "third"),
                unsent("u", 3, "name"),
                unsent("u", 3, "amount", name="fourth"),
                unsent("u", 4, "name"),
                unsent("u", 4, "amount"),
                order("d", 5),
                order("c", 5, "again"),
                unsent("u", 5, "name"),
                unsent("u", 6, "name"),
                order("d", 6),
            ],
            11,
        ),
    ]
    with closing(opened(harness)) as sink:
        for part in parts:
            sink.write(batch(part))
            sink.tidy()
    assert harness.rows() == folded(*parts)
    more = [changes([unsent("u", 1, "name"), unsent("u", 2, "name")], 21), changes([unsent("u", 4, "name")], 23)]
    others = changes([order("c", 101, "other")], 0, partition=1), changes([unsent("u", 101, "name")], 1, partition=1)
    with closing(opened(harness)) as sink:
        sink.write(batch(more[0], others[0]))
        sink.write(batch(more[1], others[1]))
    assert harness.rows() == folded(*parts, *more, *others)


@check("upsert")
def value_that_nobody_knows_names_its_records_and_writes_nothing(harness: SinkHarness) -> None:
    start = inserts(0, 2)
    part = changes(
        [unsent("u", 7, "name"), order("u", 0), unsent("u", 10, "amount"), unsent("u", 7, "name", "amount"),
         order("d", 8), unsent("u", 8, "name")],
        2,
    )  # fmt: skip
    with closing(opened(harness)) as sink:
        sink.write(batch(start))
        with pytest.raises(
            ValuesUnknown, match=r"partition 0, offset 2: .*didn't send name of the row .*'id': 7"
        ) as error:
            sink.write(batch(part))
        assert list(error.value.records) == [(TOPIC, 0, 2), (TOPIC, 0, 5), (TOPIC, 0, 7)]
        assert "name, amount" in error.value.records[TOPIC, 0, 5]
        assert harness.rows() == folded(start)
        assert sink.committed([TP0]) == {TP0: 2}
        sink.write(without(batch(part), error.value.records.keys()))
    kept = changes([order("u", 0), unsent("u", 10, "amount"), order("d", 8)], 3)
    assert [{k: v for k, v in row.items() if k not in ("_cdc_offset", "_cdc_ts")} for row in harness.rows()] == [
        {k: v for k, v in row.items() if k not in ("_cdc_offset", "_cdc_ts")} for row in folded(start, kept)
    ]
    assert committed(harness) == {TP0: 8}


@check("upsert")
def value_that_was_not_sent_is_not_looked_for_before_a_truncate(harness: SinkHarness) -> None:
    with closing(opened(harness)) as sink:
        sink.write(batch(inserts(0, 2), counts=ONE_PARTITION))
        with pytest.raises(ValuesUnknown):
            sink.write(batch(truncate(2), changes([unsent("u", 10, "name")], 3), counts=ONE_PARTITION))
    assert harness.rows() == folded(inserts(0, 2))


@check("append")
def log_names_the_values_that_were_not_sent(harness: SinkHarness) -> None:
    parts = [inserts(0, 2), changes([unsent("u", 0, "name"), order("u", 10), unsent("u", 10, "at", "amount")], 2)]
    with closing(opened(harness)) as sink:
        for part in parts:
            sink.write(batch(part))
        sink.write(batch(changes([order("d", 0)], 5)))
    rows = harness.rows()
    assert rows == log_rows(*parts, changes([order("d", 0)], 5))
    assert [row.get("_cdc_unchanged") for row in rows] == [None, None, ["name"], None, ["at", "amount"], None]


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
    with closing(opened(harness, policies={"drop": "stop"})) as sink, pytest.raises(UnsupportedChange, match="more"):
        sink.write(batch(changes([order("c", 3)], 5, schema=noted)))


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
