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
    """Text or bytes: `length` bytes of `data` from `start` on; those of valid rows ascend and don't overlap."""

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


def scatter(raw: Raw, taken: Mask) -> Raw:
    """`raw` spread over the rows of `taken`, its items where that is True, all other rows null."""
    return _scatter(raw, np.flatnonzero(taken), len(taken))


def _scatter(raw: Raw, rows: npt.NDArray[np.intp], n: int) -> Raw:
    if isinstance(raw, Nothing):
        return Nothing(n)
    valid = np.zeros(n, np.bool_)
    valid[rows] = True if raw.valid is None else raw.valid
    if isinstance(raw, Numbers):
        return Numbers(_spread(raw.values, rows, n), valid)
    if isinstance(raw, Spans):
        return Spans(raw.data, _spread(raw.start, rows, n), _spread(raw.length, rows, n), valid)
    if isinstance(raw, Lists):
        return Lists(_spread(raw.counts, rows, n), raw.items, valid)
    return Structs({name: _scatter(child, rows, n) for name, child in raw.children.items()}, n, valid)


def _spread(values: npt.NDArray[Any], rows: npt.NDArray[np.intp], n: int) -> npt.NDArray[Any]:
    spread = np.zeros(n, values.dtype)
    spread[rows] = values
    return spread


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
    first = next((piece for piece in pieces if not isinstance(piece, Nothing)), pieces[0])
    if isinstance(first, Nothing):
        return Nothing(sum(size(piece) for piece in pieces))
    none = gather(first, np.zeros(0, np.intp))
    whole = [_scatter(none, np.zeros(0, np.intp), p.rows) if isinstance(p, Nothing) else p for p in pieces]
    valid: Mask | None = None
    if any(p.valid is not None for p in whole if not isinstance(p, Nothing)):
        valid = np.concatenate([np.ones(size(p), np.bool_) if _all_valid(p) else p.valid for p in whole])  # type: ignore[union-attr] # none is Nothing here
    if isinstance(first, Numbers):
        return Numbers(np.concatenate([p.values for p in whole if isinstance(p, Numbers)]), valid)
    if isinstance(first, Spans):
        spans = [p for p in whole if isinstance(p, Spans)]
        start = np.concatenate([p.start for p in spans])
        return Spans(first.data, start, np.concatenate([p.length for p in spans]), valid)
    if isinstance(first, Lists):
        lists = [p for p in whole if isinstance(p, Lists)]
        counts = np.concatenate([p.counts for p in lists])
        return Lists(counts, concat([p.items for p in lists]), valid)
    structs = [p for p in whole if isinstance(p, Structs)]
    children = {name: concat([p.children[name] for p in structs]) for name in first.children}
    return Structs(children, sum(p.rows for p in structs), valid)


def _all_valid(raw: Raw) -> bool:
    return not isinstance(raw, Nothing) and raw.valid is None


def size(raw: Raw) -> int:
    """How many rows the column has."""
    if isinstance(raw, (Nothing, Structs)):
        return raw.rows
    if isinstance(raw, Numbers):
        return len(raw.values)
    return len(raw.length) if isinstance(raw, Spans) else len(raw.counts)
