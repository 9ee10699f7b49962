"""Seeded Debezium events (Avro, Confluent wire format) on four partitions, and the table that must come of them.

`appends`: inserts only. `accounts`: a snapshot of `keys` rows, then `changes` changes: inserts, and five updates for
each delete (which is followed by its tombstone, as Debezium sends them); keys of updates and deletes are Zipfian
(s = 1), and a deleted key that is hit again comes back as an insert.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt

PARTITIONS = 4
STATUSES = (b"new", b"active", b"on hold", b"closed")
BASE_MS = 1_780_000_000_000

KEY_SCHEMA = {
    "type": "record",
    "name": "Key",
    "namespace": "bench",
    "fields": [{"name": "id", "type": "long"}],
    "connect.name": "bench.Key",
}


def envelope_schema(table: str) -> dict[str, Any]:
    """The writer schema of the value, as the PostgreSQL connector registers it."""
    optional_long = ["null", "long"]
    decimal = {
        "type": "bytes",
        "scale": 2,
        "precision": 12,
        "connect.version": 1,
        "connect.parameters": {"scale": "2", "connect.decimal.precision": "12"},
        "connect.name": "org.apache.kafka.connect.data.Decimal",
        "logicalType": "decimal",
    }
    zoned = {"type": "string", "connect.version": 1, "connect.name": "io.debezium.time.ZonedTimestamp"}
    value = {
        "type": "record",
        "name": "Value",
        "fields": [
            {"name": "id", "type": "long"},
            {"name": "owner", "type": "string"},
            {"name": "balance", "type": ["null", decimal], "default": None},
            {"name": "status", "type": ["null", "string"], "default": None},
            {"name": "updated", "type": ["null", zoned], "default": None},
            {"name": "note", "type": ["null", "string"], "default": None},
        ],
        "connect.name": f"bench.{table}.Value",
    }
    source = {
        "type": "record",
        "name": "Source",
        "namespace": "io.debezium.connector.postgresql",
        "fields": [
            *({"name": n, "type": "string"} for n in ("version", "connector", "name")),
            {"name": "ts_ms", "type": "long"},
            {"name": "snapshot", "type": ["string", "null"], "default": "false"},
            {"name": "db", "type": "string"},
            {"name": "sequence", "type": ["null", "string"], "default": None},
            *({"name": n, "type": optional_long, "default": None} for n in ("ts_us", "ts_ns")),
            *({"name": n, "type": "string"} for n in ("schema", "table")),
            *({"name": n, "type": optional_long, "default": None} for n in ("txId", "lsn", "xmin")),
        ],
        "connect.name": "io.debezium.connector.postgresql.Source",
    }
    return {
        "type": "record",
        "name": "Envelope",
        "namespace": f"bench.{table}",
        "fields": [
            {"name": "before", "type": ["null", value], "default": None},
            {"name": "after", "type": ["null", "Value"], "default": None},
            {"name": "source", "type": source},
            {"name": "op", "type": "string"},
            {"name": "ts_ms", "type": optional_long, "default": None},
        ],
        "connect.name": f"bench.{table}.Envelope",
    }


def register(registry_url: str, subject: str, schema: dict[str, Any]) -> int:
    """Register a schema over the Confluent API; returns its id."""
    answer = httpx.post(f"{registry_url}/subjects/{subject}/versions", json={"schema": json.dumps(schema)}, timeout=30)
    answer.raise_for_status()
    return int(answer.json()["id"])


def _long(value: int) -> bytes:
    zigzag = (value << 1) ^ (value >> 63)
    out = bytearray()
    while zigzag > 0x7F:
        out.append((zigzag & 0x7F) | 0x80)
        zigzag >>= 7
    out.append(zigzag)
    return bytes(out)


def _text(value: bytes) -> bytes:
    return _long(len(value)) + value


@dataclass(frozen=True)
class Changes:
    """What to send, in order: op codes ('c', 'u', 'd', 'r'), ids, balances in cents and statuses' indices."""

    ops: npt.NDArray[np.bytes_]
    ids: npt.NDArray[np.int64]
    cents: npt.NDArray[np.int64]
    statuses: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)

    def expected(self) -> dict[str, npt.NDArray[np.int64]]:
        """The table afterwards, ordered by id: `id`, `cents`, `status` of each key's last change unless deleted."""
        # the last occurrence of each id: unique() of the reversed array keeps the first
        ids, last = np.unique(self.ids[::-1], return_index=True)
        last = len(self) - 1 - last
        alive = self.ops[last] != b"d"
        return {"id": ids[alive], "cents": self.cents[last][alive], "status": self.statuses[last][alive]}


