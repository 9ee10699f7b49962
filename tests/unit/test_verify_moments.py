"""Dates and times of a database's text: what lakes hold, what they don't, and exact texts of both."""

from __future__ import annotations

from datetime import date
from typing import Any

import pyarrow as pa
import pytest

from verify import structured
from verify.moments import Moments, nulled, without_zeros
from verify.texts import OUT_OF_RANGE, Read, lists, readable

EXACT = Moments(exact=True)


def read(how: Read, kind: pa.DataType, *texts: str | None) -> list[Any]:
    found: list[Any] = how(pa.array(texts, pa.string()), kind).to_pylist()
    return found


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        (pa.date32(), ["infinity", "-infinity", "10000-01-01", "0044-03-15 BC", "0000-00-00"]),
        (pa.timestamp("us"), ["infinity", "10000-01-01 00:00:00", "0001-12-31 23:59:59.999999 BC"]),
        (pa.timestamp("us", "UTC"), ["-infinity", "10000-01-01 00:00:00"]),
        (pa.time64("us"), ["24:00:00", "-12:34:56.789012", "838:59:59"]),
        (pa.string(), ["24:00:00", "-00:00:01"]),  # times of day in Delta
    ],
)
def test_what_lakes_cannot_hold_equals_no_value_that_they_hold(kind: pa.DataType, texts: list[str]) -> None:
    found = Moments()(pa.array([*texts, None]), kind)
    assert found.type == kind
    assert [readable(value) for value in found] == [*[OUT_OF_RANGE] * len(texts), None]
    assert found.null_count == 1
    assert nulled(Moments())(pa.array(texts), kind).null_count == len(texts)


def test_a_list_with_a_value_that_lakes_cannot_hold_is_null_as_a_whole() -> None:
    kind = pa.list_(pa.date32())
    texts = ('["2024-01-01", "infinity"]', '["2024-01-01", null]', "[]", None)
    assert read(nulled(lists(Moments())), kind, *texts) == [None, [date(2024, 1, 1), None], [], None]


@pytest.mark.parametrize(
    ("text", "exact"),
    [
        ("2024-02-29", "2024-02-29"),
        ("infinity", "infinity"),
        ("-infinity", "-infinity"),
        ("10000-01-01", "+10000-01-01"),
        ("5874897-12-31", "+5874897-12-31"),
        ("0001-01-01 BC", "0000-01-01"),
        ("0044-03-15 BC", "-0043-03-15"),
        ("2024-02-29 12:34:56.789", "2024-02-29T12:34:56.789000"),
        ("0044-03-15 12:00:00 BC", "-0043-03-15T12:00:00.000000"),
        ("10000-01-01 00:00:00.5", "+10000-01-01T00:00:00.500000"),
        ("12:34:56", "12:34:56.000000"),
        ("24:00:00", "24:00:00.000000"),
        ("-12:34:56.789012", "-12:34:56.789012"),
        ("838:59:59", "838:59:59.000000"),
        (None, None),
    ],
)
def test_exact_texts(text: str | None, exact: str | None) -> None:
    assert read(EXACT, pa.string(), text) == [exact]
    assert read(EXACT, pa.string(), None, text) == [None, exact]


def test_seconds_have_the_digits_that_the_connector_writes() -> None:
    texts = ("2024-02-29 12:34:56.700000", "2024-02-29 12:34:56.000000", "2024-02-29 12:34:00")
    assert read(Moments(exact=True, digits=None), pa.string(), *texts) == [
        "2024-02-29T12:34:56.7",
        "2024-02-29T12:34:56",
        "2024-02-29T12:34:00",
    ]
    assert read(Moments(exact=True, digits=3, zone="Z"), pa.string(), "2024-02-29 12:34:56") == [
        "2024-02-29T12:34:56.000Z"
    ]
    assert read(Moments(exact=True, digits=0, zone="Z"), pa.string(), "2024-02-29 12:34:56") == ["2024-02-29T12:34:56Z"]
    assert read(Moments(exact=True, digits=9), pa.string(), "12:34:56.5", "12:34:56.123456789") == [
        "12:34:56.500000000",
        "12:34:56.123456789",
    ]


@pytest.mark.parametrize("digits", [None, 6, 9])
def test_times_in_delta_have_six_digits_whatever_the_connector_writes(digits: int | None) -> None:
    assert read(Moments(digits=digits), pa.string(), "12:34:56.5", "12:34:00") == ["12:34:56.500000", "12:34:00.000000"]


def test_microseconds_are_cut_off_not_rounded() -> None:
    texts = ("1969-12-31 23:59:59.999999", "2024-02-29 12:34:56.7")
    assert read(Moments(exact=True, cut=True), pa.string(), *texts) == [
        "1969-12-31T23:59:59.999000",
        "2024-02-29T12:34:56.700000",
    ]


def test_instants_as_text_are_alike_whatever_zeros_they_end_with() -> None:
    texts = ["2024-02-29T12:34:50.500000Z", "2024-02-29T12:34:50.5Z", "2024-02-29T12:34:50.000Z", "infinity", None]
    assert without_zeros(pa.array(texts)).to_pylist() == [
        "2024-02-29T12:34:50.5Z",
        "2024-02-29T12:34:50.5Z",
        "2024-02-29T12:34:50Z",
        "infinity",
        None,
    ]


def test_timestamps_beyond_what_64_bits_count_are_dead_letters_even_as_text() -> None:
    texts = ("294247-01-10 04:00:54.775807", "294247-01-10 04:00:54.775808", "294276-12-31 23:59:59")
    last, *beyond = read(Moments(exact=True, counted=True), pa.string(), *texts)
    assert last == "+294247-01-10T04:00:54.775807"
    assert beyond == [OUT_OF_RANGE, OUT_OF_RANGE]


def test_structured_moments() -> None:
    parse = structured.moment(3, "Z")
    assert parse("0044-03-15 12:34:56.5 BC") == {
        "year": -43, "month": 3, "day": 15, "hour": 12, "minute": 34, "second": 56, "nanos": 500_000_000,
        "offsetSeconds": 0, "zoneId": "Z", "precision": 3,
    }  # fmt: skip
    assert parse("-infinity") == {"specialValue": "NEGATIVE_INFINITY", "precision": 3}
    assert structured.moment(6)("24:00:00-05:30")["offsetSeconds"] == -19_800
    assert structured.moment(6)("2024-02-29")["day"] == 29
    with pytest.raises(ValueError, match="no date or time"):
        parse("tomorrow")


def test_structured_durations_have_a_sign_in_each_part() -> None:
    assert structured.duration(6)("P0Y-1M3DT0H0M-0.5S") == {
        "years": 0, "months": -1, "days": 3, "hours": 0, "minutes": 0, "seconds": 0, "nanos": -500_000_000,
        "precision": 6,
    }  # fmt: skip
    with pytest.raises(ValueError, match="no duration"):
        structured.duration(6)("1 day")
