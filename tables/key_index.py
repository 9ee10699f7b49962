"""The primary-key index: where each key's row lies, for the Kafka partitions that this worker owns.

One RocksDB per worker, shared by all tables. Per (table, topic, partition) it maps an encoded key to (data file, row
position), beside the state at which that is true: the partition's next offset and a fingerprint of its live files.
Keys, files and state change in one write batch. After a crash the database is what it was at its last flush, state
included, and the owner sees from the state that it has to rebuild. It is a cache: whoever reads it compares the state
with the table first.

Layout (numbers big-endian, so that a partition's keys are neighbours):

    V                                  -> the version of this layout
    M <table id> <topic> <partition>   -> JSON: number, next offset, fingerprint, snapshot, highest file id, day of use
    F <number:4> <file id:4>           -> rows:4, dead rows:4 (little-endian), file path
    K <number:4> <encoded key>         -> file id:4, position:4 (little-endian)

File ids aren't used twice: a key whose file isn't known any more has no row.

What nobody has used for a month is forgotten when the index is opened: partitions that have moved to other workers, and
tables that aren't written any more.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import structlog
from rocksdict import WriteBatch

from config.errors import Unavailable
from tables.index_database import IndexDamaged, IndexDatabase, after
from tables.key_encoding import sorted_keys

log = structlog.get_logger("lakeward.index")

UNUSED_DAYS = 30
"""After how many days without a commit a partition's entries are forgotten. Should it be written again after all, its
keys are read from the table."""

ENCODED_AT_ONCE = 1 << 16
"""Keys of a new file that are Python objects at one time."""

RUN_ROWS = 1 << 18
"""Keys from which on a rebuild writes what it has read."""


@dataclass(frozen=True)
class IndexState:
    """At which state of the table a partition's entries are true, and a snapshot that was in that state."""

    next_offset: int
    files: int
    snapshot_id: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class IndexedFile:
    """A data file with rows of the partition: how many rows it has, and how many of them no key names any more."""

    path: str
    rows: int
    dead: int

    def encode(self) -> bytes:
        """As the value of an F entry."""
        return self.rows.to_bytes(4, "little") + self.dead.to_bytes(4, "little") + self.path.encode()

    @classmethod
    def decode(cls, value: bytes) -> IndexedFile:
        """From the value of an F entry."""
        return cls(value[8:].decode(), int.from_bytes(value[:4], "little"), int.from_bytes(value[4:8], "little"))


@dataclass(frozen=True)
class PlacedRows:
    """Rows of a new data file: its path, and the keys of its rows in row order."""

    path: str
    keys: pa.Table


@dataclass(frozen=True)
class FileKeys:
    """What a rebuild learns of a data file: its path, how many rows it has, and its live rows' keys and positions."""

    path: str
    rows: int
    keys: pa.Table
    positions: npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Positions:
    """Where the looked-up keys' rows lie: `file_ids` and `rows` (uint32) of the keys that have one."""

    file_ids: npt.NDArray[np.uint32]
    rows: npt.NDArray[np.uint32]


def fingerprint(added: Iterable[str], start: int = 0, removed: Iterable[str] = ()) -> int:
    """An order-independent hash of file paths, to and from which files can be added and removed: the sum of 64-bit
    hashes."""
    total = start + sum(map(_hash, added)) - sum(map(_hash, removed))
    return total % (1 << 64)


def _hash(path: str) -> int:
    return int.from_bytes(blake2b(path.encode(), digest_size=8).digest(), "big")


