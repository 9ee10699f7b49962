"""Columns as the wire holds them: numpy views that readers fill and `convert` turns into Arrow.

Text and bytes are never copied here: `Spans` points into the buffer that the records came in. Every column has one
item per row; where `valid` is False the item's other values are meaningless.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Mask: TypeAlias = npt.NDArray[np.bool_]
Ints: TypeAlias = npt.NDArray[np.int64]
Bytes: TypeAlias = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Numbers:
    """Integers, floats or booleans."""

    values: npt.NDArray[Any]
    valid: Mask | None = None


@dataclass(frozen=True)
class Spans:
    """Text or bytes: `length` bytes of `data` from `start` on; starts never decrease and spans don't overlap."""

    data: Bytes
    start: Ints
    length: Ints
    valid: Mask | None = None


@dataclass(frozen=True)
class Lists:
    """Lists of `items`: row i has `counts[i]` of them, in row order."""

    counts: Ints
    items: Raw
    valid: Mask | None = None


@dataclass(frozen=True)
class Structs:
    """Nested records, one child column per field."""

    children: dict[str, Raw]
    rows: int
    valid: Mask | None = None


@dataclass(frozen=True)
class Nothing:
    """A column that is null in each of `rows` rows."""

    rows: int


Raw: TypeAlias = Numbers | Spans | Lists | Structs | Nothing


def restrict(raw: Raw, valid: Mask) -> Raw:
    """`raw`, null also where `valid` is False. A list's items stay as they are: the null rows have a count of 0."""
    if isinstance(raw, Nothing):
        return raw
    both = valid if raw.valid is None else raw.valid & valid
    if isinstance(raw, Numbers):
        return Numbers(raw.values, both)
    if isinstance(raw, Spans):
        return Spans(raw.data, raw.start, raw.length, both)
    if isinstance(raw, Lists):
        return Lists(raw.counts, raw.items, both)
    return Structs(raw.children, raw.rows, both)


def scatter(raw: Raw, taken: Mask) -> Raw:
    """`raw` spread over the rows of `taken`, its items where that is True, all other rows null."""
    return _scatter(raw, np.flatnonzero(taken), np.cumsum(taken) - taken)


def _scatter(raw: Raw, rows: npt.NDArray[np.intp], before: Ints) -> Raw:
    """`before`: how many items lie before each row."""
    n = len(before)
    if isinstance(raw, Nothing):
        return Nothing(n)
    valid = np.zeros(n, np.bool_)
    valid[rows] = True if raw.valid is None else raw.valid
    if isinstance(raw, Numbers):
        values = np.zeros(n, raw.values.dtype)
        values[rows] = raw.values
        return Numbers(values, valid)
    if isinstance(raw, Spans):
        # a row between two items gets the next one's start, so that starts keep ascending
        ends = np.append(raw.start, raw.start[-1] + raw.length[-1]) if len(rows) else np.zeros(1, np.int64)
        length = np.zeros(n, np.int64)
        length[rows] = raw.length
        return Spans(raw.data, ends[before], length, valid)
    if isinstance(raw, Lists):
        counts = np.zeros(n, np.int64)
        counts[rows] = raw.counts
        return Lists(counts, raw.items, valid)
    return Structs({name: _scatter(child, rows, before) for name, child in raw.children.items()}, n, valid)


def gather(raw: Raw, rows: npt.NDArray[np.intp]) -> Raw:
    """The items of `raw` at `rows`; spans stay in ascending order only if `rows` ascend."""
    if isinstance(raw, Nothing):
        return Nothing(len(rows))
    valid = None if raw.valid is None else raw.valid[rows]
    if isinstance(raw, Numbers):
        return Numbers(raw.values[rows], valid)
    if isinstance(raw, Spans):
        return Spans(raw.data, raw.start[rows], raw.length[rows], valid)
    if isinstance(raw, Structs):
        return Structs({name: gather(child, rows) for name, child in raw.children.items()}, len(rows), valid)
    ends = np.cumsum(raw.counts)
    counts = raw.counts[rows]
    shift = np.repeat((ends - raw.counts)[rows] - (np.cumsum(counts) - counts), counts)
    return Lists(counts, gather(raw.items, np.arange(int(counts.sum())) + shift), valid)


def spans_of(array: pa.Array) -> Spans:
    """The spans of an Arrow `binary` or `string` array; the bytes are copied, to have room behind them."""
    n = len(array)
    _, offsets, data = array.buffers()
    ends = np.frombuffer(offsets, np.int32, n + 1, array.offset * 4).astype(np.int64)
    body = np.zeros((data.size if data is not None else 0) + 16, np.uint8)
    if data is not None:
        body[: data.size] = np.frombuffer(data, np.uint8)
    return Spans(body, ends[:-1], np.diff(ends), validity(array))


def validity(array: pa.Array) -> Mask | None:
    """An Arrow array's own validity, None if nothing is null."""
    if array.null_count == 0:
        return None
    valid: Mask = array.is_valid().to_numpy(zero_copy_only=False)
    return valid


def concat(pieces: list[Raw]) -> Raw:
    """The items of several pieces of one column, one after the other (at least one piece)."""
    first = pieces[0]
    valid: Mask | None = None
    if any(not isinstance(p, Nothing) and p.valid is not None for p in pieces):
        valid = np.concatenate([p.valid if p.valid is not None else np.ones(size(p), np.bool_) for p in pieces])  # type: ignore[union-attr] # pieces of one column are of one class
    if isinstance(first, Numbers):
        return Numbers(np.concatenate([p.values for p in pieces if isinstance(p, Numbers)]), valid)
    if isinstance(first, Spans):
        spans = [p for p in pieces if isinstance(p, Spans)]
        start = np.concatenate([p.start for p in spans])
        return Spans(first.data, start, np.concatenate([p.length for p in spans]), valid)
    if isinstance(first, Lists):
        lists = [p for p in pieces if isinstance(p, Lists)]
        counts = np.concatenate([p.counts for p in lists])
        return Lists(counts, concat([p.items for p in lists]), valid)
    if isinstance(first, Structs):
        structs = [p for p in pieces if isinstance(p, Structs)]
        children = {name: concat([p.children[name] for p in structs]) for name in first.children}
        return Structs(children, sum(p.rows for p in structs), valid)
    return Nothing(sum(size(p) for p in pieces))


def size(raw: Raw) -> int:
    """How many rows the column has."""
    if isinstance(raw, (Nothing, Structs)):
        return raw.rows
    if isinstance(raw, Numbers):
        return len(raw.values)
    return len(raw.length) if isinstance(raw, Spans) else len(raw.counts)
