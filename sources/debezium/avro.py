"""Avro bodies to columns, all records in lockstep: one numpy operation moves the cursors of all rows one field on.

Each record has a cursor of its own, which starts behind its schema id and has to stand at the record's end after
the last field. So a truncated or corrupt record is told from its own bytes, and can neither swallow nor shift its
neighbour; what can't be told is a flipped bit inside a value, which is a sound record to every reader.

Fields that nobody wants are stepped over: their lengths are read, nothing is built. What is wanted comes back as
`Raw` columns that point into the buffer of the records.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from sources.debezium.avro_schema import Node
from sources.debezium.raw import (
    Bytes,
    Ints,
    Lists,
    Mask,
    Nothing,
    Numbers,
    Raw,
    Spans,
    Structs,
    concat,
    gather,
    scatter,
)

Want: TypeAlias = bool | Mapping[str, "Want"]
Words: TypeAlias = npt.NDArray[np.uint64]

_CONTINUE = np.uint64(0x8080808080808080)
_GROUPS = np.uint64(0x7F7F7F7F7F7F7F7F)
_FOLDS = (
    # each step joins neighbouring groups of 7, 14 and 28 bits
    (np.uint64(0x007F007F007F007F), np.uint64(0x7F007F007F007F00), np.uint64(1)),
    (np.uint64(0x00003FFF00003FFF), np.uint64(0x3FFF00003FFF0000), np.uint64(2)),
    (np.uint64(0x000000000FFFFFFF), np.uint64(0x0FFFFFFF00000000), np.uint64(4)),
)
_ONE = np.uint64(1)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_CHASE = 64
"""Arrays with more items are decoded along one row instead of across rows: a step per item would be slow."""


class Cursors:
    """Where each row's reading stands: `pos` in `data`, up to `limit`. `rows` are the rows' numbers in the block.

    A row that breaks the schema's rules is noted in `faults` and marked in `bad`; its cursor goes on (to nowhere
    outside the buffer) and its values mean nothing.
    """

    def __init__(self, data: Bytes, pos: Ints, limit: Ints, rows: npt.NDArray[np.intp], faults: dict[int, str]) -> None:
        self.data = data
        self.words: Words = np.ndarray((len(data) - 8,), dtype="<u8", buffer=data, strides=(1,))
        self.pos = pos
        self.limit = limit
        self.rows = rows
        self.faults = faults

    def at(self, rows: npt.NDArray[np.intp]) -> Cursors:
        """Cursors of some of the rows; give them back with `join`."""
        return Cursors(self.data, self.pos[rows], self.limit[rows], self.rows[rows], self.faults)

    def join(self, other: Cursors, rows: npt.NDArray[np.intp]) -> None:
        self.pos[rows] = other.pos

    def fault(self, wrong: Mask, reason: str) -> None:
        """Note the rows in `wrong`, and stop them at their end."""
        for row in self.rows[wrong].tolist():
            self.faults.setdefault(row, reason)
        self.pos[wrong] = self.limit[wrong]


def decode(node: Node, data: Bytes, start: Ints, limit: Ints, want: Want) -> tuple[dict[str, Raw], dict[int, str]]:
    """Decode the records of schema `node` that lie at [start, limit) of `data` (ascending, apart).

    `data` has at least `slack(node)` bytes behind the last limit. Returns the wanted fields by name and what is
    wrong with which row; a faulty row's values mean nothing, all other rows' are exact.
    """
    cursors = Cursors(data, start.copy(), limit, np.arange(len(start)), {})
    columns = _record(node, cursors, want)
    left = cursors.pos != limit
    if left.any():
        for row in np.flatnonzero(left).tolist():
            past = cursors.pos[row] > limit[row]
            more = f"{limit[row] - cursors.pos[row]} bytes are left over behind the last field"
            cursors.faults.setdefault(row, "the record ends before its last field" if past else more)
    return columns, cursors.faults


def slack(node: Node) -> int:
    """How far behind its end a truncated record may be read before that is noticed, plus one machine word."""
    return 16 + 10 * _leaves(node)


def _leaves(node: Node) -> int:
    inner = [child for _, child in node.fields] + list(node.branches) + ([node.items] if node.items else [])
    return node.size + 2 + sum(_leaves(child) for child in inner)


def _record(node: Node, cursors: Cursors, want: Want) -> dict[str, Raw]:
    columns = {}
    for name, field in node.fields:
        wanted = want if isinstance(want, bool) else want.get(name, False)
        column = _read(field, cursors, wanted)
        if wanted and column is not None:
            columns[name] = column
    return columns


def _read(node: Node, cursors: Cursors, want: Want) -> Raw | None:
    """Move all cursors behind one value of type `node`; its column if wanted."""
    if node.wire == "union":
        return _union(node, cursors, want)
    if node.wire == "record":
        children = _record(node, cursors, want)
        return Structs(children, len(cursors.pos)) if want else None
    if node.wire in ("array", "map"):
        return _array(node, cursors, want)
    return _leaf(node, cursors, want, None)


def _union(node: Node, cursors: Cursors, want: Want) -> Raw | None:
    first = cursors.data.take(cursors.pos)
    if len(first) and first[0] < 2 * len(node.branches) and not first[0] & 1 and (first == first[0]).all():
        # all rows take the same branch: the usual case
        cursors.pos = cursors.pos + 1
        return _read(node.branches[first[0] >> 1], cursors, want)
    index = _varint(cursors, None)
    n = len(index)
    column: Raw | None = Nothing(n) if want else None
    known = np.zeros(n, np.bool_)
    for number, branch in enumerate(node.branches):
        taken = index == number
        known |= taken
        if branch.wire == "null" or not taken.any():
            continue
        if taken.all():
            return _read(branch, cursors, want)
        if branch.wire in ("union", "record", "array", "map") or len(node.branches) > 2:
            rows = np.flatnonzero(taken)
            some = cursors.at(rows)
            inner = _read(branch, some, want)
            cursors.join(some, rows)
            if inner is not None:
                column = scatter(inner, taken)
        else:
            column = _leaf(branch, cursors, want, taken)
    if not known.all():
        cursors.fault(~known, "a union has a branch that the writer schema doesn't know")
    return column


def _leaf(node: Node, cursors: Cursors, want: Want, valid: Mask | None) -> Raw | None:
    """A value without parts. Where `valid` is False there is none, and the cursor stays."""
    wire = node.wire
    if wire == "null":
        return Nothing(len(cursors.pos)) if want else None
    if wire in ("int", "long", "enum"):
        if not want:
            _skip_varint(cursors, valid)
            return None
        values = _varint(cursors, valid)
        if wire == "int":
            small = values.astype(np.int32)
            wrong = small != values
            if wrong.any():
                cursors.fault(wrong, "an int is larger than 32 bits")
            return Numbers(small, valid)
        return Numbers(values, valid)
    if wire == "bytes":
        length = _varint(cursors, valid)
        wrong = (length < 0) | (length > cursors.limit - cursors.pos)
        if wrong.any():
            length[wrong] = 0
            cursors.fault(wrong, "a text or bytes value is longer than the record")
        start = cursors.pos
        cursors.pos = start + length
        return Spans(cursors.data, start, length, valid) if want else None
    return _fixed_size(node, cursors, want, valid)


def _fixed_size(node: Node, cursors: Cursors, want: Want, valid: Mask | None) -> Raw | None:
    start = cursors.pos
    width = {"boolean": 1, "float": 4, "double": 8}.get(node.wire, node.size)
    cursors.pos = start + width if valid is None else start + width * valid.astype(np.int64)
    if not want:
        return None
    if node.wire == "boolean":
        values = cursors.data.take(start)
        wrong = values > 1 if valid is None else (values > 1) & valid
        if wrong.any():
            cursors.fault(wrong, "a boolean is neither 0 nor 1")
        return Numbers(values == 1, valid)
    if node.wire == "double":
        return Numbers(cursors.words[start].view("<f8"), valid)
    if node.wire == "float":
        return Numbers((cursors.words[start] & np.uint64(0xFFFFFFFF)).astype("<u4").view("<f4"), valid)
    length = cursors.pos - start
    return Spans(cursors.data, start, length, valid)


def _array(node: Node, cursors: Cursors, want: Want) -> Raw | None:
    """Arrays and maps: blocks of items, each with its count before it, until a count of 0."""
    item = node.items if node.wire == "array" else _entry(node)
    assert item is not None
    n = len(cursors.pos)
    pieces: list[Raw] = []
    owners: list[npt.NDArray[np.intp]] = []
    counts = np.zeros(n, np.int64)
    open_rows = np.arange(n)
    while len(open_rows):
        block = cursors.at(open_rows)
        items = _varint(block, None)
        sized = np.flatnonzero(items < 0)
        if len(sized):
            # a negative count is followed by the block's length in bytes, for readers that skip
            some = block.at(sized)
            _skip_varint(some, None)
            block.join(some, sized)
            items[sized] = -items[sized]
        wrong = (items < 0) | (items > block.limit - block.pos)
        if wrong.any():
            items[wrong] = 0
            block.fault(wrong, "an array has more items than the record has bytes")
        counts[open_rows] += items
        many = np.flatnonzero(items > _CHASE)
        for row in many.tolist():
            _chase(item, block, row, int(items[row]), want, pieces)
            owners.append(np.full(int(items[row]), open_rows[row]))
        items_now = np.where(items > _CHASE, 0, items)
        for ordinal in range(int(items_now.max(initial=0))):
            rows = np.flatnonzero(items_now > ordinal)
            some = block.at(rows)
            piece = _read(item, some, want)
            over = some.pos > some.limit
            if over.any():
                some.fault(over, "the record ends within an array")
            block.join(some, rows)
            if piece is not None:
                pieces.append(piece)
                owners.append(open_rows[rows])
        cut = (items > 0) & (block.pos >= block.limit)
        if cut.any():
            block.fault(cut, "the record ends within an array")
        cursors.join(block, open_rows)
        open_rows = open_rows[(items > 0) & ~cut]
    if not want:
        return None
    if not pieces:
        return Lists(counts, Nothing(0))
    order = np.argsort(np.concatenate(owners), kind="stable")
    return Lists(counts, gather(concat(pieces), order))


def _chase(item: Node, block: Cursors, row: int, count: int, want: Want, pieces: list[Raw]) -> None:
    """One row's long array: step from every byte as if an item started there, then follow the steps from the first."""
    first, limit = int(block.pos[row]), int(block.limit[row])
    every = np.arange(first, limit)
    trial = Cursors(block.data, every.copy(), np.full(len(every), limit), np.arange(len(every)), {})
    _read(item, trial, False)
    step = (trial.pos - first).tolist()
    starts: list[int] = []
    at = 0
    while len(starts) < count:
        starts.append(first + at)
        at = step[at] if at < len(step) else len(step)
    start = np.minimum(np.array(starts), limit)
    items = Cursors(block.data, start, np.full(count, limit), np.full(count, block.rows[row]), block.faults)
    piece = _read(item, items, want)
    if piece is not None:
        pieces.append(piece)
    block.pos[row] = items.pos[-1]
    if (items.pos[:-1] != start[1:]).any() or items.pos[-1] > limit:
        block.fault(np.arange(len(block.pos)) == row, "the record ends within an array")


