"""Primary keys as bytes: injective (no two keys collide) and without a Python loop over rows.

Every column becomes a part of its own: numbers, dates and times as eight big-endian bytes, everything else as its
bytes behind a four-byte length, so that ("a", "bc") and ("ab", "c") differ.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from config.errors import UnsupportedChange


def encode_keys(keys: pa.Table, prefix: bytes, *, ordered: bool) -> list[bytes]:
    """Each row's columns as one byte string behind `prefix`; sorted if `ordered`, else in row order.

    Raises UnsupportedChange for a null in a key, or a column type that can't be a key.
    """
    if keys.num_rows == 0:
        return []
    parts = [pa.scalar(prefix, pa.binary())]
    for name in keys.column_names:
        parts += _parts(name, keys.column(name).combine_chunks())
    joined = pc.binary_join_element_wise(*parts, pa.scalar(b"", pa.binary()))
    if ordered:
        joined = joined.take(pc.sort_indices(joined))
    encoded: list[bytes] = joined.to_pylist()
    return encoded


def _parts(name: str, column: pa.Array) -> list[pa.Array]:
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks)
    if column.null_count:
        raise UnsupportedChange(f"key column {name} holds a null, which a primary key can't; check the record's key")
    kind = column.type
    if pa.types.is_boolean(kind):
        return [_fixed(pc.cast(column, pa.int64()).to_numpy(zero_copy_only=False))]
    if pa.types.is_integer(kind):
        return [_fixed(pc.cast(column, pa.int64()).to_numpy())]
    if pa.types.is_date32(kind):
        return [_fixed(pc.cast(column.view(pa.int32()), pa.int64()).to_numpy())]
    if pa.types.is_timestamp(kind) or pa.types.is_time64(kind):
        # in the unit of the files: a rebuild reads the keys back from there
        stored = pa.timestamp("us", tz=kind.tz) if pa.types.is_timestamp(kind) else pa.time64("us")
        return [_fixed(pc.cast(column, stored).view(pa.int64()).to_numpy())]
    if pa.types.is_floating(kind):
        return [_fixed(pc.cast(column, pa.float64()).to_numpy().view(np.int64))]
    if pa.types.is_decimal(kind):
        return _sized(pc.cast(column, pa.string()))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return _sized(pc.cast(column, pa.string()))
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return _sized(pc.cast(column, pa.binary()))
    raise UnsupportedChange(
        f"key column {name} is {kind}, which can't be a key of an upsert table; use write_mode: append"
    )


def _fixed(values: np.ndarray) -> pa.Array:
    raw = pa.py_buffer(values.astype(">i8").tobytes())
    return pc.cast(pa.FixedSizeBinaryArray.from_buffers(pa.binary(8), len(values), [None, raw]), pa.binary())


def _sized(column: pa.Array) -> list[pa.Array]:
    payload = pc.cast(column, pa.binary())
    lengths = pc.binary_length(payload).to_numpy().astype(">u4")
    raw = pa.FixedSizeBinaryArray.from_buffers(pa.binary(4), len(lengths), [None, pa.py_buffer(lengths.tobytes())])
    return [pc.cast(raw, pa.binary()), payload]