def appends(count: int, seed: int = 7) -> Changes:
    """`count` inserts of new keys."""
    rng = np.random.default_rng(seed)
    return Changes(
        np.full(count, b"c"), np.arange(1, count + 1), rng.integers(-(10**9), 10**9, count), rng.integers(0, 4, count)
    )


def snapshot(keys: int, seed: int = 8) -> Changes:
    """The rows of a connector's snapshot."""
    made = appends(keys, seed)
    return Changes(np.full(keys, b"r"), made.ids, made.cents, made.statuses)


def changes(count: int, keys: int, seed: int = 9, *, inserts: float = 0.4) -> Changes:
    """`count` changes onto the snapshot of `keys` rows; such a share of them are inserts of new keys."""
    rng = np.random.default_rng(seed)
    kind = rng.random(count)
    old = 1 - inserts
    ops = np.where(kind < old * 5 / 6, b"u", np.where(kind < old, b"d", b"c"))
    # log-uniform ranks are Zipfian with s = 1; the permutation scatters hot keys over partitions and files
    ranks = np.minimum((np.exp(rng.random(count) * np.log(keys)) - 1).astype(np.int64), keys - 1)
    ids = rng.permutation(keys)[ranks] + 1
    fresh = ops == b"c"
    ids[fresh] = keys + 1 + np.arange(int(fresh.sum()))
    # an update or delete of a key that is gone brings it back
    alive = np.ones(keys + 1, dtype=bool)
    for index in np.flatnonzero(~fresh):
        key = ids[index]
        if not alive[key]:
            ops[index] = b"c"
            alive[key] = True
        elif ops[index] == b"d":
            alive[key] = False
    return Changes(ops, ids, rng.integers(-(10**9), 10**9, count), rng.integers(0, 4, count))


def encode(
    made: Changes, table: str, key_id: int, value_id: int, note: bytes = b"twelve bytes"
) -> Iterator[tuple[int, bytes, bytes | None]]:
    """(partition, key, value) of each record, tombstones included. `note`: a column that all rows have in common."""
    key_prefix = b"\x00" + key_id.to_bytes(4, "big")
    value_prefix = b"\x00" + value_id.to_bytes(4, "big")
    source_head = _text(b"3.7.0.Final") + _text(b"postgresql") + _text(b"bench")
    source_tail = b"\x00" + _text(b"bench") + b"\x02" + _text(b'["27738480","27738544"]')
    table_names = _text(b"public") + _text(table.encode())
    statuses = [b"\x02" + _text(status) for status in STATUSES]
    noted = b"\x02" + _text(note)
    source = b""
    for n, (op, key, cents, status) in enumerate(
        zip(made.ops.tolist(), made.ids.tolist(), made.cents.tolist(), made.statuses.tolist(), strict=True)
    ):
        if n % 50 == 0:  # one source transaction
            ms = BASE_MS + n
            snapshot_flag = _text(b"true" if op == b"r" else b"false")
            lsn = b"\x02" + _long(27738544 + n)
            source = (
                source_head + _long(ms) + b"\x00" + snapshot_flag + source_tail[1:]
                + b"\x02" + _long(ms * 1000 + 7) + b"\x02" + _long(ms * 1_000_000 + 7007)
                + table_names + b"\x02" + _long(700 + n // 50) + lsn + b"\x00"
            )  # fmt: skip
            updated = b"\x02" + _text(b"2026-05-%02dT10:%02d:%02d.123456Z" % (n % 28 + 1, n // 60 % 60, n % 60))
            tail = b"\x02" + _long(ms + 3)
        encoded_key = key_prefix + _long(key)
        if op == b"d":
            image = _long(key) + b"\x00" + b"\x00" * 4
            yield key % PARTITIONS, encoded_key, value_prefix + b"\x02" + image + b"\x00" + source + b"\x02d" + tail
            yield key % PARTITIONS, encoded_key, None
            continue
        image = (
            _long(key) + _text(b"owner-%07d" % key) + b"\x02" + _text(cents.to_bytes(6, "big", signed=True))
            + statuses[status] + updated + noted
        )  # fmt: skip
        yield key % PARTITIONS, encoded_key, value_prefix + b"\x00\x02" + image + source + b"\x02" + op + tail
