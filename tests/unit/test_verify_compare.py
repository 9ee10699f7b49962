"""The comparison's promises: every difference is found, named and counted, and nothing that isn't one."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from verify.compare import compare, fold

COLUMNS = pa.schema([("id", pa.int64()), ("part", pa.string()), ("value", pa.float64())])

keys = st.tuples(st.integers(0, 5), st.sampled_from(["", "a", "b"]))
values = st.one_of(st.none(), st.sampled_from([0.0, 1.5, float("nan")]))
tables = st.dictionaries(keys, values, max_size=12)


def arrow(rows: dict[tuple[int, str], float | None]) -> pa.Table:
    return pa.table([[k[0] for k in rows], [k[1] for k in rows], list(rows.values())], schema=COLUMNS)


def same(a: float | None, b: float | None) -> bool:
    return a == b or (a is not None and b is not None and a != a and b != b)


@given(tables, tables)
def test_counts_and_examples_are_those_of_a_plain_comparison(
    source: dict[tuple[int, str], float | None], sink: dict[tuple[int, str], float | None]
) -> None:
    found = compare(arrow(source), arrow(sink), ["id", "part"], examples=100)
    missing = source.keys() - sink.keys()
    extra = sink.keys() - source.keys()
    different = {key for key in source.keys() & sink.keys() if not same(source[key], sink[key])}
    assert (found.missing, found.extra, found.different) == (len(missing), len(extra), len(different))
    assert found.equal == (not (missing or extra or different))
    named = {kind: set() for kind in ("missing", "extra", "different")}
    for example in found.examples:
        named[example.kind].add((example.key["id"], example.key["part"]))
    assert named == {"missing": missing, "extra": extra, "different": different}


def test_a_difference_names_the_columns_with_both_values() -> None:
    found = compare(arrow({(1, "a"): 1.0}), arrow({(1, "a"): None}), ["id", "part"], examples=5)
    assert found.examples[0].columns == {"value": (1.0, None)}


def test_a_row_that_the_sink_holds_twice_is_extra() -> None:
    twice = pa.concat_tables([arrow({(1, "a"): 1.0}), arrow({(1, "a"): 1.0})])
    found = compare(arrow({(1, "a"): 1.0}), twice, ["id", "part"], examples=5)
    assert (found.sink_rows, found.extra, found.equal) == (2, 1, False)


def test_a_table_of_keys_only_is_compared() -> None:
    only_keys = arrow({(1, "a"): 1.0}).select(["id", "part"])
    assert compare(only_keys, only_keys, ["id", "part"], examples=5).equal


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("cud"), st.integers(0, 1)), max_size=30), st.randoms())
def test_the_fold_is_the_last_change_of_each_key_in_partition_and_offset_order(
    changes: list[tuple[int, str, int]], rng: object
) -> None:
    # a key's changes are in one partition, as Debezium's partitioning makes them
    rows = [(key, op, key % 2, offset) for offset, (key, op, _) in enumerate(changes)]
    expected = {}
    for key, op, _, offset in rows:
        expected[key] = (op, offset)
    wanted = {(key, offset) for key, (op, offset) in expected.items() if op != "d"}
    rng.shuffle(rows)  # type: ignore[attr-defined]
    columns = {
        "id": pa.array([r[0] for r in rows], pa.int64()),
        "_cdc_op": pa.array([r[1] for r in rows], pa.string()),
        "_cdc_partition": pa.array([r[2] for r in rows], pa.int32()),
        "_cdc_offset": pa.array([r[3] for r in rows], pa.int64()),
    }
    folded = fold(pa.table(columns), ["id"]).to_pylist()
    assert {(row["id"], row["_cdc_offset"]) for row in folded} == wanted
