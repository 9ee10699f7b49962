"""Which types hold all values of others, and how a column is named that keeps another type of one that is there."""

from __future__ import annotations

import re
from functools import lru_cache

import pyarrow as pa

_EXACT_BITS = {pa.float32(): 24, pa.float64(): 53}
"""Bits of the whole numbers that a floating type holds without gaps (IEEE 754)."""


@lru_cache(maxsize=1024)
def holds(wide: pa.DataType, narrow: pa.DataType) -> bool:
    """Whether every value of `narrow` is exactly a value of `wide`. Only numbers widen: a text could hold any value,
    but not as what it was."""
    if wide == narrow:
        return True
    if pa.types.is_integer(narrow):
        low, high = _bounds(narrow)
        if pa.types.is_integer(wide):
            lowest, highest = _bounds(wide)
            return lowest <= low and high <= highest
        if pa.types.is_decimal(wide):
            digits: int = wide.precision - wide.scale
            return len(str(max(-low, high))) <= digits
        return wide in _EXACT_BITS and max(-low, high) <= 2 ** _EXACT_BITS[wide]
    if pa.types.is_decimal(narrow) and pa.types.is_decimal(wide):
        whole = narrow.precision - narrow.scale <= wide.precision - wide.scale
        return bool(whole and narrow.scale <= wide.scale)
    return bool(wide == pa.float64() and narrow == pa.float32())


def _bounds(kind: pa.DataType) -> tuple[int, int]:
    if pa.types.is_signed_integer(kind):
        return -(2 ** (kind.bit_width - 1)), 2 ** (kind.bit_width - 1) - 1
    return 0, 2**kind.bit_width - 1


def beside(column: str, kind: pa.DataType) -> str:
    """The column that keeps values of `column` at another type, `kind` as the table stores it: `amount__string`,
    `amount__decimal128_12_2`. It follows from the two alone, so every worker, replay and restart finds the same."""
    text = re.sub(r"large_(?=string|binary|list)", "", str(kind))
    return f"{column}__{re.sub(r'[^a-z0-9]+', '_', text.lower()).strip('_')}"