class KeyIndex:
    """The worker's index. Partitions are used by one thread each; opening and closing is thread-safe."""

    _open: dict[Path, KeyIndex] = {}  # noqa: RUF012 - the process's registry, guarded by _guard
    _guard = threading.Lock()

    def __init__(self, path: Path) -> None:
        self.path = path
        self._users = 0
        self._lock = threading.Lock()
        self._database = IndexDatabase(path)
        with suppress(IndexDamaged, Unavailable):  # whoever uses it is told
            self._forget_unused()

    def _forget_unused(self) -> None:
        database, today = self._database, _today()
        generation = database.generation
        for key, value in database.scan(b"M", generation):
            meta = json.loads(value)
            if today - meta["day"] <= UNUSED_DAYS:
                continue
            batch = WriteBatch(raw_mode=True)
            batch.delete(key)
            for prefix in _kinds(meta["number"]):
                batch.delete_range(prefix, after(prefix))
            database.write(batch, generation)
            table_id, topic, partition = json.loads(key[1:])
            log.info("index.forgotten", table_id=table_id, topic=topic, partition=partition, days=today - meta["day"])

    @classmethod
    def shared(cls, path: Path) -> KeyIndex:
        """This process's index at `path`, opened by the first caller; each caller closes it once."""
        with cls._guard:
            index = cls._open.get(path) or cls(path)
            cls._open[path] = index
            index._users += 1
            return index

    def close(self) -> None:
        """Let go; the last user flushes and closes the database."""
        with self._guard:
            self._users -= 1
            if self._users <= 0:
                self._open.pop(self.path, None)
                self._database.close()

    def partition(self, table_id: str, topic: str, partition: int) -> PartitionIndex:
        """The entries of one Kafka partition of one table. Raises IndexDamaged, as all that is done with it does."""
        key = b"M" + json.dumps([table_id, topic, partition]).encode()
        with self._lock:
            generation = self._database.generation
            known = dict(self._database.scan(b"M", generation))
            if key not in known:
                number = max((json.loads(meta)["number"] for meta in known.values()), default=0) + 1
                meta = {
                    "number": number, "next_offset": None, "files": 0, "snapshot": None, "file_id": 0, "day": _today()
                }  # fmt: skip
                known[key] = json.dumps(meta).encode()
                batch = WriteBatch(raw_mode=True)
                batch.put(key, known[key])
                self._database.write(batch, generation)
        return PartitionIndex(self._database, generation, key, json.loads(known[key]))

    def flush(self) -> None:
        """Bring what was applied to disk: that much is there after a crash."""
        self._database.flush()

    def disk_bytes(self) -> int:
        """Size on disk."""
        return sum(file.stat().st_size for file in self.path.iterdir() if file.is_file())


