"""Checksums of key ranges differ where rows do, whatever their order and however they are cut into batches."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verify.digests import RANGES, Digests, Keys, Ranges, hash_keys, hash_rows, ranges_of
from verify.spill import PART_ROWS, Spill, spill_for

SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("part", pa.string()),
        ("text", pa.string()),
        ("raw", pa.binary()),
        ("amount", pa.decimal128(12, 2)),
        ("ratio", pa.float64()),
        ("small", pa.float32()),
        ("day", pa.date32()),
        ("at", pa.timestamp("us", "UTC")),
        ("seen", pa.timestamp("us")),
        ("lunch", pa.time64("us")),
        ("yes", pa.bool_()),
        ("list", pa.list_(pa.int32())),
        ("point", pa.struct([("x", pa.float64()), ("y", pa.float64())])),
    ]
)
KEY = ("id", "part")

VALUES: dict[str, Any] = {
    "text": st.sampled_from(["", "a", "é", "a\0"]),
    "raw": st.sampled_from([b"", b"\0", b"a"]),
    "amount": st.sampled_from([Decimal("0.00"), Decimal("1.10"), Decimal("-1.10")]),
    "ratio": st.sampled_from([0.0, -0.0, 1.5, float("nan"), float("inf")]),
    "small": st.sampled_from([0.0, 0.5]),
    "day": st.sampled_from([date(1970, 1, 1), date(2024, 2, 29)]),
    "at": st.sampled_from([datetime(1970, 1, 1, tzinfo=UTC), datetime(2024, 2, 29, 1, 2, 3, 4, tzinfo=UTC)]),
    "seen": st.sampled_from([datetime(1970, 1, 1), datetime(1969, 12, 31, 23, 59, 59, 999999)]),  # noqa: DTZ001
    "lunch": st.sampled_from([time(0, 0), time(12, 34, 56, 789000)]),
    "yes": st.booleans(),
    "list": st.lists(st.one_of(st.none(), st.integers(0, 2)), max_size=2),
    "point": st.fixed_dictionaries({"x": st.sampled_from([0.0, 1.0]), "y": st.one_of(st.none(), st.just(1.0))}),
}
row = st.fixed_dictionaries(
    {"id": st.integers(-3, 3), "part": st.sampled_from(["", "x"])}
    | {name: st.one_of(st.none(), values) for name, values in VALUES.items()}
)


def canonical(rows: list[dict[str, Any]]) -> Counter[str]:
    """As the comparison sees them: 0.0 and -0.0 are equal, and columns in one order."""
    ordered = pa.Table.from_pylist(rows, SCHEMA).to_pylist()
    return Counter(repr({k: v + 0.0 if isinstance(v, float) else v for k, v in row.items()}) for row in ordered)


def digest(rows: list[dict[str, Any]], cuts: int = 1) -> Digests:
    found = Digests()
    for first in range(0, len(rows), cuts):
        # a slice of a longer array, as readers give them
        table = pa.Table.from_pylist([*rows[:1], *rows[first : first + cuts]], SCHEMA).slice(1)
        found.add(table, KEY)
    return found


@given(st.lists(row, max_size=6), st.lists(row, max_size=6), st.integers(1, 6), st.randoms())
def test_sides_agree_if_and_only_if_they_hold_the_same_rows(
    one: list[dict[str, Any]], other: list[dict[str, Any]], cuts: int, rng: Any
) -> None:
    shuffled = list(one)
    rng.shuffle(shuffled)
    assert not digest(one).differing(digest(shuffled, cuts)).any()
    differs = digest(one).differing(digest(other, cuts)).any()
    assert differs == (canonical(one) != canonical(other))


def test_a_differing_row_marks_its_range_only() -> None:
    rows = [{"id": n, "part": "", "ratio": 1.0} for n in range(1000)]
    marks = digest(rows, 100).differing(digest([{**r, "ratio": 2.0} if r["id"] == 7 else r for r in rows], 100))
    key = hash_keys(pa.Table.from_pylist([{"id": 7, "part": ""}], SCHEMA), KEY)
    assert np.flatnonzero(marks).tolist() == ranges_of(key).tolist()


def test_keys_spread_evenly_over_the_ranges() -> None:
    keys = hash_keys(pa.table({"id": pa.array(range(20 * RANGES))}), ["id"])
    counts = np.bincount(ranges_of(keys), minlength=RANGES)
    assert counts.min() > 0
    assert counts.max() < 60


def test_the_hashes_of_a_row_are_independent_and_of_64_bits() -> None:
    first, second = hash_rows(pa.table({"id": pa.array(range(100_000)), "text": pa.array(["x"] * 100_000)}))
    assert len(np.unique(first)) == len(np.unique(second)) == 100_000
    agreeing = np.bitwise_count(~(first ^ second)).mean()
    assert 31.9 < agreeing < 32.1


@pytest.mark.parametrize("limit", [1000, 10])
def test_selected_keys_are_found_again_and_few_others(limit: int) -> None:
    hashes = hash_keys(pa.table({"id": pa.array(range(10_000))}), ["id"])
    keys = Keys(limit)
    for first in range(0, 100, 10):
        keys.add(hashes[first : first + 10])
    marks = keys.marks(hashes)
    assert marks[:100].all()
    # beyond the limit whole ranges are selected
    assert marks[100:].sum() == (
        0 if limit == 1000 else np.isin(ranges_of(hashes[100:]), ranges_of(hashes[:100])).sum()
    )
    assert not Keys().marks(hashes).any()


def test_ranges_select_their_keys() -> None:
    hashes = hash_keys(pa.table({"id": pa.array(range(100))}), ["id"])
    wanted = np.zeros(RANGES, np.bool_)
    wanted[ranges_of(hashes[:3])] = True
    assert Ranges(wanted).marks(hashes)[:3].all()
    assert Ranges(wanted).marks(hashes).sum() < 10


@given(st.lists(st.lists(st.integers(0, 40), max_size=20), max_size=5), st.integers(1, 7))
def test_a_spill_gives_all_rows_back_and_each_key_in_one_part(batches: list[list[int]], parts: int) -> None:
    schema = pa.schema([("id", pa.int64()), ("place", pa.int64())])
    everything = []
    with spill_for(0) as outer:
        spill = Spill(Path(outer._folder), parts)
        for stream in ("source", "sink"):
            with spill.writing(stream):
                place = 0
                for batch in batches:
                    rows = pa.table([batch, range(place, place + len(batch))], schema=schema)
                    place += len(batch)
                    spill.add(rows, hash_keys(rows, ["id"]))
        found = {stream: [spill.read(stream, part, schema) for part in range(parts)] for stream in ("source", "sink")}
    everything = [(value, place) for place, value in enumerate(value for batch in batches for value in batch)]
    for tables in found.values():
        back = [(r["id"], r["place"]) for table in tables for r in table.to_pylist()]
        assert sorted(back, key=lambda pair: pair[1]) == everything
    for source, sink in zip(found["source"], found["sink"], strict=True):
        assert source.equals(sink)  # in the same order in the same part
        assert source.column("place").to_pylist() == sorted(source.column("place").to_pylist())
    ids = [set(table.column("id").to_pylist()) for table in found["source"]]
    assert sum(map(len, ids)) == len(set().union(*ids))


def test_a_spill_has_as_many_parts_as_its_rows_need() -> None:
    with spill_for(PART_ROWS * 3) as spill:
        assert spill.parts == 3
    with spill_for(10**12) as spill:
        assert spill.parts == 400  # files that are open at once