def _entry(node: Node) -> Node:
    """A map's entry, which lies on the wire as a record of key and value does."""
    assert node.items is not None
    return Node("record", node.type, fields=(("key", Node("bytes", node.items.type)), ("value", node.items)))


def _varint(cursors: Cursors, valid: Mask | None) -> Ints:
    """Read one zigzag varint per row (0 where not `valid`, which stays where it is)."""
    first = cursors.data.take(cursors.pos)
    if valid is not None:
        first *= valid
    if not len(first) or first.max() < 128:
        cursors.pos = cursors.pos + (1 if valid is None else valid)
        small = first.view(np.int8)
        return ((small >> 1) ^ -(small & 1)).astype(np.int64)
    word = cursors.words[cursors.pos]
    last = _value_bits(word)
    width = ((np.bitwise_count(last) + np.uint8(1)) >> 3).astype(np.int64)
    word &= last
    word &= _GROUPS
    for low, high, shift in _FOLDS:
        upper = word & high
        upper >>= shift
        word &= low
        word |= upper
    long = last == _ALL
    if valid is not None:
        long &= valid
    if long.any():
        _longest(cursors, np.flatnonzero(long), word, width)
    if valid is not None:
        width *= valid
        word *= valid
    cursors.pos = cursors.pos + width
    sign = (word & _ONE).view(np.int64)
    word >>= _ONE
    value = word.view(np.int64)
    value ^= -sign
    return value


