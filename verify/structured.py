"""Dates, times and durations in their parts (time.precision.mode structured), out of a database's text."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

Parse = Callable[[str], dict[str, Any]]

_MOMENT = re.compile(r"(?:(\d+)-(\d\d)-(\d\d))? ?(?:(\d\d):(\d\d):(\d\d)(?:\.(\d+))?)?([+-]\d\d(?::\d\d){0,2})?( BC)?")
_SPECIAL = {"infinity": "POSITIVE_INFINITY", "-infinity": "NEGATIVE_INFINITY"}
_DURATION = re.compile(r"P(-?\d+)Y(-?\d+)M(-?\d+)DT(-?\d+)H(-?\d+)M(-?)(\d+)(?:\.(\d+))?S")


def moment(precision: int, zone: str | None = None) -> Parse:
    """`2024-02-29 12:34:56.789+02`, or some of it, as the parts of all types; `zone` is the name of the zone."""

    def parse(text: str) -> dict[str, Any]:
        if text in _SPECIAL:
            return {"specialValue": _SPECIAL[text], "precision": precision}
        found = _MOMENT.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} is no date or time")
        year, month, day, hour, minute, second, fraction, offset, before_christ = found.groups()
        date = {}
        if year is not None:
            date = {"year": 1 - int(year) if before_christ else int(year), "month": int(month), "day": int(day)}
        clock = {}
        if hour is not None:
            clock = {"hour": int(hour), "minute": int(minute), "second": int(second), "nanos": _nanos(fraction)}
        return date | clock | {"offsetSeconds": _seconds(offset or "+00"), "zoneId": zone, "precision": precision}

    return parse


def duration(precision: int) -> Parse:
    """`P1Y2M3DT4H5M6.789S`; each part has a sign of its own."""

    def parse(text: str) -> dict[str, Any]:
        found = _DURATION.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} is no duration")
        *parts, minus, second, fraction = found.groups()
        sign = -1 if minus else 1
        names = ("years", "months", "days", "hours", "minutes")
        whole = dict(zip(names, map(int, parts), strict=True))
        return whole | {"seconds": sign * int(second), "nanos": sign * _nanos(fraction), "precision": precision}

    return parse


def _nanos(fraction: str | None) -> int:
    return int((fraction or "").ljust(9, "0"))


def _seconds(offset: str) -> int:
    hours, minutes, seconds = (int(part) for part in [*offset[1:].split(":"), "0", "0"][:3])
    return (-1 if offset[0] == "-" else 1) * (hours * 3600 + minutes * 60 + seconds)
