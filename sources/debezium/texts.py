"""Dates, times, timestamps and decimals as exact text: the form of a column whose `misfit` is `text`.

Values that Arrow's types hold are written by Arrow; the others, which are rare, one by one: PostgreSQL's infinity
(`infinity`, `-infinity`), years beyond 9999 (`+10000-01-01`), years before 1 (`-0043-03-15` is 44 BC), times of day
that are negative or reach 24:00 (`-12:34:56.000000`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sources.debezium.convert import FIRST_DAY, LAST_DAY, Build, Fault, primitive, text, variable_decimal
from sources.debezium.raw import Ints, Mask, Nothing, Numbers, Raw, Spans, Structs

Say = Callable[[int], str]
_DAYS_OF_400_YEARS = 146_097
_MARCH_OF_YEAR_0 = -719_468
_INFINITE_DATES = {
    -622_191_234: "infinity",
    -625_821_272: "-infinity",
    2_146_033_979: "infinity",
    -2_147_472_691: "-infinity",
}
"""What Debezium's PostgreSQL connector leaves of infinite dates in 32 bits, in a snapshot and while it streams: all
beyond the dates that PostgreSQL has."""
_INFINITE_MILLIS = {9_223_372_036_825_200_000: "infinity", -9_223_372_036_832_400_000: "-infinity"}
_INFINITE_MICROS = {2**63 - 1: "infinity", -(2**63): "-infinity"}
_INFINITE_YEARS = {"+292278994": "infinity", "+5877611": "infinity"} | dict.fromkeys(
    ("-5877611", "+292269055", "-292275055"), "-infinity"
)
"""The years that infinite dates and timestamps get in ISO texts."""
_FIRST_MICROS = -210_866_803_200_000_000
"""PostgreSQL's first timestamp, in 4714 BC: what lies before is one after 294247 that didn't fit into 64 bits."""


def _texts(raw: Raw, low: int, high: int, usual: Callable[[Ints, Mask], pa.Array], rare: Say) -> pa.Array:
    """Numbers as text: those in [low, high] by `usual`, which gets a mask of them, the others by `rare`."""
    if isinstance(raw, Nothing):
        return pa.nulls(raw.rows, pa.string())
    assert isinstance(raw, Numbers)
    values = raw.values.astype(np.int64)
    valid = np.ones(len(values), np.bool_) if raw.valid is None else raw.valid
    held = valid & (values >= low) & (values <= high)
    texts = usual(np.where(held, values, 0), held)
    others = np.flatnonzero(valid & ~held)
    if not len(others):
        return texts
    written = pa.array([rare(value) for value in values[others].tolist()], pa.string())
    return pc.replace_with_mask(texts, pa.array(valid & ~held), written)


def _date_text(days: int) -> str:
    """The proleptic Gregorian date of a day since 1970, as ISO 8601 writes it beyond the years 1 to 9999."""
    era, day = divmod(days - _MARCH_OF_YEAR_0, _DAYS_OF_400_YEARS)
    year_of_era = (day - day // 1460 + day // 36524 - day // 146096) // 365
    day -= 365 * year_of_era + year_of_era // 4 - year_of_era // 100
    month = (5 * day + 2) // 153  # 0 is March: the leap day is the last of the year
    year = year_of_era + 400 * era + (month >= 10)
    sign = "+" if year > 9999 else "-" if year < 0 else ""
    return f"{sign}{abs(year):04}-{(month + 2) % 12 + 1:02}-{day - (153 * month + 2) // 5 + 1:02}"


def _time_text(units: int, per_second: int) -> str:
    seconds, fraction = divmod(abs(units), per_second)
    digits = max(len(str(per_second)) - 1, 6)
    padded = str(fraction).zfill(len(str(per_second)) - 1).ljust(digits, "0")
    sign = "-" if units < 0 else ""
    return f"{sign}{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{padded}"


def DATE(raw: Raw, _fault: Fault) -> pa.Array:  # noqa: N802 - named as the other builds of fixed types are
    """`2024-02-29`, from days since 1970."""

    def usual(days: Ints, held: Mask) -> pa.Array:
        return primitive(pa.date32(), days.astype(np.int32), held).cast(pa.string())

    return _texts(raw, FIRST_DAY, LAST_DAY, usual, lambda days: _INFINITE_DATES.get(days) or _date_text(days))


def time_of_day(per_second: int) -> Build:
    """`12:34:56.789000` (nanoseconds: nine digits), from units since midnight."""

    def usual(units: Ints, held: Mask) -> pa.Array:
        if per_second > 10**6:
            return primitive(pa.time64("ns"), units, held).cast(pa.string())
        return primitive(pa.time64("us"), units * (10**6 // per_second), held).cast(pa.string())

    def build(raw: Raw, _fault: Fault) -> pa.Array:
        return _texts(raw, 0, 86_400 * per_second - 1, usual, lambda units: _time_text(units, per_second))

    return build


def timestamp(per_second: int) -> Build:
    """`2024-02-29T12:34:56.789000` (nanoseconds: nine digits), from units since 1970."""
    day = 86_400 * per_second
    infinite = _INFINITE_MILLIS if per_second == 10**3 else _INFINITE_MICROS
    first = _FIRST_MICROS if per_second == 10**6 else -(2**63)

    def usual(units: Ints, held: Mask) -> pa.Array:
        arrow = pa.timestamp("us" if per_second <= 10**6 else "ns")
        written = primitive(arrow, units * max(10**6 // per_second, 1), held).cast(pa.string())
        return pc.replace_substring(written, pattern=" ", replacement="T")

    def rare(units: int) -> str:
        days, rest = divmod(units, day)
        return infinite.get(units) or f"{_date_text(days)}T{_time_text(rest, per_second)}"

    def build(raw: Raw, fault: Fault) -> pa.Array:
        if isinstance(raw, Numbers):
            lost = (raw.values < first) & (raw.values != -(2**63))
            if raw.valid is not None:
                lost &= raw.valid
            if lost.any():
                fault(lost, "a timestamp lies beyond what the connector's 64 bits can count")
        return _texts(raw, FIRST_DAY * day, (LAST_DAY + 1) * day - 1, usual, rare)

    return build


def iso(raw: Raw, fault: Fault) -> pa.Array:
    """ISO texts without the Z that Debezium puts behind values without zone."""
    bare = pc.utf8_rtrim(text(raw, fault), characters="Z")
    odd = pc.match_substring_regex(bare, "^[+-]").fill_null(False)
    if not pc.any(odd, min_count=0).as_py():
        return bare
    written = [_INFINITE_YEARS.get(value[: value.index("-", 1)], value) for value in bare.filter(odd).to_pylist()]
    return pc.replace_with_mask(bare, odd, pa.array(written, pa.string()))


def decimal(scale: int) -> Build:
    """Plain digits with `scale` decimals, from big-endian two's complement."""

    def build(raw: Raw, fault: Fault) -> pa.Array:
        if isinstance(raw, Nothing):
            return pa.nulls(raw.rows, pa.string())
        assert isinstance(raw, Spans)
        scales = Numbers(np.full(len(raw.start), scale, np.int32))
        return variable_decimal(Structs({"scale": scales, "value": raw}, len(raw.start), raw.valid), fault)

    return build
