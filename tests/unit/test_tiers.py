"""Which files a tidying step takes, by their bytes and by the memory that their rows take."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import pyarrow as pa

from sinks.merged_rows import read_within
from sinks.owners import file_name
from sinks.tiers import (
    CALM,
    FAN_IN,
    LARGEST_SMALL_BYTES,
    MEMORY_BYTES,
    ROW_BYTES,
    Compaction,
    Patience,
    Width,
    candidates,
    worth_rewriting,
)
from sources.changes import TopicPartition
from tables.key_index import IndexedFile

TP = TopicPartition("cdc.public.orders", 0)
MB = 1 << 20


@dataclass(frozen=True)
class Live:
    size: int
    group: Hashable = ()


def taken(files: list[tuple[int, int]], row_bytes: float, when: Patience | Compaction = CALM) -> list[list[int]]:
    """Which of the files (bytes, rows) become one each time."""
    paths = [file_name("lw", TP) for _ in files]
    live = {path: Live(size) for path, (size, _) in zip(paths, files, strict=True)}
    known = {TP: {n: IndexedFile(paths[n], rows, 0) for n, (_, rows) in enumerate(files)}}
    return [[c.file_id for c in chosen] for _, chosen in worth_rewriting(candidates(live, known, row_bytes), when)]


def test_small_files_of_one_size_are_merged_whatever_their_rows_take_within_bounds() -> None:
    for row_bytes in (0.0, 100.0, 1_000.0):
        assert taken([(10_000, 1_000)] * FAN_IN, row_bytes) == [list(range(FAN_IN))]
    assert taken([(10_000, 1_000)] * (FAN_IN - 1), 0.0) == []


def test_files_whose_rows_take_much_memory_are_as_large_ones() -> None:
    rows = 2 * MEMORY_BYTES // MB
    assert taken([(10_000, rows)] * 2 * FAN_IN, MB) == []
    assert taken([(LARGEST_SMALL_BYTES + 1, 10)] * 2 * FAN_IN, 0.0) == []


def test_a_step_reads_no_more_rows_than_fit_into_its_memory() -> None:
    rows = 20
    for chosen in taken([(10_000, rows)] * 4 * FAN_IN, MB):
        assert 1 < len(chosen) * rows * MB <= MEMORY_BYTES


def test_maintenance_counts_wide_rows_as_several() -> None:
    when = Compaction(files=2, rows=1_000)
    assert taken([(10_000, 100)] * 10, ROW_BYTES, when) == [list(range(10))]
    assert taken([(10_000, 100)] * 10, 4 * ROW_BYTES, when) == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert taken([(10_000, 100)] * 10, 6 * ROW_BYTES, when) == []


def test_reading_stops_at_the_bound_but_takes_two_files_at_least() -> None:
    read: list[int] = []

    def table(n: int) -> pa.Table:
        read.append(n)
        return pa.table({"a": pa.array([n] * 1_000, pa.int64())})

    tables, files = read_within(20_000, range(9), table)
    assert files == read == [0, 1, 2]
    assert [t["a"][0].as_py() for t in tables] == files
    assert read_within(1, range(9), table)[1] == [0, 1]
    assert read_within(10**9, range(9), table)[1] == list(range(9))
    assert read_within(0, [7], table)[1] == [7]


def test_the_width_of_rows_follows_what_is_seen() -> None:
    width = Width()
    narrow, wide = pa.table({"a": pa.array([1] * 100, pa.int64())}), pa.table({"a": ["x" * 992] * 100})
    width.saw(narrow.slice(0, 0))
    assert width.bytes == 0
    width.saw(narrow)
    assert width.bytes == 8
    for _ in range(20):
        width.saw(wide)
    assert 980 < width.bytes < 1_000
