"""Builds a `Chunk` from the records that one fetch brought of one partition.

Called by the columnar consumer in its own thread and by commands that read a topic by themselves. This is the one
pass over records in Python that a fetch pays for, so each column is taken by a C-level `map`.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

import numpy as np
from aiokafka.structs import ConsumerRecord

from sources.changes import Chunk, Headers

RECORD_OVERHEAD = 100
"""Bytes that a record costs beside its key, value and headers: two `bytes` objects, list entries, offset, time."""

_HEADER_SAMPLES = 16

_offset = attrgetter("offset")
_timestamp = attrgetter("timestamp")
_key = attrgetter("key")
_value = attrgetter("value")
_headers = attrgetter("headers")


def build_chunk(
    topic: str, partition: int, generation: int, first: int, next: int, records: Sequence[ConsumerRecord]
) -> Chunk:
    """The chunk over [first, next) that holds `records` (raw, in offset order, possibly none).

    `first` is where the consumer stood before the fetch and `next` where it stands after it: both may lie outside
    of the records' own offsets, because compaction and aborted transactions leave holes. `nbytes` is what the chunk
    costs in memory: keys and values exactly, headers by a sample (one producer wrote them all alike).
    """
    n = len(records)
    keys: list[bytes | None] = list(map(_key, records))
    values: list[bytes | None] = list(map(_value, records))
    headers: list[Headers] = list(map(_headers, records))
    if not any(headers):
        headers = [()] * n  # one for all, not a list per record
    nbytes = sum(map(len, filter(None, keys))) + sum(map(len, filter(None, values)))
    return Chunk(
        topic=topic,
        partition=partition,
        generation=generation,
        first=first,
        next=next,
        offsets=np.fromiter(map(_offset, records), dtype=np.int64, count=n),
        timestamps=np.fromiter(map(_timestamp, records), dtype=np.int64, count=n),
        keys=keys,
        values=values,
        headers=headers,
        nbytes=nbytes + n * RECORD_OVERHEAD + _headers_nbytes(headers),
    )


def _headers_nbytes(headers: list[Headers]) -> int:
    """The headers' bytes, extrapolated from an even sample of the records."""
    if not headers:
        return 0
    sample = headers[:: max(1, len(headers) // _HEADER_SAMPLES)]
    sampled = sum(len(name) + len(value or b"") + RECORD_OVERHEAD for record in sample for name, value in record)
    return sampled * len(headers) // len(sample)
