"""Deletion vectors as bytes: 64-bit Roaring bitmaps in Delta's envelope, in a file or inline in the log.

One file holds the vectors of a whole commit: a version byte, and for each vector its length, its bytes and their
CRC-32 (big-endian). The vector itself begins with a magic number (little-endian). An action names a vector by the
file's UUID in Z85 and the position of its length, so 20 characters stand for a file name.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

MAGIC = 1681511377
INLINE_BYTES = 256
"""The largest vector that may be kept inline, if inline vectors are wanted at all."""

_Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_Z85_VALUES = {character: value for value, character in enumerate(_Z85)}


@dataclass(frozen=True)
class Vector:
    """How an action names a deletion vector."""

    storage: str
    where: str
    offset: int | None
    size: int
    cardinality: int

    @property
    def id(self) -> str:
        """What tells two versions of one data file apart."""
        return f"{self.storage}{self.where}" + ("" if self.offset is None else f"@{self.offset}")

    @property
    def path(self) -> str | None:
        """The vector file below the table's folder, None for an inline vector."""
        if self.storage == "i":
            return None
        if self.storage != "u":
            raise ValueError(f"a deletion vector at an absolute path isn't supported: {self.where}")
        prefix, encoded = self.where[:-20], self.where[-20:]
        name = f"deletion_vector_{UUID(bytes=z85_decode(encoded))}.bin"
        return f"{prefix}/{name}" if prefix else name

    def action(self) -> dict[str, Any]:
        """As `add` and `remove` carry it."""
        found: dict[str, Any] = {"storageType": self.storage, "pathOrInlineDv": self.where}
        if self.offset is not None:
            found["offset"] = self.offset
        return found | {"sizeInBytes": self.size, "cardinality": self.cardinality}

    @classmethod
    def of_action(cls, found: dict[str, Any] | None) -> Vector | None:
        """The vector of an action of the log or a checkpoint."""
        if found is None:
            return None
        return cls(
            found["storageType"],
            found["pathOrInlineDv"],
            found.get("offset"),
            found["sizeInBytes"],
            found["cardinality"],
        )

    def read(self, read: Callable[[str], bytes]) -> BitMap:
        """The rows that are gone; `read` gets a file's bytes. Raises ValueError for damaged bytes."""
        path = self.path
        if path is None:
            return _unpacked(z85_decode(self.where)[: self.size])
        raw, start = read(path), self.offset or 0
        (size,) = struct.unpack_from(">I", raw, start)
        body = raw[start + 4 : start + 4 + size]
        (crc,) = struct.unpack_from(">I", raw, start + 4 + size)
        if size != self.size or zlib.crc32(body) != crc:
            raise ValueError(f"the deletion vector {path} at {start} is damaged")
        return _unpacked(body)


def staged(bitmaps: Iterable[BitMap], prefix: str = "", *, inline: bool = False) -> tuple[list[Vector], bytes]:
    """The vectors of one commit, and the bytes of the file that holds those which aren't inline (maybe none)."""
    name = uuid4()
    where = prefix + z85_encode(name.bytes)
    file = bytearray(b"\x01")
    vectors = []
    for bitmap in bitmaps:
        body = _packed(bitmap)
        if inline and len(body) <= INLINE_BYTES:
            padded = body + bytes(-len(body) % 4)
            vectors.append(Vector("i", z85_encode(padded), None, len(body), len(bitmap)))
            continue
        vectors.append(Vector("u", where, len(file), len(body), len(bitmap)))
        file += struct.pack(">I", len(body)) + body + struct.pack(">I", zlib.crc32(body))
    return vectors, bytes(file) if len(file) > 1 else b""


def bitmap_of(rows: npt.NDArray[np.uint32]) -> BitMap:
    """A bitmap of row positions (a copy through `array` is ten times as fast as one of the numpy array)."""
    return BitMap(array("I", rows.astype(np.uint32).tobytes()))


def _packed(bitmap: BitMap) -> bytes:
    bitmap.run_optimize()
    # one bucket: the high 32 bits of every position are zero, as a file has fewer than 2^32 rows
    return struct.pack("<IQI", MAGIC, 1, 0) + bytes(bitmap.serialize())


def _unpacked(body: bytes) -> BitMap:
    magic, buckets = struct.unpack_from("<IQ", body)
    if magic != MAGIC:
        raise ValueError(f"not a deletion vector: its magic number is {magic}")
    if buckets == 0:
        return BitMap()
    (bucket,) = struct.unpack_from("<I", body, 12)
    if buckets > 1 or bucket:
        raise ValueError("a deletion vector names a position above 2^32")
    return BitMap.deserialize(body[16:])


def z85_encode(raw: bytes) -> str:
    """Z85 of bytes whose count is a multiple of four."""
    words = struct.unpack(f">{len(raw) // 4}I", raw)
    return "".join(_Z85[word // 85**power % 85] for word in words for power in (4, 3, 2, 1, 0))


def z85_decode(text: str) -> bytes:
    """The bytes of a Z85 text."""
    words = []
    for start in range(0, len(text), 5):
        word = 0
        for character in text[start : start + 5]:
            word = word * 85 + _Z85_VALUES[character]
        words.append(word)
    return struct.pack(f">{len(words)}I", *words)
