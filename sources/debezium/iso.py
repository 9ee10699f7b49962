"""ISO 8601 texts (ZonedTimestamp, and the time.precision.mode isostring) as Arrow's dates, times and timestamps.

Arrow's parser is quick and knows what a date is; a pattern first refuses what it would read in its own way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sources.debezium.convert import DAY_US, FIRST_DAY, LAST_DAY, Build, Fault, copied
from sources.debezium.raw import Raw

_DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_TIME = r"[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?"


@dataclass(frozen=True)
class _Form:
    """One of the forms: its Arrow type, the pattern of a sound text, and whether Arrow is to see it without its Z."""

    arrow: pa.DataType
    pattern: str
    cut: bool
    what: str


def _build(form: _Form) -> Build:
    def build(raw: Raw, fault: Fault) -> pa.Array:
        texts = copied(raw, pa.string())
        try:
            values = _cast(texts, form)
        except pa.ArrowInvalid:
            values = _sound_ones(texts, form, fault)
        if not pa.types.is_time(form.arrow):
            days = pc.cast(values, pa.int32() if pa.types.is_date(form.arrow) else pa.int64())
            unit = 1 if pa.types.is_date(form.arrow) else DAY_US
            numbers = days.fill_null(0).to_numpy(zero_copy_only=False)
            wrong = (numbers < FIRST_DAY * unit) | (numbers >= (LAST_DAY + 1) * unit)
            if wrong.any():
                fault(wrong, f"a {form.what} lies outside the years 1 to 9999")
        return values

    return build


def _cast(texts: pa.Array, form: _Form) -> pa.Array:
    if not form.cut:
        return texts.cast(form.arrow)
    if not pc.all(pc.ends_with(texts, pattern="Z"), min_count=0).as_py():
        raise pa.ArrowInvalid("a text has no Z")
    bare = pc.utf8_rtrim(texts, characters="Z")
    if not pa.types.is_time(form.arrow):
        return bare.cast(form.arrow)
    # Arrow has no parser of times: one of the first day is as many microseconds after 1970
    moments = pc.binary_join_element_wise("1970-01-01T", bare, "").cast(pa.timestamp("us"))
    return moments.cast(pa.int64()).cast(form.arrow)


def _sound_ones(texts: pa.Array, form: _Form, fault: Fault) -> pa.Array:
    """The values of a column in which some texts are none."""
    raw = texts.cast(pa.binary())
    shaped = pc.match_substring_regex(raw, form.pattern).fill_null(True).to_pylist()
    sound = np.array([ok and _is_sound(v, form) for ok, v in zip(shaped, raw.to_pylist(), strict=True)])
    some = raw.filter(pa.array(~sound)).unique().to_pylist()[:3]
    fault(~sound, f"{', '.join(repr(v)[1:] for v in some)} (infinity, or out of range) is no {form.what}")
    return _cast(pc.if_else(pa.array(sound), raw, pa.scalar(None, pa.binary())).cast(pa.string()), form)


def _is_sound(value: bytes | None, form: _Form) -> bool:
    try:
        return value is None or _cast(pa.array([value.decode()]), form) is not None
    except (pa.ArrowInvalid, UnicodeDecodeError):
        return False


zoned_timestamp = _build(
    _Form(pa.timestamp("us", tz="UTC"), f"^{_DATE}T{_TIME}(Z|[+-][0-9]{{2}}:[0-9]{{2}})$", False, "timestamp")
)
"""Texts with their offset, as instants (UTC, microseconds)."""

iso_timestamp = _build(_Form(pa.timestamp("us"), f"^{_DATE}T{_TIME}Z$", True, "timestamp"))
iso_date = _build(_Form(pa.date32(), f"^{_DATE}Z$", True, "date"))
iso_time = _build(_Form(pa.time64("us"), f"^{_TIME}Z$", True, "time of day"))
"""Debezium writes UTC's Z behind values that have no zone."""