def _longest(cursors: Cursors, rows: npt.NDArray[np.intp], word: Any, width: Ints) -> None:
    """Bytes 9 and 10 of the varints in `rows`."""
    ninth = cursors.data.take(cursors.pos[rows] + 8).astype(np.uint64)
    tenth = cursors.data.take(cursors.pos[rows] + 9).astype(np.uint64)
    more = ninth >= np.uint64(128)
    word[rows] |= (ninth & np.uint64(127)) << np.uint64(56)
    word[rows] |= np.where(more, tenth & _ONE, np.uint64(0)) << np.uint64(63)
    width[rows] = 9 + more
    wrong = more & (tenth > _ONE)
    if wrong.any():
        some = cursors.at(rows)
        some.fault(wrong, "a number is larger than 64 bits")
        cursors.join(some, rows)
        width[rows[wrong]] = 0


def _value_bits(word: Words) -> Words:
    """A mask of the bits below the top bit of each varint's last byte; all 64 if none of the 8 bytes is the last."""
    last = ~word
    last &= _CONTINUE
    last &= -last
    last -= _ONE
    return last


def _skip_varint(cursors: Cursors, valid: Mask | None) -> None:
    """Step over one varint per row, without putting its value together."""
    word = cursors.words[cursors.pos]
    if valid is None and len(word):
        # usually all rows' numbers are as long as the first one: times, positions in the log
        first = _value_bits(word[:1])
        bytes_seen = (first | (first + _ONE)) & _CONTINUE
        if ((word & bytes_seen) == (word[:1] & bytes_seen)).all():
            same = (int(first[0]).bit_length() + 1) >> 3
            nine = first[0] == _ALL
            if not nine or (cursors.data.take(cursors.pos + 8) < 128).all():
                cursors.pos = cursors.pos + (9 if nine else same)
                return
    last = _value_bits(word)
    width = ((np.bitwise_count(last) + np.uint8(1)) >> 3).astype(np.int64)
    long = last == _ALL
    if long.any():
        ninth = cursors.data.take(cursors.pos + 8) >= 128
        width += long * (1 + ninth.astype(np.int64))
        tenth = cursors.data.take(cursors.pos + 9) > 1
        wrong = long & ninth & tenth if valid is None else long & ninth & tenth & valid
        if wrong.any():
            cursors.fault(wrong, "a number is larger than 64 bits")
            width[wrong] = 0
    if valid is not None:
        width *= valid
    cursors.pos = cursors.pos + width
