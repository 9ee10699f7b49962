"""Primary keys as bytes: injective (no two keys collide) and without a Python loop over rows.

Every column becomes a part of its own: numbers, dates and times as eight big-endian bytes, everything else as its
bytes behind a four-byte length, so that ("a", "bc") and ("ab", "c") differ.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from config.errors import UnsupportedChange


def sorted_keys(keys: pa.Table, prefix: bytes) -> tuple[list[bytes], npt.NDArray[np.int64]]:
    """Each row's columns as one byte string behind `prefix`, in ascending order, and the number of the row that each of
    them comes from.

    Raises UnsupportedChange for a null in a key, or a column type that can't be a key.
    """
    joined = _joined(keys, prefix)
    order = _order(joined)
    encoded: list[bytes] = joined.take(pa.array(order)).to_pylist()
    return encoded, order


def _joined(keys: pa.Table, prefix: bytes) -> pa.BinaryArray:
    if keys.num_rows == 0:
        return pa.array([], pa.binary())
    parts = [pa.scalar(prefix, pa.binary())]
    for name in keys.column_names:
        parts += _parts(name, keys.column(name).combine_chunks())
    return pc.binary_join_element_wise(*parts, pa.scalar(b"", pa.binary()))


def _order(encoded: pa.BinaryArray) -> npt.NDArray[np.int64]:
    """How to sort them; texts of one length (numbers are) are compared by words of eight bytes, several times as fast
    as one by one."""
    lengths = pc.unique(pc.binary_length(encoded)).to_pylist()
    if len(lengths) != 1:
        indices: npt.NDArray[np.int64] = pc.sort_indices(encoded).to_numpy().astype(np.int64)
        return indices
    words = -(-lengths[0] // 8)
    raw = np.frombuffer(encoded.buffers()[2], np.uint8)[encoded.offset * lengths[0] :][: len(encoded) * lengths[0]]
    padded = np.zeros((len(encoded), 8 * words), np.uint8)
    padded[:, : lengths[0]] = raw.reshape(len(encoded), lengths[0])
    values = padded.view(">u8").astype(np.uint64)
    return np.lexsort([values[:, n] for n in reversed(range(words))])


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
        numbers = pc.cast(column, pa.float64()).to_numpy() + 0.0  # -0.0 and 0.0 are one key, and so are all NaNs
        return [_fixed(np.where(np.isnan(numbers), np.nan, numbers).view(np.int64))]
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
