"""A database's texts become exactly the values that a lake table holds, type by type."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.errors import ConfigurationError
from verify.texts import OUT_OF_RANGE, Form, canonical_json, column, plain_type, readable, strings


def read(texts: list[str | None], kind: pa.DataType, form: Form = "plain") -> list[Any]:
    return column("c", pa.array(texts, pa.string()), kind, form).to_pylist()


def days(value: date | datetime | time) -> str:
    return value.isoformat(" ") if isinstance(value, datetime) else value.isoformat()


CASES: dict[str, tuple[pa.DataType, st.SearchStrategy[Any], Any, Form]] = {
    "int64": (pa.int64(), st.integers(-(2**63), 2**63 - 1), str, "plain"),
    "int32": (pa.int32(), st.integers(-(2**31), 2**31 - 1), str, "plain"),
    "double": (pa.float64(), st.floats(allow_nan=False, allow_infinity=False), repr, "plain"),
    "float": (pa.float32(), st.floats(width=32, allow_nan=False, allow_infinity=False), repr, "plain"),
    "decimal": (
        pa.decimal128(38, 6),
        st.decimals(-(10**20), 10**20, places=6, allow_nan=False, allow_infinity=False),
        lambda value: format(value, "f"),
        "plain",
    ),
    "boolean": (pa.bool_(), st.booleans(), lambda value: str(value).lower(), "plain"),
    "text": (pa.string(), st.text(), str, "plain"),
    "bytes": (pa.binary(), st.binary(), bytes.hex, "hex"),
    "date": (pa.date32(), st.dates(), days, "plain"),
    "timestamp": (pa.timestamp("us"), st.datetimes(), days, "plain"),
    "time": (pa.time64("us"), st.times(), days, "plain"),
    "list": (pa.list_(pa.int64()), st.lists(st.one_of(st.none(), st.integers(-9, 9))), json.dumps, "json"),
}


@pytest.mark.parametrize("name", CASES)
@given(data=st.data())
def test_every_value_survives_its_text(name: str, data: st.DataObject) -> None:
    kind, values, write, form = CASES[name]
    wanted = data.draw(st.lists(st.one_of(st.none(), values), max_size=20))
    assert read([None if value is None else write(value) for value in wanted], kind, form) == wanted


@given(st.lists(st.datetimes(timezones=st.just(UTC))))
def test_instants_are_in_utc(wanted: list[datetime]) -> None:
    texts: list[str | None] = [value.replace(tzinfo=None).isoformat(" ") for value in wanted]
    assert read(texts, pa.timestamp("us", "UTC")) == wanted


def test_what_lakes_cannot_hold_equals_no_value_that_they_hold() -> None:
    for kind in (pa.date32(), pa.timestamp("us"), pa.timestamp("us", "UTC"), pa.time64("us")):
        found = column("c", pa.array([OUT_OF_RANGE, None]), kind, "plain")
        assert (found[0].is_valid, found[1].is_valid) == (True, False)
        assert readable(found[0]) == OUT_OF_RANGE
        assert found.type == kind


def test_special_numbers() -> None:
    not_a_number, *infinities = read(["NaN", "Infinity", "-Infinity"], pa.float64())
    assert math.isnan(not_a_number)
    assert infinities == [math.inf, -math.inf]
    # as the connector sends them
    assert read(["NaN", "Infinity", "-Infinity", "1.5"], pa.decimal128(5, 2)) == [None, None, None, Decimal("1.50")]


def test_null_is_not_empty() -> None:
    assert read([None, ""], pa.string()) == [None, ""]
    assert read([None, ""], pa.binary(), "hex") == [None, b""]
    assert read([None, "[]", "[null]"], pa.list_(pa.string()), "json") == [None, [], [None]]


def test_bit_strings_are_bytes_lowest_first() -> None:
    assert read(["1", "10000000", "000000011", None], pa.binary(), "bits") == [b"\1", b"\x80", b"\3\0", None]


def test_items_of_lists_have_their_own_forms() -> None:
    kind = pa.list_(pa.date32())
    assert read(['["2024-02-29", null]'], kind, "json") == [[date(2024, 2, 29), None]]
    assert read(["[1.10, 2]"], pa.list_(pa.decimal128(4, 2)), "json") == [[Decimal("1.10"), Decimal("2.00")]]
    moments = read(['["2024-02-29T01:02:03.000004"]'], pa.list_(pa.timestamp("us")), "json")
    assert moments == [[datetime(2024, 2, 29, 1, 2, 3, 4)]]  # noqa: DTZ001
    point = pa.struct([("x", pa.float64()), ("wkb", pa.binary()), ("srid", pa.int32())])
    assert read(['{"x": 1, "wkb": "00ff", "srid": null}'], point, "json") == [
        {"x": 1.0, "wkb": b"\0\xff", "srid": None}
    ]


@pytest.mark.parametrize(
    ("text", "kind"),
    [("x", pa.int32()), ("2147483648", pa.int32()), ("1.005", pa.decimal128(5, 2)), ("x", pa.date32())],
)
def test_a_value_that_does_not_fit_is_named(text: str, kind: pa.DataType) -> None:
    with pytest.raises(ConfigurationError, match=r"column c: the source's values can't be compared at the sink's type"):
        read([text], kind)


def test_a_text_that_is_not_utf8_is_told() -> None:
    with pytest.raises(ConfigurationError, match="isn't UTF-8"):
        strings([b"\xff"])


def test_json_is_compared_by_content() -> None:
    texts = pa.array(['{"b": 1, "a": [1.50, null]}', '{"a":[1.5,null],"b":1}', "no json", None])
    one, other, plain, none = canonical_json(texts).to_pylist()
    assert one == other
    assert (plain, none) == ("no json", None)


def test_plain_types() -> None:
    assert plain_type(pa.large_list(pa.large_string())) == pa.list_(pa.field("element", pa.string()))
    assert plain_type(pa.binary(16)) == pa.binary()
    assert plain_type(pa.struct([("a", pa.string_view())])) == pa.struct([("a", pa.string())])
