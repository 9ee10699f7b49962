"""Geometric types of both databases as Debezium sends them."""

from __future__ import annotations

import struct

import pytest

from verify import geometries, mariadb_types


def numbers(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}d", *values)


def test_points_are_coordinates_and_well_known_binary() -> None:
    found = geometries.point("(1.5,-2e-07)")
    assert found == {"x": 1.5, "y": -2e-07, "wkb": b"\1\1\0\0\0" + numbers(1.5, -2e-07), "srid": None}
    assert geometries.point("(Infinity,-Infinity)")["y"] == float("-inf")


def test_lines_and_circles() -> None:
    assert geometries.line("{1,-2,3.5}") == {"a": 1.0, "b": -2.0, "c": 3.5}
    assert geometries.circle("<(0,1),2>") == {"center": geometries.point("(0,1)"), "radius": 2.0}


@pytest.mark.parametrize(
    ("found", "kind", "places", "extensions"),
    [
        (geometries.segment("[(0,0),(1,2)]"), 2, (0, 0, 1, 2), {"type": "lseg"}),
        (geometries.path("[(0,0),(1,2)]"), 2, (0, 0, 1, 2), {"type": "path", "closed": "false"}),
        (geometries.path("((0,0),(1,2))"), 2, (0, 0, 1, 2), {"type": "path", "closed": "true"}),
        (geometries.box("(3,4),(1,2)"), 3, (3, 4, 3, 2, 1, 2, 1, 4, 3, 4), {"type": "box"}),
        (geometries.polygon("((0,0),(1,2),(1,0))"), 3, (0, 0, 1, 2, 1, 0, 0, 0), {"type": "polygon"}),
        (geometries.polygon("((0,0),(1,2),(0,0))"), 3, (0, 0, 1, 2, 0, 0), {"type": "polygon"}),
    ],
)
def test_shapes(found: dict[str, object], kind: int, places: tuple[float, ...], extensions: dict[str, str]) -> None:
    rings = struct.pack("<I", 1) if kind == 3 else b""
    count = struct.pack("<I", len(places) // 2)
    wkb = struct.pack("<BI", 1, kind) + rings + count + numbers(*places)
    assert found == {"wkb": wkb, "srid": None, "extensions": list(extensions.items())}


def test_mariadbs_own_form_has_the_reference_system_first() -> None:
    wkb = b"\1\1\0\0\0" + numbers(1, 2)
    assert mariadb_types.geometry((b"\0\0\0\0" + wkb).hex().upper()) == {"wkb": wkb, "srid": None}
    assert mariadb_types.point((struct.pack("<I", 4326) + wkb).hex()) == {"x": 1.0, "y": 2.0, "wkb": wkb, "srid": 4326}
