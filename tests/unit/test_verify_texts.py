"""A database's texts become exactly the values that a lake table holds, type by type."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.errors import ConfigurationError
from verify.lake_types import holds, plain_type
from verify.moments import Moments
from verify.texts import (
    Read,
    bits,
    column,
    documents,
    each,
    entries,
    finite,
    hexadecimal,
    lists,
    plain,
    sorted_maps,
    strings,
)

MOMENTS = Moments()


def read(texts: Sequence[str | None], kind: pa.DataType, how: Read = plain) -> list[Any]:
    found = column("c", pa.array(texts, pa.string()), kind, how)
    assert found.type == kind
    values: list[Any] = found.to_pylist()
    return values


def days(value: date | datetime | time) -> str:
    return value.isoformat(" ") if isinstance(value, datetime) else value.isoformat()


CASES: dict[str, tuple[pa.DataType, st.SearchStrategy[Any], Any, Read]] = {
    "int64": (pa.int64(), st.integers(-(2**63), 2**63 - 1), str, plain),
    "int32": (pa.int32(), st.integers(-(2**31), 2**31 - 1), str, plain),
    "double": (pa.float64(), st.floats(allow_nan=False, allow_infinity=False), repr, plain),
    "float": (pa.float32(), st.floats(width=32, allow_nan=False, allow_infinity=False), repr, plain),
    "decimal": (
        pa.decimal128(38, 6),
        st.decimals(-(10**20), 10**20, places=6, allow_nan=False, allow_infinity=False),
        lambda value: format(value, "f"),
        finite,
    ),
    "boolean": (pa.bool_(), st.booleans(), lambda value: str(value).lower(), plain),
    "text": (pa.string(), st.text(), str, plain),
    "bytes": (pa.binary(), st.binary(), bytes.hex, hexadecimal),
    "date": (pa.date32(), st.dates(), days, MOMENTS),
    "timestamp": (pa.timestamp("us"), st.datetimes(), days, MOMENTS),
    "time": (pa.time64("us"), st.times(), days, MOMENTS),
    "list": (
        pa.list_(pa.int64()),
        st.lists(st.one_of(st.none(), st.integers(-9, 9))),
        lambda values: json.dumps([None if value is None else str(value) for value in values]),
        lists(plain),
    ),
    "map": (
        pa.map_(pa.string(), pa.string()),
        st.dictionaries(st.text(), st.none() | st.text()).map(lambda value: list(value.items())),
        lambda value: json.dumps(dict(value)),
        each(entries),
    ),
}


@pytest.mark.parametrize("name", CASES)
@given(data=st.data())
def test_every_value_survives_its_text(name: str, data: st.DataObject) -> None:
    kind, values, write, how = CASES[name]
    wanted = data.draw(st.lists(st.one_of(st.none(), values), max_size=20))
    assert read([None if value is None else write(value) for value in wanted], kind, how) == wanted


@given(st.lists(st.datetimes(timezones=st.just(UTC))))
def test_instants_are_in_utc(wanted: list[datetime]) -> None:
    texts: list[str | None] = [value.replace(tzinfo=None).isoformat(" ") for value in wanted]
    assert read(texts, pa.timestamp("us", "UTC"), MOMENTS) == wanted


def test_special_numbers() -> None:
    not_a_number, *infinities = read(["NaN", "Infinity", "-Infinity"], pa.float64())
    assert math.isnan(not_a_number)
    assert infinities == [math.inf, -math.inf]
    # as the connector sends them
    numbers = ["NaN", "Infinity", "-Infinity", "1.5"]
    assert read(numbers, pa.decimal128(5, 2), finite) == [None, None, None, Decimal("1.50")]
    assert read(numbers, pa.string(), finite) == [None, None, None, "1.5"]
    assert read(["18446744073709551615"], pa.decimal128(20, 0), finite) == [Decimal(2**64 - 1)]


def test_null_is_not_empty() -> None:
    assert read([None, ""], pa.string()) == [None, ""]
    assert read([None, ""], pa.binary(), hexadecimal) == [None, b""]
    assert read([None, "[]", "[null]", '[""]'], pa.list_(pa.string()), lists(plain)) == [None, [], [None], [""]]
    assert read([None, "{}"], pa.map_(pa.string(), pa.string()), each(entries)) == [None, []]


def test_bit_strings_are_bytes_lowest_first() -> None:
    assert read(["1", "10000000", "000000011", None], pa.binary(), each(bits)) == [b"\1", b"\x80", b"\3\0", None]


def test_items_of_lists_have_their_own_forms() -> None:
    assert read(['["2024-02-29", null]'], pa.list_(pa.date32()), lists(MOMENTS)) == [[date(2024, 2, 29), None]]
    assert read(['["1.10", "2"]'], pa.list_(pa.decimal128(4, 2)), lists(finite)) == [[Decimal("1.10"), Decimal("2.00")]]
    assert read(['["00ff", null, ""]'], pa.list_(pa.binary()), lists(hexadecimal)) == [[b"\0\xff", None, b""]]
    moments = read(['["2024-02-29 01:02:03.000004"]'], pa.list_(pa.timestamp("us")), lists(MOMENTS))
    assert moments == [[datetime(2024, 2, 29, 1, 2, 3, 4)]]  # noqa: DTZ001
    nested = read(['["{\\"a\\": \\"1\\"}", null]'], pa.list_(pa.map_(pa.string(), pa.string())), lists(each(entries)))
    assert nested == [[[("a", "1")], None]]


@pytest.mark.parametrize(
    ("text", "kind"),
    [("x", pa.int32()), ("2147483648", pa.int32()), ("1.005", pa.decimal128(5, 2)), ("2024-02-30", pa.date32())],
)
def test_a_value_that_does_not_fit_is_named(text: str, kind: pa.DataType) -> None:
    with pytest.raises(ConfigurationError, match=r"column c: the source's values can't be compared at the sink's type"):
        read([text], kind, MOMENTS if pa.types.is_date(kind) else plain)


def test_a_text_that_is_not_utf8_is_told() -> None:
    with pytest.raises(ConfigurationError, match="isn't UTF-8"):
        strings([b"\xff"])


def test_json_is_compared_by_content() -> None:
    texts = pa.array(['{"b": 1, "a": [1.50, null]}', '{"a":[1.5,null],"b":1}', "no json", None])
    one, other, bare, none = documents(texts).to_pylist()
    assert one == other
    assert (bare, none) == ("no json", None)
    assert documents(pa.array([['{"b":1,"a":2}', None], None])).to_pylist() == [['{"a":2,"b":1}', None], None]


def test_maps_are_compared_in_the_order_of_their_keys() -> None:
    kind = pa.map_(pa.string(), pa.string())
    found = sorted_maps(pa.array([[("b", "1"), ("a", '{"x": 1}')], None], kind))
    assert found.to_pylist() == [[("a", '{"x": 1}'), ("b", "1")], None]
    assert found.type == kind
    inner = pa.array([{"type": [("b", "1"), ("a", None)]}, None], pa.struct([("type", kind)]))
    assert sorted_maps(inner).to_pylist() == [{"type": [("a", None), ("b", "1")]}, None]
    assert sorted_maps(pa.array([[[("b", "1"), ("a", "2")], None]], pa.list_(kind))).to_pylist() == [
        [[("a", "2"), ("b", "1")], None]
    ]


def test_plain_types() -> None:
    assert plain_type(pa.large_list(pa.large_string())) == pa.list_(pa.field("element", pa.string()))
    assert plain_type(pa.binary(16)) == pa.binary()
    assert plain_type(pa.struct([("a", pa.string_view())])) == pa.struct([("a", pa.string())])
    entry = pa.map_(pa.large_string(), pa.field("v", pa.string_view(), nullable=False))
    assert plain_type(entry) == pa.map_(pa.string(), pa.string())


def test_a_table_holds_what_the_decoder_gives_and_delta_has_times_as_text() -> None:
    time_ = pa.time64("us")
    assert holds(pa.string(), time_)
    assert holds(pa.list_(pa.field("element", pa.string())), pa.list_(time_))
    assert holds(pa.list_(pa.field("element", time_)), pa.list_(pa.field("element", time_, nullable=False)))
    assert not holds(pa.string(), pa.date32())
    assert not holds(pa.string(), pa.list_(time_))
    assert not holds(pa.decimal128(10, 2), pa.decimal128(12, 2))
