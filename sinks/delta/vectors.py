"""Deletion vectors as bytes: which rows of a data file are gone (Delta protocol, "Deletion Vectors").

A vector is a 64-bit Roaring bitmap behind a magic number (both little-endian). The vectors of a whole commit lie in one
file: a version byte, then for each vector its length, its bytes and their CRC-32 (big-endian). An action names a vector
by the file's UUID in Z85, behind a folder's name, and the position of its length. Vectors of other writers may stand
inline in the action instead; ours don't, as Spark's VACUUM (Delta 3.3) fails on a table that has such a one.
"""

from __future__ import annotations

import re
import struct
import zlib
from array import array
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from config.errors import ConfigurationError, PipelineStopped
from sinks.owners import Owner, topic_hash
from sources.changes import TopicPartition

_MAGIC = 1681511377
_FOLDER = "_dv"
"""Vacuum of delta-rs and Spark leaves folders alone whose names begin with `_`; it knows nothing of vectors in use."""

_OWNED = re.compile(rf"{_FOLDER}/(?P<topic>[0-9a-f]{{16}})-(?P<partition>\d+)/")

_Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_Z85_VALUES = {character: value for value, character in enumerate(_Z85)}


@dataclass(frozen=True)
class Vector:
    """How an action names a deletion vector: `storage` is `i` (inline) or `u` (a file below the table's folder),
    `where` the bytes or the file's name, `offset` the position in it, `size` its bytes, `cardinality` how many rows."""

    storage: str
    where: str
    offset: int | None
    size: int
    cardinality: int

    @property
    def id(self) -> str:
        """What tells two vectors of one data file apart (Delta protocol, "Derived Fields", `uniqueId`)."""
        return f"{self.storage}{self.where}" + ("" if self.offset is None else f"@{self.offset}")

    @property
    def path(self) -> str | None:
        """The vector file below the table's folder, None for an inline vector."""
        if self.storage == "i":
            return None
        if self.storage != "u":
            raise ConfigurationError(
                f"the table has a deletion vector at the absolute path {self.where}, as shallow clones have, which"
                " Lakeward can't keep up with; purge it (Spark: REORG TABLE … APPLY (PURGE)) or use upserts: merge"
            )
        return _path(self.where[:-20], UUID(bytes=z85_decode(self.where[-20:])))

    def action(self) -> dict[str, Any]:
        """As `add` and `remove` carry it (Delta protocol, "Deletion Vector Descriptor Schema")."""
        found: dict[str, Any] = {"storageType": self.storage, "pathOrInlineDv": self.where}
        if self.offset is not None:
            found["offset"] = self.offset
        return found | {"sizeInBytes": self.size, "cardinality": self.cardinality}

    @classmethod
    def of_action(cls, found: Mapping[str, Any] | None) -> Vector | None:
        """The vector of an action of the log or a checkpoint."""
        if found is None:
            return None
        where, offset = found["pathOrInlineDv"], found.get("offset")
        return cls(found["storageType"], where, offset, found["sizeInBytes"], found["cardinality"])

    def rows(self, read: Callable[[str, int, int], bytes]) -> BitMap:
        """The rows that are gone; `read` gets path, start and length. Raises PipelineStopped for a damaged vector."""
        path = self.path
        if path is None:
            return _unpacked(z85_decode(self.where)[: self.size], "an inline vector")
        start = self.offset or 0
        raw = read(path, start, self.size + 8)
        (size,), (crc,) = struct.unpack_from(">I", raw, 0), struct.unpack_from(">I", raw, len(raw) - 4)
        body = raw[4:-4]
        if size != self.size or len(body) != size or zlib.crc32(body) != crc:
            raise _damaged(f"{path} at {start}")
        return _unpacked(body, f"{path} at {start}")


@dataclass(frozen=True)
class StagedVectors:
    """The vectors of one commit, in the order of their bitmaps, and the file that holds them."""

    vectors: list[Vector]
    path: str
    content: bytes


def staged(bitmaps: Iterable[BitMap], tp: TopicPartition) -> StagedVectors:
    """The vectors of these bitmaps, for a file that `tp` owns."""
    folder, uuid = f"{_FOLDER}/{topic_hash(tp.topic)}-{tp.partition}", uuid4()
    file = bytearray(b"\x01")
    vectors = []
    for bitmap in bitmaps:
        body = _packed(bitmap)
        vectors.append(Vector("u", folder + z85_encode(uuid.bytes), len(file), len(body), len(bitmap)))
        file += struct.pack(">I", len(body)) + body + struct.pack(">I", zlib.crc32(body))
    return StagedVectors(vectors, _path(folder, uuid), bytes(file))


def vector_owner(path: str) -> Owner | None:
    """The Kafka partition that owns a file with vectors, None for any other file."""
    match = _OWNED.match(path)
    return None if match is None else (match["topic"], int(match["partition"]))


def bitmap_of(rows: npt.NDArray[np.uint32]) -> BitMap:
    """A bitmap of row positions (a copy through `array` is ten times as fast as one of the numpy array)."""
    return BitMap(array("I", rows.astype(np.uint32).tobytes()))


def positions(bitmap: BitMap) -> npt.NDArray[np.int64]:
    """The row positions in a bitmap, in order."""
    return np.array(bitmap.to_array(), dtype=np.int64)


def _path(folder: str, uuid: UUID) -> str:
    name = f"deletion_vector_{uuid}.bin"
    return f"{folder}/{name}" if folder else name


def _packed(bitmap: BitMap) -> bytes:
    bitmap.run_optimize()
    # one bucket: the high 32 bits of every position are zero, as a file has fewer than 2^32 rows
    return struct.pack("<IQI", _MAGIC, 1, 0) + bytes(bitmap.serialize())


def _unpacked(body: bytes, where: str) -> BitMap:
    if len(body) < 12:
        raise _damaged(where)
    magic, buckets = struct.unpack_from("<IQ", body)
    if magic != _MAGIC:
        raise _damaged(where)
    if buckets == 0:
        return BitMap()
    (bucket,) = struct.unpack_from("<I", body, 12)
    if buckets > 1 or bucket:
        raise PipelineStopped(f"the deletion vector {where} names a position above 2^32, which no data file has")
    return BitMap.deserialize(body[16:])


def _damaged(where: str) -> PipelineStopped:
    return PipelineStopped(f"the deletion vector {where} is damaged: restore it, or the table's version before it")


def z85_encode(raw: bytes) -> str:
    """Z85 of bytes whose count is a multiple of four (ZeroMQ RFC 32)."""
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
