"""The ledger's promise: the group never commits past a sink, and never moves back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sources.changes import TopicPartition
from sources.ledger import OffsetLedger

TP = TopicPartition("t", 0)


def test_group_offset_is_the_minimum_over_the_sinks() -> None:
    ledger = OffsetLedger({"t": ["a", "b"]})
    ledger.assign({TP: {"a": 10, "b": 30}})
    assert ledger.committable(TP) == 10
    ledger.record("a", {TP: 50})
    assert ledger.committable(TP) == 30


def test_nothing_is_committable_while_a_sink_has_no_offset() -> None:
    ledger = OffsetLedger({"t": ["a", "b"]})
    ledger.assign({TP: {"a": 10}})
    assert ledger.committable(TP) is None
    ledger.record("b", {TP: 4})
    assert ledger.committable(TP) == 4


def test_receipts_of_revoked_partitions_are_ignored() -> None:
    ledger = OffsetLedger({"t": ["a"]})
    ledger.assign({})
    ledger.record("a", {TP: 9})
    assert ledger.committable(TP) is None
    assert ledger.partitions() == ()


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 1000)), max_size=50))
def test_committable_never_passes_a_sink_and_never_moves_back(receipts: list[tuple[str, int]]) -> None:
    ledger = OffsetLedger({"t": "abc"})
    ledger.assign({TP: dict.fromkeys("abc", 0)})
    highest = dict.fromkeys("abc", 0)
    last = 0
    for sink, offset in receipts:
        ledger.record(sink, {TP: offset})
        highest[sink] = max(highest[sink], offset)
        committable = ledger.committable(TP)
        assert committable == min(highest.values())
        assert committable >= last
        last = committable
