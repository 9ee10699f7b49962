"""Checksums of key ranges: a table as 65,536 numbers per side, whatever its length and order.

The ranges are those of a hash of the key, not of the key itself: a lake table isn't sorted by key, databases collate
text in their own ways, and a hash takes composite keys, texts and uuids alike and fills all ranges evenly. A range's
checksum is its number of rows and two sums (modulo 2**64) of 64-bit hashes of whole rows, so that rows may come in
any order. The hashes are Polars', with fixed seeds; both sides are hashed in one process at the same Arrow types.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

RANGES = 1 << 16
_KEY_SEED, _ROW_SEEDS = 11, (23, 47)

Hashes: TypeAlias = npt.NDArray[np.uint64]
Marks: TypeAlias = npt.NDArray[np.bool_]


def hash_keys(rows: pa.Table, key: Sequence[str]) -> Hashes:
    """A hash of each row's key; its low 16 bits are the number of the key's range."""
    return _hashes(rows.select(list(key)), _KEY_SEED)


def hash_rows(rows: pa.Table) -> tuple[Hashes, Hashes]:
    """Two independent hashes of each row. Rows that are equal (NaN equals NaN, 0.0 equals -0.0) have equal hashes."""
    return _hashes(rows, _ROW_SEEDS[0]), _hashes(rows, _ROW_SEEDS[1])


def _hashes(rows: pa.Table, seed: int) -> Hashes:
    frame = pl.from_arrow(rows)
    assert isinstance(frame, pl.DataFrame)
    if not len(frame):
        return np.zeros(0, np.uint64)
    return frame.hash_rows(seed).to_numpy()


def ranges_of(keys: Hashes) -> npt.NDArray[np.intp]:
    """The range of each key."""
    return (keys & np.uint64(RANGES - 1)).astype(np.intp)


@dataclass
class Digests:
    """Checksums of one side's key ranges."""

    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(RANGES, np.int64))
    sums: npt.NDArray[np.uint64] = field(default_factory=lambda: np.zeros((2, RANGES), np.uint64))

    def add(self, rows: pa.Table, key: Sequence[str]) -> None:
        """Take in some rows."""
        self.add_hashes(hash_keys(rows, key), *hash_rows(rows))

    def add_hashes(self, keys: Hashes, first: Hashes, second: Hashes) -> None:
        """Take in rows by the hashes of their keys and the two of themselves."""
        ranges = ranges_of(keys)
        self.counts += np.bincount(ranges, minlength=RANGES)
        np.add.at(self.sums[0], ranges, first)
        np.add.at(self.sums[1], ranges, second)

    @property
    def rows(self) -> int:
        """Rows taken in."""
        return int(self.counts.sum())

    def differing(self, other: Digests) -> Marks:
        """The ranges in which the sides differ."""
        sums: Marks = (self.sums != other.sums).any(axis=0)
        counts: Marks = self.counts != other.counts
        return counts | sums


class Selection(Protocol):
    """Which keys are looked at row by row."""

    def marks(self, keys: Hashes) -> Marks:
        """Whether each key is among them, by its hash."""


@dataclass(frozen=True)
class Ranges:
    """All keys of some ranges."""

    wanted: Marks

    def marks(self, keys: Hashes) -> Marks:
        """See Selection."""
        return self.wanted[ranges_of(keys)]


class Keys:
    """Single keys; beyond `limit` (8 bytes each) all of the ranges that they lie in."""

    def __init__(self, limit: int = 4_000_000) -> None:
        self._limit = limit
        self._pieces: list[Hashes] = []
        self._sorted: Hashes | None = None
        self._ranges: Marks = np.zeros(RANGES, np.bool_)
        self.count = 0

    def add(self, keys: Hashes) -> None:
        """Take in keys by their hashes."""
        self.count += len(keys)
        self._ranges[ranges_of(keys)] = True
        self._sorted = None
        if self.count <= self._limit:
            self._pieces.append(keys)
        else:
            self._pieces.clear()

    def marks(self, keys: Hashes) -> Marks:
        """See Selection."""
        if self.count > self._limit:
            return self._ranges[ranges_of(keys)]
        if self._sorted is None:
            self._sorted = np.unique(np.concatenate([np.zeros(0, np.uint64), *self._pieces]))
        if not len(self._sorted):
            return np.zeros(len(keys), np.bool_)
        places = np.minimum(np.searchsorted(self._sorted, keys), len(self._sorted) - 1)
        found: Any = self._sorted[places] == keys
        return np.asarray(found, np.bool_)
