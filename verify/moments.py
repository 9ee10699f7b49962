"""Dates, times and timestamps of a database's text, at a lake's type or as the exact text of `misfit: text`.

A database writes `2024-02-29`, `12:34:56.789`, `2024-02-29 12:34:56.789` in UTC, PostgreSQL also `infinity`, years of
five digits and `0044-03-15 BC`, MariaDB also times of several days or before 0. What Arrow's types don't hold is beyond
all of them (`verify.texts.BEYOND`), so that it equals nothing.

This is not the decoder's way to the same values on purpose: a mistake there is a difference here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from verify.texts import BEYOND, OUT_OF_RANGE, Read

_USUAL = r"^((000[1-9]|00[1-9]\d|0[1-9]\d\d|[1-9]\d{3})-\d\d-\d\d)?( ?([01]\d|2[0-3]):\d\d:\d\d(\.\d{1,6})?)?$"
_LAST_IN_MICROS = (294_247, "01-10 04:00:54.775807")
"""Debezium counts in 64 bits; PostgreSQL's timestamps go on."""


@dataclass(frozen=True)
class Moments:
    """A `Read` of such texts. `exact`: the column is text that holds them all, with so many `digits` of a second (None:
    as many as there are) and `zone` behind it. `cut`: what is finer than milliseconds is lost on the way.
    `counted`: timestamps that 64 bits can't count in microseconds don't come through."""

    exact: bool = False
    digits: int | None = 6
    zone: str = ""
    cut: bool = False
    counted: bool = False

    def __call__(self, texts: pa.Array, kind: pa.DataType) -> pa.Array:
        if self.cut:
            texts = pc.replace_substring_regex(texts, r"(\.\d{3})\d+", r"\1")
        usual = pc.match_substring_regex(texts, _USUAL)
        inside = pc.if_else(usual, texts, None)
        if not pa.types.is_string(kind):
            return _typed(inside, pc.invert(usual), kind)
        odd = pc.invert(usual).fill_null(False)
        others = pa.array([self._odd(text) for text in texts.filter(odd).to_pylist()], pa.string())
        return pc.replace_with_mask(self._written(inside), odd, others)

    def _written(self, texts: pa.Array) -> pa.Array:
        """ISO 8601 of usual values."""
        digits = self.digits if self.exact else 6
        texts = pc.replace_substring(texts, " ", "T")
        timed = pc.match_substring(texts, ":")
        bare = pc.utf8_rtrim(pc.replace_substring_regex(texts, r"(\.\d*?)0+$", r"\1"), ".")
        if digits:
            pointed = pc.if_else(pc.match_substring(bare, "."), bare, pc.binary_join_element_wise(bare, "", "."))
            width = pc.max(pc.add(pc.find_substring(pointed, "."), 1 + digits)).as_py()
            bare = pc.utf8_rpad(pointed, width or 0, "0")
        return pc.if_else(timed, pc.binary_join_element_wise(bare, self.zone, ""), texts)

    def _odd(self, text: str) -> str:
        if not self.exact or (self.counted and _uncounted(text)):
            return OUT_OF_RANGE
        if text.endswith("infinity"):
            return text
        era = re.fullmatch(r"(\d+)(-\d\d-\d\d.*) BC", text)
        if era:
            year = 1 - int(era[1])
            text = f"{'-' if year < 0 else ''}{abs(year):04}{era[2]}"
        elif re.match(r"\d{5,}-", text):
            text = f"+{text}"
        day, _, clock = text.rpartition(" ")
        if ":" not in clock:
            return text
        seconds, _, fraction = clock.partition(".")
        fraction = fraction if self.digits is None else fraction.ljust(self.digits, "0")
        return f"{day}{'T' if day else ''}{seconds}{'.' if fraction else ''}{fraction}{self.zone}"


def without_zeros(texts: pa.Array) -> pa.Array:
    """Exact texts of instants without the last zeros of their seconds."""
    return pc.replace_substring_regex(pc.replace_substring_regex(texts, r"(\.\d*?)0+Z$", r"\1Z"), r"\.Z$", "Z")


def nulled(read: Read) -> Read:
    """The same values; null where one of them (or of a list) is beyond a lake's types."""

    def checked(texts: pa.Array, kind: pa.DataType) -> pa.Array:
        values = read(texts, kind)
        wrong = _beyond(values)
        return values.take(pa.array(np.arange(len(values)), mask=wrong)) if wrong.any() else values

    return checked


def _beyond(values: pa.Array) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    if pa.types.is_list(values.type):
        wrong = np.zeros(len(values), np.bool_)
        wrong[pc.list_parent_indices(values).to_numpy()[_beyond(values.flatten())]] = True
        return wrong
    if pa.types.is_string(values.type):
        found = pc.equal(values, OUT_OF_RANGE)
    else:
        number, beyond = _number(values.type)
        found = pc.equal(values.view(number), beyond)
    return np.asarray(found.fill_null(False).to_numpy(zero_copy_only=False), np.bool_)


def _typed(inside: pa.Array, outside: pa.Array, kind: pa.DataType) -> pa.Array:
    number, beyond = _number(kind)
    if pa.types.is_time(kind):
        # Arrow has no parser of times: one of the first day is as many microseconds after 1970
        values = pc.binary_join_element_wise("1970-01-01", inside, " ").cast(pa.timestamp("us")).cast(number)
    elif pa.types.is_timestamp(kind):
        values = inside.cast(pa.timestamp(kind.unit)).cast(number)
    else:
        values = inside.cast(kind).cast(number)
    return pc.if_else(outside, pa.scalar(beyond, number), values).cast(number).view(kind)


def _number(kind: pa.DataType) -> tuple[pa.DataType, int]:
    if pa.types.is_date(kind):
        return pa.int32(), BEYOND["date"]
    return pa.int64(), BEYOND["time" if pa.types.is_time(kind) else "timestamp"]


def _uncounted(text: str) -> bool:
    found = re.fullmatch(r"(\d{5,})-(.*)", text)
    return found is not None and (int(found[1]), found[2]) > _LAST_IN_MICROS
