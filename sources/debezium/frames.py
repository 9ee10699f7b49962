"""The raw records of a chunk, joined: which are Avro (and of which writer schema), JSON, tombstones, or neither."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sources.debezium.raw import Bytes, Ints

TOMBSTONE, FOREIGN, JSON, BROKEN_JSON = -1, -2, -3, -4
"""Kinds beside the ids of writer schemas (which are >= 0): null, unknown first byte or too short, JSON before and
JSON that failed to be told apart by its schema."""

FIRST_JSON = -10
"""JSON's own schemas are numbered downwards from here."""

PREFIX = 5
"""Confluent's wire format: a zero byte and the writer schema's id, four bytes, big-endian."""

_PADDING = 16_384


@dataclass(frozen=True)
class Frames:
    """Records joined in `data` (padded behind; `joined` is the same as an Arrow array): record i lies at
    [start[i], end[i]); `kind` is its writer schema's id, or one of the kinds above."""

    joined: pa.Array
    data: Bytes
    start: Ints
    end: Ints
    kind: Ints

    def begin_with(self, prefix: bytes) -> npt.NDArray[np.bool_]:
        """Which records' bytes begin with `prefix` (before any of it was cut off)."""
        found = pc.starts_with(self.joined, pattern=prefix).fill_null(False)
        mask: npt.NDArray[np.bool_] = found.to_numpy(zero_copy_only=False)[:-1]
        return mask

    def window(self, rows: npt.NDArray[np.intp], padding: int) -> tuple[Bytes, Ints, Ints]:
        """The buffer, starts and ends of some records (ascending), with at least `padding` bytes behind them."""
        first, last = int(self.start[rows[0]]), int(self.end[rows[-1]])
        data = self.data[first : last + padding]
        if len(data) < last - first + padding:
            data = np.concatenate((data, np.zeros(padding, np.uint8)))
        return data, self.start[rows] - first, self.end[rows] - first


def join(records: Sequence[bytes | None]) -> Frames:
    """Frames over the keys or the values of a chunk; one native copy of all bytes."""
    joined = pa.array([*records, bytes(_PADDING)], pa.large_binary())
    n = len(records)
    valid, offsets, body = joined.buffers()
    bounds = np.frombuffer(offsets, np.int64, n + 2)
    data = np.frombuffer(body, np.uint8)
    start, end = bounds[:n], bounds[1 : n + 1]
    heads = np.ndarray((len(data) - 8,), dtype=">u8", buffer=data, strides=(1,))[start].astype(np.uint64)
    magic = heads >> np.uint64(56)
    kind = ((heads >> np.uint64(24)) & np.uint64(0xFFFFFFFF)).astype(np.int64)
    foreign = (magic != 0) | (end - start < PREFIX)
    if foreign.any():
        kind[foreign] = np.where((magic[foreign] == ord("{")) & (end > start)[foreign], JSON, FOREIGN)
    if valid is not None:
        kind[joined.is_null().to_numpy(zero_copy_only=False)[:n]] = TOMBSTONE
    return Frames(joined, data, start, end, kind)