class PartitionIndex:
    """One Kafka partition's entries. `state` is None until a rebuild or a commit has recorded one."""

    def __init__(self, database: IndexDatabase, generation: int, key: bytes, meta: Mapping[str, int | None]) -> None:
        self._database = database
        self._generation = generation
        self._key = key
        number = meta["number"]
        assert number is not None
        self._number = number.to_bytes(4, "big")
        self._next_file_id = (meta["file_id"] or 0) + 1
        self._meta_number = number
        offset = meta["next_offset"]
        self.state = None if offset is None else IndexState(offset, meta["files"] or 0, meta.get("snapshot"))
        entries = database.scan(b"F" + self._number, generation)
        self.files = {int.from_bytes(k[5:9], "big"): IndexedFile.decode(v) for k, v in entries}

    def look_up(self, keys: pa.Table) -> Positions:
        """Where the rows of these keys (distinct, no nulls) lie; keys without a row are left out."""
        encoded, _ = self._sorted(keys)
        found = [value for value in self._database.get(encoded, self._generation) if value is not None]
        pairs = np.frombuffer(b"".join(found), dtype="<u4").reshape(-1, 2)
        pairs = pairs[np.isin(pairs[:, 0], np.fromiter(self.files, np.uint32, len(self.files)))]
        return Positions(pairs[:, 0], pairs[:, 1])

    def apply(
        self,
        placed: Sequence[PlacedRows],
        removed: pa.Table | None,
        replaced: Mapping[int, int],
        dropped: Iterable[int],
        state: IndexState,
    ) -> None:
        """Take in a commit: rows of new files, keys that were removed, how many rows of which files died by that, and
        files that are gone."""
        batch = WriteBatch(raw_mode=True)
        dropped = set(dropped)
        if dropped and dropped.issuperset(self.files):
            # behind a truncate nobody would overwrite or delete the old keys; what the batch puts after this stays
            batch.delete_range(b"K" + self._number, after(b"K" + self._number))
        if removed is not None and removed.num_rows:
            delete = batch.delete
            for key in self._sorted(removed)[0]:
                delete(key)
        for file_id, count in replaced.items():
            file = self.files[file_id]
            self._know(batch, file_id, IndexedFile(file.path, file.rows, file.dead + count))
        for file_id in dropped:
            batch.delete(self._file_key(file_id))
            del self.files[file_id]
        for rows in placed:
            self._place(batch, rows)
        self._record(batch, state)

    def rebuild(self, files: Iterable[FileKeys], state: IndexState, keep: Collection[int] = ()) -> int:
        """Take these files in anew. Of what was known, the files in `keep` (their ids) stay, whose live rows are still
        the same; without any, all begins anew. Returns how many rows were taken in."""
        if keep:
            self._forget_all_but(keep)
        else:
            self.clear()
        rows, runs = 0, []
        batch = WriteBatch(raw_mode=True)
        try:
            for group in _groups(files):
                numbers = [self._new_file(batch, file.path, file.rows, len(file.positions)) for file in group]
                counts = [len(file.positions) for file in group]
                values = _values(np.repeat(numbers, counts), np.concatenate([file.positions for file in group]))
                tables = [file.keys for file in group]
                encoded, order = self._sorted(pa.concat_tables(tables, promote_options="permissive"))
                if encoded:
                    runs.append(self._database.write_run(encoded, values[order].tobytes(), self._generation))
                rows += len(encoded)
            batch.put(self._key, json.dumps(self._meta(None)).encode())
            self._database.write(batch, self._generation)
            self._database.ingest(runs, self._generation)
        except BaseException:
            self._database.discard(runs)  # the next attempt writes its own
            raise
        self._record(WriteBatch(raw_mode=True), state)  # only now: a rebuild that is cut short isn't believed
        self._database.flush()
        return rows

    def _forget_all_but(self, keep: Collection[int]) -> None:
        """The keys of files that are forgotten stay behind, and mean nothing."""
        batch = self._without_state()
        for file_id in [file_id for file_id in self.files if file_id not in keep]:
            batch.delete(self._file_key(file_id))
            del self.files[file_id]
        self._database.write(batch, self._generation)

    def _without_state(self) -> WriteBatch:
        """A batch that begins with forgetting the state: what comes after it isn't believed until one is recorded."""
        self.state = None
        batch = WriteBatch(raw_mode=True)
        batch.put(self._key, json.dumps(self._meta(None)).encode())
        return batch

    def clear(self) -> None:
        """Forget everything, the state first."""
        self._database.write(self._without_state(), self._generation)
        for prefix in _kinds(self._meta_number):
            self._database.delete_range(prefix, self._generation)
        self.files.clear()

    def _place(self, batch: WriteBatch, placed: PlacedRows) -> None:
        count = placed.keys.num_rows
        number = self._new_file(batch, placed.path, count, count)
        values = _values(np.full(count, number), np.arange(count))
        put = batch.put
        for first in range(0, count, ENCODED_AT_ONCE):
            # in order: RocksDB takes in neighbours, one after the other, ten times as fast
            encoded, order = self._sorted(placed.keys.slice(first, ENCODED_AT_ONCE))
            raw = values[first : first + ENCODED_AT_ONCE][order].tobytes()
            for at, key in enumerate(encoded):
                put(key, raw[8 * at : 8 * at + 8])

    def _new_file(self, batch: WriteBatch, path: str, rows: int, alive: int) -> int:
        number = self._next_file_id
        self._next_file_id += 1
        self._know(batch, number, IndexedFile(path, rows, rows - alive))
        return number

    def _know(self, batch: WriteBatch, file_id: int, file: IndexedFile) -> None:
        self.files[file_id] = file
        batch.put(self._file_key(file_id), file.encode())

    def _file_key(self, file_id: int) -> bytes:
        return b"F" + self._number + file_id.to_bytes(4, "big")

    def _record(self, batch: WriteBatch, state: IndexState) -> None:
        """Write the batch, with the state that it leads to."""
        batch.put(self._key, json.dumps(self._meta(state)).encode())
        self._database.write(batch, self._generation)
        self.state = state  # not before: entries that a full disk refused must not be believed

    def _meta(self, state: IndexState | None) -> dict[str, int | None]:
        return {
            "number": self._meta_number,
            "next_offset": None if state is None else state.next_offset,
            "files": 0 if state is None else state.files,
            "snapshot": None if state is None else state.snapshot_id,
            "file_id": self._next_file_id - 1,
            "day": _today(),
        }

    def _sorted(self, keys: pa.Table) -> tuple[list[bytes], npt.NDArray[np.int64]]:
        return sorted_keys(keys, b"K" + self._number)


def _kinds(number: int) -> tuple[bytes, bytes]:
    """What a partition's keys and files begin with."""
    return b"K" + number.to_bytes(4, "big"), b"F" + number.to_bytes(4, "big")


def _today() -> int:
    """Days since the epoch."""
    return int(time.time()) // 86_400


def _values(file_ids: npt.ArrayLike, rows: npt.ArrayLike) -> npt.NDArray[np.uint32]:
    """The values of K entries, one in a row."""
    return np.stack([np.asarray(file_ids, "<u4"), np.asarray(rows, "<u4")], axis=1)


def _groups(files: Iterable[FileKeys]) -> Iterator[list[FileKeys]]:
    """So many files at a time that they fill a run."""
    group: list[FileKeys] = []
    rows = 0
    for file in files:
        group.append(file)
        rows += len(file.positions)
        if rows >= RUN_ROWS:
            yield group
            group, rows = [], 0
    if group:
        yield group
