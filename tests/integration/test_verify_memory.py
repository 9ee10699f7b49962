"""A million rows are compared in memory that doesn't grow with them."""

from __future__ import annotations

from benchmarks.verify import damage, in_child, tables
from stack.testing import StartServices

ROWS = 1_000_000
"""As Arrow, some 130 MB a side."""

MOST_MB = 200


def test_a_million_rows_in_bounded_memory_with_progress(start_services: StartServices) -> None:
    server = start_services("postgres")["postgres"]
    with tables("postgres", server, ROWS) as config:
        for sink in ("iceberg", "delta"):
            found = in_child(config, sink)
            assert (found["rows"], found["counts"]) == ([ROWS, ROWS], {})
            assert found["MB peak"] - found["MB before"] < MOST_MB, found
        # two of three rows: they are set aside and compared in parts
        damage(config, 3)
        found = in_child(config, "delta")
        assert found["counts"] == {"missing": 333_334, "extra": 0, "doubled": 0, "different": 333_333}
        assert found["MB peak"] - found["MB before"] < MOST_MB, found
        assert any("key ranges differ, comparing their rows" in line for line in found["progress"])
