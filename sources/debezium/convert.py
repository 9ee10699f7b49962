"""Raw columns to Arrow at the types that sinks store: exact, or the row is marked with what is wrong.

Every function takes a raw column and `fault`, which it calls with a mask of rows and a reason; a marked row's value
means nothing, and the record goes to the dead letters. Nothing is rounded, clipped or replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Context, Decimal
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sources.debezium.raw import Ints, Lists, Mask, Nothing, Numbers, Raw, Spans, Structs, gather, size

Fault: TypeAlias = Callable[[Mask, str], None]
Build: TypeAlias = Callable[[Raw, Fault], pa.Array]

DAY_US = 86_400_000_000
FIRST_DAY, LAST_DAY = -719_162, 2_932_896
"""0001-01-01 and 9999-12-31, days since 1970: what Iceberg's and Delta's readers agree on. Debezium's stand-ins for
PostgreSQL's infinity (dates near +-622191234, timestamps at the ends of a long) lie outside."""


def primitive(arrow: pa.DataType, values: npt.NDArray[Any], valid: Mask | None) -> pa.Array:
    """An Arrow array over `values` (whose items are as wide as the type's), null where not `valid`."""
    if pa.types.is_boolean(arrow):
        values = np.packbits(values, bitorder="little")
    return pa.Array.from_buffers(arrow, _rows(values, valid, arrow), [bitmap(valid), pa.py_buffer(values)])


def _rows(values: npt.NDArray[Any], valid: Mask | None, arrow: pa.DataType) -> int:
    return values.nbytes * 8 // arrow.bit_width if valid is None else len(valid)


def bitmap(valid: Mask | None) -> pa.Buffer | None:
    """Arrow's validity bitmap."""
    return None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))


def numbers(arrow: pa.DataType) -> Build:
    """Integers and floats of the type's own width, and booleans."""

    def build(raw: Raw, _fault: Fault) -> pa.Array:
        if isinstance(raw, Nothing):
            return pa.nulls(raw.rows, arrow)
        assert isinstance(raw, Numbers)
        if pa.types.is_boolean(arrow):
            packed = pa.py_buffer(np.packbits(raw.values, bitorder="little"))
            return pa.Array.from_buffers(arrow, len(raw.values), [bitmap(raw.valid), packed])
        values = np.ascontiguousarray(raw.values, dtype=arrow.to_pandas_dtype())
        return primitive(arrow, values, raw.valid)

    return build


def scaled(arrow: pa.DataType, width: type[Any], factor: int, low: int, high: int, what: str) -> Build:
    """Integers times `factor`; before that they must be in [low, high], or they are no `what`."""

    def build(raw: Raw, fault: Fault) -> pa.Array:
        if isinstance(raw, Nothing):
            return pa.nulls(raw.rows, arrow)
        assert isinstance(raw, Numbers)
        wrong = (raw.values < low) | (raw.values > high)
        if raw.valid is not None:
            wrong &= raw.valid
        values = raw.values
        if wrong.any():
            some = sorted(set(values[wrong].tolist()))[:3]
            fault(wrong, f"{', '.join(map(str, some))} (infinity, or out of range) is no {what}")
            values = np.where(wrong, 0, values)
        return primitive(arrow, values.astype(width) * width(factor), raw.valid)

    return build


DATE = scaled(pa.date32(), np.int32, 1, FIRST_DAY, LAST_DAY, "date of the years 1 to 9999")


