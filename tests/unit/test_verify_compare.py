"""The comparison's promises: every difference is found, named and counted, and nothing that isn't one."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from verify.compare import Differing, compare, concat, fold, overlay

COLUMNS = pa.schema([("id", pa.int64()), ("part", pa.string()), ("value", pa.float64())])
LOG = pa.schema([*COLUMNS, ("_cdc_partition", pa.int32()), ("_cdc_offset", pa.int64()), ("_cdc_op", pa.string())])
KEY = ["id", "part"]

Rows = dict[tuple[int, str], float | None]

keys = st.tuples(st.integers(0, 5), st.sampled_from(["", "a", "b"]))
values = st.one_of(st.none(), st.sampled_from([0.0, 1.5, float("nan")]))
tables = st.dictionaries(keys, values, max_size=12)


def arrow(rows: Rows) -> pa.Table:
    return pa.table([[k[0] for k in rows], [k[1] for k in rows], list(rows.values())], schema=COLUMNS)


def arrow_log(changes: list[tuple[tuple[int, str], str, float | None]]) -> pa.Table:
    """A log whose changes of a key are in one partition, as Debezium's partitioning makes them."""
    rows = [
        {"id": k[0], "part": k[1], "value": None if op == "d" else v, "_cdc_partition": k[0] % 2, "_cdc_offset": offset}
        | {"_cdc_op": op}
        for offset, (k, op, v) in enumerate(changes)
    ]
    return pa.Table.from_pylist(rows, LOG)


def same(a: float | None, b: float | None) -> bool:
    return a == b or (a is not None and b is not None and a != a and b != b)


def named(found: Differing) -> dict[str, set[tuple[int, str]]]:
    kinds: dict[str, set[tuple[int, str]]] = {kind: set() for kind in found.counts}
    for one in found.rows():
        kinds[one.kind].add((one.key["id"], one.key["part"]))
    return kinds


@given(tables, tables, st.sets(keys, max_size=3))
def test_counts_and_rows_are_those_of_a_plain_comparison(source: Rows, sink: Rows, twice: set[tuple[int, str]]) -> None:
    doubled = twice & sink.keys()
    again = arrow({key: sink[key] for key in doubled})
    found = compare(arrow(source), pa.concat_tables([arrow(sink), again]), KEY)
    expected = {
        "missing": source.keys() - sink.keys(),
        "extra": sink.keys() - source.keys(),
        "doubled": doubled & source.keys(),
        "different": {k for k in (source.keys() & sink.keys()) - doubled if not same(source[k], sink[k])},
    }
    assert found.counts == {kind: len(wanted) for kind, wanted in expected.items()}
    assert named(found) == expected


def test_a_difference_names_the_columns_with_both_values() -> None:
    columns = pa.schema([("id", pa.int64()), ("a", pa.string()), ("b", pa.string()), ("c", pa.float64())])
    source = pa.table([[1], [""], ["x"], [float("nan")]], schema=columns)
    sink = pa.table([[1], [None], ["x"], [float("nan")]], schema=columns)
    (difference,) = compare(source, sink, ["id"]).rows()
    assert (difference.kind, difference.key, difference.columns) == ("different", {"id": 1}, {"a": ("", None)})


def test_a_table_of_keys_only_is_compared() -> None:
    only_keys = arrow({(1, "a"): 1.0}).select(KEY)
    assert not any(compare(only_keys, only_keys, KEY).counts.values())
    assert compare(only_keys, only_keys.slice(1), KEY).counts["missing"] == 1


@given(tables, tables, st.integers(0, 4))
def test_of_several_parts_the_first_differences_in_key_order_are_kept(source: Rows, sink: Rows, limit: int) -> None:
    whole = compare(arrow(source), arrow(sink), KEY)
    kept = whole.none()
    for number in range(3):
        part = [{k: v for k, v in rows.items() if k[0] % 3 == number} for rows in (source, sink)]
        kept = concat(kept, compare(arrow(part[0]), arrow(part[1]), KEY), limit)
    # as texts: NaN is not equal to itself
    assert [repr(one) for one in kept.rows()] == [repr(one) for one in whole.rows(limit)]


changes = st.lists(st.tuples(keys, st.sampled_from("crud"), values), max_size=30)


def replayed(rows: Rows, log: list[tuple[tuple[int, str], str, float | None]]) -> Rows:
    rows = dict(rows)
    for key, op, value in log:
        if op == "d":
            rows.pop(key, None)
        else:
            rows[key] = value
    return rows


def content(rows: pa.Table) -> Counter[str]:
    return Counter(repr(tuple(row.values())) for row in rows.select(COLUMNS.names).to_pylist())


@given(changes, st.randoms())
def test_the_fold_of_a_log_is_the_table_that_its_changes_make(
    log: list[tuple[tuple[int, str], str, float | None]], rng: object
) -> None:
    rows = arrow_log(log)
    order = list(range(len(log)))
    rng.shuffle(order)  # type: ignore[attr-defined]
    shuffled = rows.take(pa.array(order, pa.int64()))
    assert content(fold(shuffled, KEY)) == content(arrow(replayed({}, log)))


@given(tables, changes, st.integers(0, 30))
def test_a_snapshot_after_the_changes_since_is_the_later_table_even_if_it_has_some_of_them(
    rows: Rows, log: list[tuple[tuple[int, str], str, float | None]], seen: int
) -> None:
    snapshot = arrow(replayed(rows, log[:seen]))
    assert content(overlay(snapshot, arrow_log(log), KEY)) == content(arrow(replayed(rows, log)))
