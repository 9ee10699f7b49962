"""PostgreSQL's geometric types out of their text, as Debezium's structs: coordinates and well-known binary.

`(1.5,2.5)`, `[(0,0),(1,1)]`, `<(0,0),1>`, `{1,2,3}`: the numbers and the brackets tell all.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from typing import Any

_NUMBER = re.compile(r"-?(?:Infinity|NaN|\d[\d.]*(?:e[+-]?\d+)?)")
_POINT, _LINE, _POLYGON = 1, 2, 3

Place = tuple[float, float]


def point(text: str) -> dict[str, Any]:
    """Its coordinates, and the same as well-known binary."""
    ((x, y),) = _places(text)
    return {"x": x, "y": y, "wkb": _wkb(_POINT) + struct.pack("<2d", x, y), "srid": None}


def line(text: str) -> dict[str, Any]:
    """The numbers of its equation."""
    return dict(zip("abc", _numbers(text), strict=True))


def circle(text: str) -> dict[str, Any]:
    """Centre and radius."""
    centre, _, radius = text.rpartition(",")
    return {"center": point(centre), "radius": _numbers(radius)[0]}


def segment(text: str) -> dict[str, Any]:
    """A line of two points."""
    return _geometry(_line(_places(text)), type="lseg")


def box(text: str) -> dict[str, Any]:
    """A polygon, from the corner that PostgreSQL names first."""
    (right, top), (left, bottom) = _places(text)
    corners = [(right, top), (right, bottom), (left, bottom), (left, top)]
    return _geometry(_ring(corners), type="box")


def path(text: str) -> dict[str, Any]:
    """A line, or a polygon if it is closed."""
    closed = text.startswith("(")
    return _geometry(_line(_places(text)), type="path", closed=str(closed).lower())


def polygon(text: str) -> dict[str, Any]:
    """A polygon of one ring, which is closed if it isn't."""
    return _geometry(_ring(_places(text)), type="polygon")


def _geometry(wkb: bytes, **extensions: str) -> dict[str, Any]:
    return {"wkb": wkb, "srid": None, "extensions": list(extensions.items())}


def _numbers(text: str) -> list[float]:
    return [float(number) for number in _NUMBER.findall(text)]


def _places(text: str) -> list[Place]:
    numbers = _numbers(text)
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _wkb(kind: int) -> bytes:
    """The head of well-known binary, little endian."""
    return struct.pack("<BI", 1, kind)


def _line(places: Sequence[Place]) -> bytes:
    return _wkb(_LINE) + _points(places)


def _ring(places: Sequence[Place]) -> bytes:
    return (
        _wkb(_POLYGON)
        + struct.pack("<I", 1)
        + _points(places if places[-1] == places[0] and len(places) > 1 else [*places, places[0]])
    )


def _points(places: Sequence[Place]) -> bytes:
    return struct.pack("<I", len(places)) + b"".join(struct.pack("<2d", *place) for place in places)
