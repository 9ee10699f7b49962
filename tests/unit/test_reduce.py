"""Folding changes by key: the last one per key, as a loop over the records would do it."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.errors import KeyMoved, UnsupportedChange, ValuesUnknown
from sinks.base import Batch, OffsetRange
from sinks.reduce import check_partition_counts, nothing, reduce
from sinks.unchanged import without
from sources.changes import CDC_OFFSET, CDC_OP, CDC_TS, CDC_UNCHANGED, UNCHANGED_FIELD, ChangeBatch, TableSchema

COLUMNS = pa.schema([("region", pa.string()), ("number", pa.int32()), ("value", pa.string())])
SCHEMA = TableSchema(COLUMNS, ("region", "number"), 1)
WIDER = TableSchema(COLUMNS.append(pa.field("note", pa.string())), ("region", "number"), 2)

Step = tuple[str, str, int]


def change(steps: list[Step], first: int = 0, partition: int = 0, schema: TableSchema = SCHEMA) -> ChangeBatch:
    """Changes (op, region, number); the value tells the offset, so that each version of a row is told apart."""
    offsets = range(first, first + len(steps))
    columns: dict[str, Any] = {
        "region": pa.array([s[1] for s in steps], pa.string()),
        "number": pa.array([s[2] for s in steps], pa.int32()),
        "value": pa.array(
            [None if s[0] == "d" else f"at {o}" for s, o in zip(steps, offsets, strict=True)], pa.string()
        ),
        "note": pa.array([None if s[0] == "d" else "noted" for s in steps], pa.string()),
        CDC_OFFSET: pa.array(offsets, pa.int64()),
        CDC_OP: pa.array([s[0] for s in steps], pa.string()),
        CDC_TS: pa.nulls(len(steps), pa.timestamp("us", tz="UTC")),
    }
    names = [*schema.columns.names, CDC_OFFSET, CDC_OP, CDC_TS]
    rows = pa.table({name: columns[name] for name in names})
    return ChangeBatch("lines", partition, first, first + len(steps), schema, rows)


def batch(*changes: ChangeBatch) -> Batch:
    return Batch({c.tp: OffsetRange(c.first, c.next) for c in changes}, changes)


steps = st.tuples(st.sampled_from("crud"), st.sampled_from(["", "n", "s'"]), st.integers(0, 3))


@given(st.lists(steps, min_size=1, max_size=40), st.lists(steps, max_size=40), st.data())
def test_reduce_equals_a_loop_over_the_records(zero: list[Step], one: list[Step], data: st.DataObject) -> None:
    one = [(op, region, number + 10) for op, region, number in one]
    cut = data.draw(st.integers(0, len(zero)))
    parts = [change(zero[:cut]), change(zero[cut:], cut, schema=WIDER), change(one, 0, partition=1)]
    last: dict[tuple[str, int], dict[str, Any]] = {}
    for part in parts:
        for row in part.changelog().to_pylist():
            last.pop((row["region"], row["number"]), None)
            last[row["region"], row["number"]] = {**row, "note": row.get("note")}
    reduced = reduce(batch(*parts), nothing)
    assert reduced.key == ("region", "number")
    upserts, deletes = reduced.upserts.to_pylist(), reduced.deletes.to_pylist()
    assert upserts == [row for row in last.values() if row[CDC_OP] != "d"]
    assert deletes == [row for row in last.values() if row[CDC_OP] == "d"]


def test_change_of_an_earlier_batch_position_never_wins() -> None:
    late, early = change([("u", "n", 1)], 5), change([("c", "n", 1)], 0)
    assert reduce(batch(late, early), nothing).upserts.column("value").to_pylist() == ["at 5"]


def test_key_in_two_partitions_stops_with_key_and_place() -> None:
    parts = change([("c", "n", 1), ("c", "n", 2)]), change([("u", "s", 9), ("u", "n", 2)], 70, partition=1)
    with pytest.raises(KeyMoved, match=r"'number': 2.*partitions 0 and 1.*offset 71"):
        reduce(batch(*parts), nothing)


@pytest.mark.parametrize("key", [(), ("region",)])
def test_missing_or_changing_key_is_refused_with_the_way_out(key: tuple[str, ...]) -> None:
    other = TableSchema(COLUMNS, key, 3)
    with pytest.raises(UnsupportedChange, match=r"lines: upsert needs one primary key.*write_mode: append"):
        reduce(batch(change([("c", "n", 1)], schema=other), change([("c", "n", 1)], 1)), nothing)


def test_partition_count_may_grow_only_where_no_key_is_written() -> None:
    grown = Batch({}, [], {"lines": 4})
    check_partition_counts("t", {"lines": 2}, grown, keyed=False)
    check_partition_counts("t", {"lines": 4, "other": 1}, grown, keyed=True)
    check_partition_counts("t", {}, grown, keyed=True)
    with pytest.raises(KeyMoved, match="topic lines had 2 partitions when table t was first written and has 4 now"):
        check_partition_counts("t", {"lines": 2}, grown, keyed=True)


KEYED = TableSchema(pa.schema([("id", pa.int64()), ("a", pa.string()), ("b", pa.list_(pa.int32()))]), ("id",), 1)
UNSENT = st.sampled_from([(), (), ("a",), ("b",), ("a", "b")])


@given(
    st.lists(st.tuples(st.sampled_from("cuuud"), st.integers(0, 3), UNSENT), min_size=1, max_size=25),
    st.sets(st.integers(0, 3)),
)
def test_values_that_were_not_sent_are_those_from_before(
    steps: list[tuple[str, int, tuple[str, ...]]], there: set[int]
) -> None:
    """As a loop over the records does it: from earlier changes, else from the destination, else nobody knows."""
    rows: list[dict[str, Any]] = []
    state: dict[int, dict[str, Any]] = {key: {"a": f"old {key}", "b": [key]} for key in there}
    lacks: dict[int, set[str]] = {}
    for offset, (op, key, names) in enumerate(steps):
        unsent = names if op == "u" else ()
        sent = {"a": f"at {offset}", "b": [offset, None]} if op != "d" else {"a": None, "b": None}
        row = {name: None if name in unsent else value for name, value in sent.items()}
        rows.append({"id": key, **row, CDC_OFFSET: offset, CDC_OP: op, CDC_UNCHANGED: list(unsent) or None})
        before = state.pop(key, None)
        lost = lacks.pop(key, set()) & set(unsent) | ({*unsent} if before is None else set())
        if op != "d":
            state[key] = {name: (before or {}).get(name) if name in unsent else value for name, value in sent.items()}
            lacks[key] = lost
    fields = [*KEYED.columns, pa.field(CDC_OFFSET, pa.int64()), pa.field(CDC_OP, pa.string()), UNCHANGED_FIELD]
    log = pa.Table.from_pylist(rows, pa.schema(fields))
    log = log.append_column(CDC_TS, pa.nulls(len(rows), pa.timestamp("us", tz="UTC")))
    part = ChangeBatch("t", 0, 0, len(rows), KEYED, log)
    table = pa.table(
        {
            "id": pa.array(sorted(there), pa.int64()),
            "a": pa.array([f"old {key}" for key in sorted(there)], pa.large_string()),
            "b": pa.array([[key] for key in sorted(there)], pa.large_list(pa.int32())),
        }
    )
    unknown = sorted(key for key, names in lacks.items() if names)
    if unknown:
        with pytest.raises(ValuesUnknown) as error:
            reduce(batch(part), lambda *_: table)
        assert {steps[offset][1] for _, _, offset in error.value.records} == set(unknown)
        kept = without(batch(part), error.value.records.keys())
        assert kept.num_rows == len(rows) - len(error.value.records)
        if kept.changes:  # a change without rows is none
            reduce(kept, lambda *_: table)
        return
    reduced = reduce(batch(part), lambda *_: table)
    found = {row["id"]: {"a": row["a"], "b": row["b"]} for row in reduced.upserts.to_pylist()}
    changed = {key for _, key, _ in steps}
    assert found == {key: row for key, row in state.items() if key in changed}
    assert CDC_UNCHANGED not in reduced.upserts.column_names
