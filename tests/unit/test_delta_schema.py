"""How Delta tables keep source types: exact, or refused by name."""

from __future__ import annotations

from datetime import time
from decimal import Decimal

import pyarrow as pa
import pytest
from deltalake.schema import Schema
from hypothesis import given
from hypothesis import strategies as st

from config.errors import UnsupportedChange
from sinks.delta.schema import in_shape, stored, table_columns
from sources.changes import CDC_FIELDS

SAME = [
    pa.bool_(),
    pa.int8(),
    pa.int16(),
    pa.int32(),
    pa.int64(),
    pa.float32(),
    pa.float64(),
    pa.string(),
    pa.binary(),
    pa.date32(),
    pa.decimal128(38, 10),
    pa.timestamp("us"),
    pa.timestamp("us", tz="UTC"),
    pa.list_(pa.field("element", pa.int16())),
    pa.struct([("srid", pa.int32()), ("wkb", pa.binary())]),
    pa.map_(pa.string(), pa.string()),
]


@pytest.mark.parametrize("kind", SAME, ids=str)
def test_type_that_delta_has_is_kept_and_comes_back_from_the_table(kind: pa.DataType) -> None:
    assert stored(kind) == kind
    assert pa.schema(Schema.from_arrow(pa.schema([("x", kind)])).to_arrow()).field("x").type == kind


@pytest.mark.parametrize(
    ("kind", "kept"),
    [
        (pa.uint8(), pa.int16()),
        (pa.uint32(), pa.int64()),
        (pa.uint64(), pa.decimal128(20, 0)),
        (pa.time64("us"), pa.string()),
        (pa.time32("ms"), pa.string()),
        (pa.timestamp("ms", tz="UTC"), pa.timestamp("us", tz="UTC")),
        (pa.binary(16), pa.binary()),
        (pa.list_(pa.time64("us")), pa.list_(pa.field("element", pa.string()))),
        (pa.struct([("n", pa.uint16())]), pa.struct([("n", pa.int32())])),
    ],
    ids=str,
)
def test_type_that_delta_lacks_is_kept_at_one_that_holds_it(kind: pa.DataType, kept: pa.DataType) -> None:
    assert stored(kind) == kept


@pytest.mark.parametrize(
    "kind",
    [pa.timestamp("ns"), pa.decimal256(50, 2), pa.duration("us"), pa.month_day_nano_interval(), pa.float16()],
    ids=str,
)
def test_type_that_would_lose_something_is_refused_by_name(kind: pa.DataType) -> None:
    with pytest.raises(UnsupportedChange, match=r"can't keep the type .* without loss"):
        stored(kind)


@given(st.lists(st.times() | st.none(), max_size=20))
def test_times_are_text_of_all_digits_that_sorts_as_they_do(times: list[time | None]) -> None:
    rows = pa.table({"t": pa.array(times, pa.time64("us"))})
    texts = in_shape(rows, pa.schema([("t", pa.string())])).column("t").to_pylist()
    assert texts == [t and t.isoformat("microseconds") for t in times]


@given(st.lists(st.integers(0, 2**64 - 1), max_size=20))
def test_unsigned_numbers_keep_every_digit(numbers: list[int]) -> None:
    rows = pa.table({"n": pa.array(numbers, pa.uint64())})
    kept = in_shape(rows, pa.schema([("n", pa.decimal128(20, 0))])).column("n").to_pylist()
    assert kept == [Decimal(n) for n in numbers]


def test_columns_that_rows_lack_are_null_and_order_is_the_tables() -> None:
    columns = pa.schema([("note", pa.string()), ("id", pa.int64())])
    assert in_shape(pa.table({"id": [1, 2]}), columns).to_pylist() == [{"note": None, "id": 1}, {"note": None, "id": 2}]


def test_every_column_of_a_new_table_is_nullable() -> None:
    columns = table_columns((pa.field("id", pa.int64(), nullable=False),))
    assert columns.names == ["id", *(field.name for field in CDC_FIELDS)]
    assert all(field.nullable for field in columns)
