"""Trimming a batch against the destination's offsets: nothing twice, nothing lost, for any cuts and any replay."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.errors import OffsetGap
from sinks.base import Batch, OffsetRange
from sources.changes import CDC_OFFSET, ChangeBatch, TableSchema, TopicPartition

SCHEMA = TableSchema(pa.schema([("id", pa.int64())]), ("id",), 1)
TP = TopicPartition("orders", 0)


def change(first: int, end: int, offsets: list[int], partition: int = 0) -> ChangeBatch:
    rows = pa.table({"id": pa.array(offsets, pa.int64()), CDC_OFFSET: pa.array(offsets, pa.int64())})
    return ChangeBatch("orders", partition, first, end, SCHEMA, rows)


def offsets_of(batch: Batch, partition: int = 0) -> list[int]:
    return [o for c in batch.changes if c.partition == partition for o in c.rows.column(CDC_OFFSET).to_pylist()]


@dataclass(frozen=True)
class Drawn:
    """A partition's range with holes, cut into changes."""

    first: int
    end: int
    offsets: list[int]
    cuts: list[int]

    def changes(self, partition: int) -> list[ChangeBatch]:
        spans = pairwise([self.first, *self.cuts, self.end])
        cut = [change(a, b, [o for o in self.offsets if a <= o < b], partition) for a, b in spans]
        return [c for c in cut if c.rows.num_rows]


@st.composite
def partitions(draw: st.DrawFn) -> Drawn:
    first = draw(st.integers(0, 1000))
    end = first + draw(st.integers(0, 30))
    inside = st.integers(first, max(first, end - 1))
    offsets = sorted(draw(st.sets(inside))) if end > first else []
    cuts = sorted(draw(st.sets(st.integers(first, end), max_size=4)))
    return Drawn(first, end, offsets, cuts)


@given(st.lists(partitions(), min_size=1, max_size=3), st.data())
def test_trim_keeps_exactly_what_the_destination_lacks(drawn: list[Drawn], data: st.DataObject) -> None:
    ranges = {TopicPartition("orders", p): OffsetRange(d.first, d.end) for p, d in enumerate(drawn)}
    batch = Batch(ranges, [c for p, d in enumerate(drawn) for c in d.changes(p)], {"orders": len(drawn)})
    committed = {
        tp: data.draw(st.integers(span.first, span.next + 5)) for tp, span in ranges.items() if data.draw(st.booleans())
    }
    trimmed = batch.trim(committed)
    for partition, d in enumerate(drawn):
        tp = TopicPartition("orders", partition)
        wanted = committed.get(tp, d.first)
        assert offsets_of(trimmed, partition) == [o for o in d.offsets if o >= wanted]
        assert trimmed.ranges.get(tp) == (OffsetRange(wanted, d.end) if d.end > wanted else None)
    assert trimmed.partition_counts == batch.partition_counts
    assert all(c.first >= trimmed.ranges[c.tp].first for c in trimmed.changes)
    again = trimmed.trim({tp: span.first for tp, span in trimmed.ranges.items()})
    assert again.ranges == trimmed.ranges
    assert not trimmed.trim({tp: span.next for tp, span in trimmed.ranges.items()}).ranges


@given(partitions(), st.integers(1, 50))
def test_hole_before_the_batch_is_refused_whatever_else_fits(drawn: Drawn, missing: int) -> None:
    hole = change(drawn.first, drawn.end, drawn.offsets)
    fits = TopicPartition("orders", 1)
    batch = Batch({fits: OffsetRange(0, 5), TP: OffsetRange(drawn.first, drawn.end)}, [hole])
    with pytest.raises(OffsetGap, match=f"{missing} offsets are missing"):
        batch.trim({fits: 0, TP: drawn.first - missing})