def time_of_day(units_per_ms: int) -> Build:
    """Times of day, in [0, 24 h): MariaDB's TIME may be negative or longer, PostgreSQL's may be 24:00:00."""
    factor = 1000 // units_per_ms
    return scaled(pa.time64("us"), np.int64, factor, 0, DAY_US // factor - 1, "time of day before 24:00")


def timestamp(units_per_ms: int) -> Build:
    """Timestamps without time zone, of the years 1 to 9999."""
    factor = 1000 // units_per_ms
    low, high = FIRST_DAY * DAY_US // factor, (LAST_DAY + 1) * DAY_US // factor - 1
    return scaled(pa.timestamp("us"), np.int64, factor, low, high, "timestamp of the years 1 to 9999")


def nanoseconds(arrow: pa.DataType, low: int, high: int, what: str) -> Build:
    """Nanoseconds as the microseconds that lakes have; [low, high) is in microseconds. A rest is a fault."""
    build_micros = scaled(arrow, np.int64, 1, low, high - 1, what)

    def build(raw: Raw, fault: Fault) -> pa.Array:
        if isinstance(raw, Nothing):
            return pa.nulls(raw.rows, arrow)
        assert isinstance(raw, Numbers)
        micros, rest = np.divmod(raw.values, 1000)
        wrong = rest != 0 if raw.valid is None else (rest != 0) & raw.valid
        if wrong.any():
            fault(wrong, f"a {what} is finer than the microseconds that lake tables have")
        return build_micros(Numbers(micros, raw.valid), fault)

    return build


NANO_TIME = nanoseconds(pa.time64("us"), 0, DAY_US, "time of day before 24:00")
NANO_TIMESTAMP = nanoseconds(
    pa.timestamp("us"), FIRST_DAY * DAY_US, (LAST_DAY + 1) * DAY_US, "timestamp of the years 1 to 9999"
)


def binary(raw: Raw, _fault: Fault) -> pa.Array:
    """Bytes, copied out of the records' buffer by one native gather."""
    return copied(raw, pa.binary())


def text(raw: Raw, fault: Fault) -> pa.Array:
    """UTF-8 text."""
    content = copied(raw, pa.binary())
    try:
        return content.cast(pa.string())
    except pa.ArrowInvalid:
        wrong = np.array([not _is_utf8(value) for value in content.to_pylist()])
        fault(wrong, "a text isn't UTF-8")
        return pc.if_else(pa.array(wrong), pa.scalar(None, pa.binary()), content).cast(pa.string())


def _is_utf8(value: bytes | None) -> bool:
    try:
        return value is None or value.decode() is not None
    except UnicodeDecodeError:
        return False


def copied(raw: Raw, arrow: pa.DataType) -> pa.Array:
    """The bytes of a spans column as a `binary` or (unchecked) `string` array of their own."""
    if isinstance(raw, Nothing):
        return pa.nulls(raw.rows, arrow)
    assert isinstance(raw, Spans)
    n = len(raw.start)
    if not n:
        return pa.array([], arrow)
    # starts and ends in turn are the offsets of an array that has the wanted values at its even places
    bounds = np.empty(2 * n, np.int32)
    bounds[0::2] = raw.start
    bounds[1::2] = raw.start + raw.length
    if raw.valid is not None:
        bounds *= np.repeat(raw.valid, 2)
        np.maximum.accumulate(bounds, out=bounds)
    every = pa.Array.from_buffers(arrow, 2 * n - 1, [None, pa.py_buffer(bounds), pa.py_buffer(raw.data)])
    taken = every.take(pa.array(np.arange(0, 2 * n, 2, dtype=np.int32)))
    if raw.valid is None or raw.valid.all():
        return taken
    return pa.Array.from_buffers(arrow, n, [bitmap(raw.valid), *taken.buffers()[1:]])


def decimal(precision: int, scale: int) -> Build:
    """Big-endian two's complement bytes as decimal128(precision, scale)."""
    arrow = pa.decimal128(precision, scale)

    def build(raw: Raw, fault: Fault) -> pa.Array:
        if isinstance(raw, Nothing):
            return pa.nulls(raw.rows, arrow)
        assert isinstance(raw, Spans)
        high, low, fits = _unscaled(raw, precision)
        if not fits.all():
            fault(~fits, f"a decimal has more than {precision} digits, or no byte at all")
        return _decimal128(arrow, high, low, raw.valid)

    return build


def _decimal128(arrow: pa.DataType, high: Ints, low: Ints, valid: Mask | None) -> pa.Array:
    words = np.empty((len(low), 2), np.int64)
    words[:, 0] = low
    words[:, 1] = high
    return pa.Array.from_buffers(arrow, len(low), [bitmap(valid), pa.py_buffer(words)])


def _unscaled(raw: Spans, precision: int) -> tuple[Ints, Ints, Mask]:
    """The high and low halves of 128-bit integers, and whether each has at most `precision` digits."""
    length = raw.length if raw.valid is None else np.where(raw.valid, raw.length, 1)
    sane = (length >= 1) & (length <= 16)
    if not sane.all():
        length = np.where(sane, length, 1)
    words = np.ndarray((len(raw.data) - 8,), dtype=">i8", buffer=raw.data, strides=(1,))
    head = words[raw.start].astype(np.int64)
    if int(length.max(initial=1)) <= 8:
        low = head >> (64 - 8 * length)
        high = low >> 63
        if precision <= 18:
            bound = 10**precision
            return high, low, sane & (low < bound) & (low > -bound)
    else:
        short = length <= 8
        top = head >> (64 - 8 * np.where(short, length, length - 8))
        tail = words[np.maximum(raw.start + length - 8, 0)].astype(np.int64)
        low = np.where(short, top, tail)
        high = np.where(short, top >> 63, top)
    negative = high < 0
    size_low = np.where(negative, -low, low).view(np.uint64)
    size_high = np.where(negative, ~high + (low == 0), high).view(np.uint64)
    bound_high, bound_low = divmod(10**precision, 1 << 64)
    top_bound = np.uint64(bound_high)
    less = (size_high < top_bound) | ((size_high == top_bound) & (size_low < np.uint64(bound_low)))
    return high, low, sane & less


def variable_decimal(raw: Raw, fault: Fault) -> pa.Array:
    """Debezium's VariableScaleDecimal {scale, value} as plain decimal text with its own scale: never a double."""
    if isinstance(raw, Nothing):
        return pa.nulls(raw.rows, pa.string())
    assert isinstance(raw, Structs)
    rows = np.arange(raw.rows) if raw.valid is None else np.flatnonzero(raw.valid)
    scale, value = gather(raw.children["scale"], rows), gather(raw.children["value"], rows)
    texts = np.full(raw.rows, None, object)
    if not len(rows):
        return pa.array(texts, pa.string())
    assert isinstance(scale, Numbers)
    assert isinstance(value, Spans)
    high, low, fits = _unscaled(value, _DIGITS)
    for one in np.unique(scale.values).tolist():
        mine = np.flatnonzero(scale.values == one)
        easy = mine[fits[mine]] if 0 <= one <= _DIGITS else mine[:0]
        if len(easy):
            digits = _decimal128(pa.decimal128(_DIGITS, one), high[easy], low[easy], None).cast(pa.string())
            # Arrow writes numbers below a millionth with an exponent
            plain = ~pc.match_substring(digits, "E").to_numpy(zero_copy_only=False)
            easy = easy[plain]
            texts[rows[easy]] = digits.to_numpy(zero_copy_only=False)[plain]
        for i in np.setdiff1d(mine, easy).tolist():
            unscaled = int.from_bytes(raw_bytes(value, i), signed=True)
            texts[rows[i]] = format(Decimal(unscaled).scaleb(-one, _EXACT), "f") if abs(one) < _MAX_SCALE else None
    wrong = np.zeros(raw.rows, np.bool_)
    wrong[rows] = (value.length == 0) | (np.abs(scale.values.astype(np.int64)) >= _MAX_SCALE)
    if wrong.any():
        fault(wrong, f"a decimal has no byte at all, or a scale beyond {_MAX_SCALE}")
    return pa.array(texts, pa.string())


_DIGITS = 38
_MAX_SCALE = 20_000
"""PostgreSQL's numeric has at most 16,383 decimals; a scale far beyond would make a text of gigabytes."""
_EXACT = Context(prec=200_000, Emax=999_999, Emin=-999_999)


def raw_bytes(spans: Spans, row: int) -> bytes:
    """One item of a spans column."""
    start = int(spans.start[row])
    return spans.data[start : start + int(spans.length[row])].tobytes()


def lists(arrow: pa.DataType, items: Build) -> Build:
    """Lists of `items`; what is wrong with an item is wrong with its row."""

    def build(raw: Raw, fault: Fault) -> pa.Array:
        if isinstance(raw, Nothing):
            return pa.nulls(raw.rows, arrow)
        assert isinstance(raw, Lists)
        offsets = np.zeros(len(raw.counts) + 1, np.int32)
        np.cumsum(raw.counts, out=offsets[1:])

        def item_fault(wrong: Mask, reason: str) -> None:
            rows = np.zeros(len(raw.counts), np.bool_)
            rows[np.repeat(np.arange(len(raw.counts)), raw.counts)[wrong]] = True
            fault(rows, reason)

        children = items(raw.items, item_fault)
        buffers = [bitmap(raw.valid), pa.py_buffer(offsets)]
        return pa.Array.from_buffers(arrow, len(raw.counts), buffers, children=[children])

    return build


def structs(arrow: pa.DataType, children: dict[str, Build]) -> Build:
    """Structs with the fields of `children`."""

    def build(raw: Raw, fault: Fault) -> pa.Array:
        if isinstance(raw, Nothing):
            return pa.nulls(raw.rows, arrow)
        assert isinstance(raw, Structs)
        arrays = [make(raw.children[name], fault) for name, make in children.items()]
        return pa.Array.from_buffers(arrow, size(raw), [bitmap(raw.valid)], children=arrays)

    return build


def maps(arrow: pa.MapType, keys: Build, values: Build) -> Build:
    """Maps from lists of their entries (`key`, `value`), in the order of the record."""

    def build(raw: Raw, fault: Fault) -> pa.Array:
        entries = lists(pa.list_(entry), structs(entry, {"key": keys, "value": values}))(raw, fault)
        buffers = entries.buffers()[:2]
        return pa.Array.from_buffers(arrow, len(entries), buffers, children=[entries.values])

    entry = pa.struct([arrow.key_field.with_name("key"), arrow.item_field.with_name("value")])
    return build
