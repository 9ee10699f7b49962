"""A chunk holds exactly what the fetch brought, over exactly the offsets that it covered."""

from __future__ import annotations

from typing import Any

from aiokafka.structs import ConsumerRecord
from hypothesis import given
from hypothesis import strategies as st

from sources.kafka.chunks import RECORD_OVERHEAD, build_chunk

HEADERS = st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=9)), max_size=2).map(tuple)


def record(
    offset: int, key: bytes | None, value: bytes | None, headers: tuple[tuple[str, bytes | None], ...] = ()
) -> ConsumerRecord:
    return ConsumerRecord("t", 3, offset, 1_000 + offset, 0, key, value, None, -1, -1, headers)


@given(
    st.lists(st.tuples(st.integers(1, 5), st.none() | st.binary(max_size=9), st.none() | st.binary(), HEADERS)),
    st.integers(0, 2**40),
    st.integers(0, 4),
)
def test_every_record_is_in_the_chunk_in_order(rows: list[Any], first: int, gap: int) -> None:
    records, offset = [], first - 1
    for step, key, value, headers in rows:
        offset += step  # holes, as compaction leaves them
        records.append(record(offset, key, value, headers))
    chunk = build_chunk("t", 3, 7, first, offset + 1 + gap, records)
    assert (chunk.topic, chunk.partition, chunk.generation) == ("t", 3, 7)
    assert (chunk.first, chunk.next) == (first, offset + 1 + gap)
    assert len(chunk) == len(records)
    assert chunk.offsets.tolist() == [r.offset for r in records]
    assert chunk.timestamps.tolist() == [r.timestamp for r in records]
    assert chunk.keys == [r.key for r in records]
    assert chunk.values == [r.value for r in records]
    assert chunk.headers == [r.headers for r in records]


def test_its_size_counts_keys_values_and_what_python_adds() -> None:
    chunk = build_chunk("t", 0, 1, 5, 9, [record(5, b"abc", b"12345"), record(6, None, None)])
    assert chunk.nbytes == 8 + 2 * RECORD_OVERHEAD


def test_large_headers_count_against_the_memory_bound() -> None:
    plain = build_chunk("t", 0, 1, 0, 100, [record(i, b"k", b"v") for i in range(100)])
    heavy = build_chunk("t", 0, 1, 0, 100, [record(i, b"k", b"v", (("h", b"x" * 1000),)) for i in range(100)])
    assert heavy.nbytes - plain.nbytes >= 100 * 1000


def test_a_fetch_without_records_still_covers_its_offsets() -> None:
    chunk = build_chunk("t", 0, 1, 5, 9, [])
    assert (len(chunk), chunk.first, chunk.next, chunk.nbytes) == (0, 5, 9, 0)
