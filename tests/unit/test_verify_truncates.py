"""Truncates and values that weren't sent, in a change log that `cdc verify` folds or lays over a snapshot."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sources.changes import UNCHANGED_FIELD
from verify.compare import fold, overlay
from verify.report import Unclear
from verify.truncates import Truncates

COLUMNS = pa.schema([("id", pa.int64()), ("note", pa.string()), ("value", pa.int64())])
ORDER = [("_cdc_partition", pa.int32()), ("_cdc_offset", pa.int64()), ("_cdc_op", pa.string())]
LOG = pa.schema([*COLUMNS, *ORDER, UNCHANGED_FIELD])
KEY = ["id"]

Rows = dict[int, tuple[str | None, int]]
Change = tuple[int | None, str, str | None, int, bool]
"""Key, operation, note, value, and whether the note was left out."""

texts = st.one_of(st.none(), st.sampled_from(["", "long"]))
change = st.tuples(st.integers(0, 3), st.sampled_from("cruud"), texts, st.integers(0, 9), st.booleans())
truncate: st.SearchStrategy[Change] = st.just((None, "t", None, 0, False))
tables = st.dictionaries(st.integers(0, 3), st.tuples(texts, st.integers(0, 9)))
logs = st.lists(st.one_of(change, change, change, change, truncate), max_size=24)


def replayed(rows: Rows, log: list[Change]) -> tuple[Rows, list[Change]]:
    """The table after the log's changes, and the log as a database may have made it: only an update of a row that is
    there leaves a value out."""
    rows = dict(rows)
    possible: list[Change] = []
    for key, op, note, value, unsent in log:
        if op == "t" or key is None:
            rows.clear()
            possible.append((None, "t", None, 0, False))
            continue
        left_out = unsent and op == "u" and key in rows
        possible.append((key, op, note, value, left_out))
        if op == "d":
            rows.pop(key, None)
        else:
            rows[key] = rows[key][0] if left_out else note, value
    return rows, possible


def arrow(rows: Rows) -> pa.Table:
    return pa.Table.from_pylist([{"id": k, "note": n, "value": v} for k, (n, v) in rows.items()], COLUMNS)


def arrow_log(log: list[Change], partition: int = 0) -> pa.Table:
    rows = []
    for offset, (key, op, note, value, left_out) in enumerate(log):
        place = {"_cdc_partition": partition, "_cdc_offset": offset, "_cdc_op": op}
        gone = op in "td"
        named = {"_cdc_unchanged": ["note"] if left_out else None}
        sent = {"note": None if left_out or gone else note, "value": None if gone else value}
        rows.append({"id": key, **sent, **place, **named})
    return pa.Table.from_pylist(rows, LOG)


def content(rows: pa.Table) -> Counter[str]:
    return Counter(repr(tuple(row.values())) for row in rows.select(COLUMNS.names).to_pylist())


@given(logs, st.randoms(), st.integers(1, 5))
def test_a_log_with_truncates_and_unsent_values_folds_to_the_table_that_it_makes(
    log: list[Change], rng: object, batch: int
) -> None:
    after, possible = replayed({}, log)
    order = list(range(len(possible)))
    rng.shuffle(order)  # type: ignore[attr-defined]
    shuffled = arrow_log(possible).take(pa.array(order, pa.int64()))
    truncates = Truncates()
    kept = [truncates.without(shuffled.slice(at, batch)) for at in range(0, len(shuffled), batch)]
    rows = truncates.surviving(pa.concat_tables([LOG.empty_table(), *kept]))
    assert content(fold(rows, KEY)) == content(arrow(after))


@given(tables, logs, st.integers(0, 24))
def test_a_snapshot_after_the_changes_since_is_the_later_table(before: Rows, log: list[Change], seen: int) -> None:
    after, possible = replayed(before, log)
    at_snapshot, _ = replayed(before, possible[:seen])
    truncates = Truncates()
    changes = truncates.surviving(truncates.without(arrow_log(possible)))
    snapshot = COLUMNS.empty_table() if truncates.any else arrow(at_snapshot)
    assert content(overlay(snapshot, changes, KEY)) == content(arrow(after))


def test_a_change_that_lacks_a_value_which_nobody_has_differs_from_the_row() -> None:
    row = arrow({1: ("long", 5)})
    changed = overlay(COLUMNS.empty_table(), arrow_log([(1, "u", None, 5, True)]), KEY)
    assert content(changed) != content(row)


@pytest.mark.parametrize("known", [1, 2])
def test_the_place_of_a_truncate_among_several_partitions_is_not_guessed(known: int) -> None:
    truncates = Truncates(known)
    truncates.without(arrow_log([(None, "t", None, 0, False)]))
    if known == 1:
        assert truncates.any
        truncates.without(arrow_log([(1, "c", "x", 1, False)], partition=1))
    with pytest.raises(Unclear, match="several partitions"):
        truncates.surviving(LOG.empty_table())


def test_without_truncates_several_partitions_are_fine() -> None:
    truncates = Truncates(2)
    log = truncates.without(arrow_log([(1, "c", "x", 1, False)], partition=1))
    assert not truncates.any
    assert truncates.surviving(log).equals(log)
