"""Upkeep of tables whose rows take much memory and next to no room on disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pyarrow as pa
import pytest
from contract_base import opened
from contract_events import ORDERS_WITH_NOTE, batch, changes, order
from contract_harness import Factory, SinkHarness
from delta_harness import HARNESSES as DELTA
from delta_harness import DeltaHarness
from iceberg_harness import HARNESSES as ICEBERG
from iceberg_harness import IcebergHarness

from sinks.tiers import MEMORY_BYTES
from stack.readers import connect_duckdb

NOTE = "lake " * 25_600
"""128 kB."""
COMMITS, ROWS = 100, 32
MADE = {"iceberg-append", "iceberg-upsert", "delta-vectors-upsert"}
TABLES = {name: make for name, make in {**ICEBERG, **DELTA}.items() if name in MADE}


@contextmanager
def counted_memory() -> Iterator[pa.MemoryPool]:
    """Arrow's memory, with a peak of its own."""
    pool = pa.default_memory_pool()
    counting = pa.proxy_memory_pool(pool)
    pa.set_memory_pool(counting)
    try:
        yield counting
    finally:
        pa.set_memory_pool(pool)


def summary(harness: SinkHarness) -> tuple[int, int, int, int]:
    """Files, rows, distinct keys and the sum of the lengths of notes."""
    counts = "count(*), count(DISTINCT id), sum(length(note))"
    if isinstance(harness, IcebergHarness):
        table = harness.table()
        assert table is not None
        with connect_duckdb() as connection:
            files = len(list(table.scan().plan_files()))
            return files, *connection.sql(f"SELECT {counts} FROM iceberg_scan('{table.metadata_location}')").fetchone()
    assert isinstance(harness, DeltaHarness)
    source = f"delta_scan('{harness.path}', filename = true)"
    with connect_duckdb(delta=True) as connection:
        found: tuple[int, int, int, int] = connection.sql(
            f"SELECT count(DISTINCT filename), {counts} FROM {source}"
        ).fetchone()
    return found


@pytest.mark.parametrize("make", TABLES.values(), ids=TABLES.keys())
def test_tidying_goes_by_the_memory_that_rows_take(make: Factory, tmp_path: Path) -> None:
    harness = make(tmp_path)
    with counted_memory() as pool, closing(opened(harness)) as sink:
        for number in range(COMMITS):
            first = number * ROWS
            rows = [order("c", key, note=NOTE) for key in range(first, first + ROWS)]
            sink.write(batch(changes(rows, first, schema=ORDERS_WITH_NOTE)))
            sink.tidy()
        peak = pool.max_memory()
    count = COMMITS * ROWS
    files, *found = summary(harness)
    assert found == [count, count, count * len(NOTE)]
    assert files < COMMITS // 3
    assert peak < 3 * MEMORY_BYTES
    assert count * len(NOTE) > 3 * MEMORY_BYTES  # else any tidying would do
