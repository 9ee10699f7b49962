"""Seeded Debezium events onto four partitions at a steady rate, and what tables have to hold afterwards."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import uuid4

import numpy as np
import polars as pl
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from benchmarks.workload import KEY_SCHEMA, PARTITIONS, STATUSES, Changes, changes, encode, envelope_schema, register
from benchmarks.workload import snapshot as snapshot_of
from stack.manager import Endpoints

KEYS = 2_000
TICK_SECONDS = 0.02


@dataclass(frozen=True)
class Sent:
    """A record that the broker has: where it lies and, unless it is a tombstone, which change it carries."""

    partition: int
    offset: int
    change: int | None


class Load:
    """A snapshot of `keys` rows, then up to `most` changes, such a share of them inserts. Same seed, same events.
    `note`: a column of each row."""

    def __init__(
        self,
        services: Endpoints,
        most: int = 300_000,
        seed: int = 5,
        keys: int = KEYS,
        inserts: float = 0.4,
        note: bytes = b"twelve bytes",
    ) -> None:
        broker = services["kafka"].address
        self.table = f"t{uuid4().hex[:10]}"
        self.prefix = "chaos"
        self.topic = f"{self.prefix}.public.{self.table}"
        base, moves = snapshot_of(keys, seed), changes(most, keys, seed + 1, inserts=inserts)
        self._made = Changes(*(np.concatenate([a, b]) for a, b in zip(_columns(base), _columns(moves), strict=True)))
        url = services["registry"].url
        ids = (
            register(url, f"{self.topic}-key", KEY_SCHEMA),
            register(url, f"{self.topic}-value", envelope_schema(self.table)),
        )
        self._events = self._numbered(encode(self._made, self.table, *ids, note))
        settings = {"enable.idempotence": True, "linger.ms": 5, "queue.buffering.max.messages": 1_000_000}
        self._producer = Producer({"bootstrap.servers": broker, **settings})
        admin = AdminClient({"bootstrap.servers": broker})
        admin.create_topics([NewTopic(self.topic, PARTITIONS, 1)])[self.topic].result(30)
        self._ends: Counter[int] = Counter()
        self._sent: list[Sent] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None

    def send(self, count: int) -> None:
        """Send so many records now."""
        for _ in range(count):
            change, partition, key, value = next(self._events)
            self._producer.produce(self.topic, value=value, key=key, partition=partition)
            self._sent.append(Sent(partition, self._ends[partition], change))
            self._ends[partition] += 1
        left = self._producer.flush(60)
        assert not left, f"the broker didn't take {left} records"

    def start(self, per_second: int) -> None:
        """Send in the background until `stop`."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, args=(int(per_second * TICK_SECONDS),), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the background load; idempotent. Fails if it had failed."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(60)
            self._thread = None
        assert self._failure is None, self._failure

    def _run(self, per_tick: int) -> None:
        try:
            while not self._stop.wait(TICK_SECONDS):
                self.send(per_tick)
        except (AssertionError, StopIteration, BufferError) as error:
            self._failure = RuntimeError(f"the load broke off: {error!r}")

    def _numbered(
        self, events: Iterator[tuple[int, bytes, bytes | None]]
    ) -> Iterator[tuple[int | None, int, bytes, bytes | None]]:
        number = 0
        for partition, key, value in events:
            yield (None if value is None else number), partition, key, value
            number += value is not None

    # -- what tables have to hold

    @property
    def ends(self) -> dict[str, int]:
        """`topic/partition` -> the log's end."""
        return {f"{self.topic}/{partition}": end for partition, end in self._ends.items()}

    def changes_since(self, records: int) -> int:
        """How many of the last so many records are changes (the others are tombstones)."""
        return sum(sent.change is not None for sent in self._sent[-records:])

    def changelog(self) -> pl.DataFrame:
        """Every change that was sent, by partition and offset; of a delete only the key."""
        rows = [sent for sent in self._sent if sent.change is not None]
        picked = np.array([sent.change for sent in rows])
        op = pl.Series(self._made.ops[picked]).cast(pl.String)
        frame = pl.DataFrame(
            {
                "partition": pl.Series([sent.partition for sent in rows], dtype=pl.Int32),
                "offset": pl.Series([sent.offset for sent in rows], dtype=pl.Int64),
                "op": op,
                "id": self._made.ids[picked],
                "cents": self._made.cents[picked],
                "status": pl.Series([s.decode() for s in STATUSES])[self._made.statuses[picked]],
            }
        )
        gone = pl.col("op") == "d"
        values = [pl.when(~gone).then(pl.col(name)).alias(name) for name in ("cents", "status")]
        return frame.with_columns(values).sort("partition", "offset")

    def end_state(self) -> pl.DataFrame:
        """Each key's last change, unless it is a delete, by key."""
        last = self.changelog().unique(subset="id", keep="last", maintain_order=True)
        return last.filter(pl.col("op") != "d").sort("id")


def _columns(made: Changes) -> tuple[np.ndarray, ...]:
    return made.ops, made.ids, made.cents, made.statuses
