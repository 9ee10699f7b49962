"""Two million rows are compared in memory that doesn't grow with them."""

from __future__ import annotations

from benchmarks.verify import damage, in_child, tables
from stack.testing import StartServices

ROWS, ROWS_PER_FILE = 2_000_000, 100_000
"""As Arrow, 130 bytes a row and side. PyIceberg's reader decodes a file ahead, whatever is taken of it."""

MOST_MB = {"equal": 300, "damaged": 570}
"""100,000 rows take 135 to 180 and 280 to 330; a side that is held as a whole adds 250."""


def test_two_million_rows_in_bounded_memory_with_progress(start_services: StartServices) -> None:
    server = start_services("postgres")["postgres"]
    with tables("postgres", server, ROWS, ROWS_PER_FILE) as config:
        for sink in ("iceberg", "delta"):
            found = in_child(config, sink)
            assert (found["rows"], found["counts"]) == ([ROWS, ROWS], {})
            assert found["MB peak"] - found["MB before"] < MOST_MB["equal"], found
        # two of three rows: they are set aside and compared in parts
        damage(config, 3)
        found = in_child(config, "delta")
        assert found["counts"] == {"missing": 666_667, "extra": 0, "doubled": 0, "different": 666_667}
        assert found["MB peak"] - found["MB before"] < MOST_MB["damaged"], found
        assert any("key ranges differ, comparing their rows" in line for line in found["progress"])
