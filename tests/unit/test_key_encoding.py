"""Keys become bytes without collisions, whatever their columns hold."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.errors import UnsupportedChange
from tables.key_encoding import sorted_keys

VALUES: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.int16(), st.integers(-(2**15), 2**15 - 1)),
    (pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    (pa.bool_(), st.booleans()),
    (pa.string(), st.text(max_size=6)),
    (pa.large_string(), st.text(max_size=6)),
    (pa.binary(), st.binary(max_size=6)),
    (pa.binary(16), st.binary(min_size=16, max_size=16)),
    (pa.decimal128(12, 3), st.integers(-(10**11), 10**11).map(lambda n: Decimal(n).scaleb(-3))),
    (pa.date32(), st.dates()),
    (pa.time64("us"), st.times()),
    (pa.timestamp("us"), st.datetimes()),
    (pa.timestamp("us", tz="UTC"), st.datetimes(timezones=st.just(UTC))),
]


@st.composite
def key_tables(draw: st.DrawFn) -> pa.Table:
    """Rows of a random key, with many values repeated so that rows collide where they should."""
    kinds = draw(st.lists(st.sampled_from(VALUES), min_size=1, max_size=3))
    rows = draw(st.integers(1, 12))
    columns = []
    for kind, values in kinds:
        some = draw(st.lists(values, min_size=1, max_size=3))
        picked = draw(st.lists(st.sampled_from(some), min_size=rows, max_size=rows))
        columns.append(pa.chunked_array([pa.array(picked[: rows // 2], kind), pa.array(picked[rows // 2 :], kind)]))
    return pa.table(columns, names=[f"k{n}" for n in range(len(columns))])


def encode_keys(keys: pa.Table, prefix: bytes) -> list[bytes]:
    """In row order."""
    found, order = sorted_keys(keys, prefix)
    return [key for _, key in sorted(zip(order.tolist(), found, strict=True))]


@given(key_tables(), st.binary(max_size=5))
def test_rows_have_equal_bytes_exactly_when_their_keys_are_equal(keys: pa.Table, prefix: bytes) -> None:
    encoded = encode_keys(keys, prefix)
    rows = [tuple(row.values()) for row in keys.to_pylist()]
    assert len(encoded) == len(rows)
    assert all(key.startswith(prefix) for key in encoded)
    by_key: dict[tuple[Any, ...], set[bytes]] = {}
    for row, key in zip(rows, encoded, strict=True):
        by_key.setdefault(row, set()).add(key)
    assert all(len(found) == 1 for found in by_key.values())
    assert len(set(encoded)) == len(by_key)


@given(key_tables())
def test_keys_are_in_byte_order_and_know_their_rows(keys: pa.Table) -> None:
    found, order = sorted_keys(keys, b"p")
    assert found == sorted(found)
    assert sorted(order.tolist()) == list(range(keys.num_rows))
    for row, key in zip(order.tolist(), found, strict=True):
        assert sorted_keys(keys.slice(row, 1), b"p")[0] == [key]


@given(key_tables(), st.integers(0, 11))
def test_a_slice_encodes_as_its_rows_do_in_the_whole(keys: pa.Table, start: int) -> None:
    whole = encode_keys(keys, b"")
    assert encode_keys(keys.slice(start), b"") == whole[start:]


def test_texts_do_not_flow_into_each_other() -> None:
    keys = pa.table({"a": ["a", "ab", "", "abc"], "b": ["bc", "c", "abc", ""]})
    assert len(set(encode_keys(keys, b""))) == 4


def test_null_in_a_key_stops_and_names_the_column() -> None:
    with pytest.raises(UnsupportedChange, match="key column b holds a null"):
        encode_keys(pa.table({"a": [1, 2], "b": ["x", None]}), b"")


@pytest.mark.parametrize("column", [pa.array([[1]]), pa.array([{"x": 1}]), pa.array(["a"]).dictionary_encode()])
def test_column_that_cannot_be_a_key_stops_and_names_the_way_out(column: pa.Array) -> None:
    with pytest.raises(UnsupportedChange, match=r"key column tags is .*append"):
        encode_keys(pa.table({"tags": column}), b"")


def test_temporal_keys_keep_their_precision() -> None:
    moments = [datetime(1969, 12, 31, 23, 59, 59, us, UTC) for us in (0, 1, 999_999)]
    keys = pa.table(
        {
            "at": pa.array(moments, pa.timestamp("us", tz="UTC")),
            "on": pa.array([date(1, 1, 1), date(1970, 1, 1), date(9999, 12, 31)]),
            "t": pa.array([time(0, 0, 0, 1), time(0, 0, 0, 2), time(23, 59, 59, 999_999)]),
        }
    )
    for name in keys.column_names:
        assert len(set(encode_keys(keys.select([name]), b""))) == 3
