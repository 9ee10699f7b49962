"""The upsert writer: data files, deletion vectors and a commit of our own, with the key index of the Iceberg sink.

As there, a data file holds the rows of one Kafka partition, which its name tells. So the vectors of different workers
never meet, and a commit that lost the race for its version is sent again as the next one if the winner touched neither
our files nor our offsets: nobody has to take turns.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import quote, unquote
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake.schema import Schema
from pyiceberg.typedef import Record
from pyroaring import BitMap

from benchmarks.deletion_vectors import log
from benchmarks.deletion_vectors.datafiles import parquet, statistics
from benchmarks.deletion_vectors.log import Action, LogicalFile, Store
from benchmarks.deletion_vectors.vectors import bitmap_of, staged
from sinks.base import Batch
from sinks.delta.schema import in_shape
from sinks.iceberg.files import topic_hash
from sinks.iceberg.live_files import LiveFile, LiveFiles
from sinks.iceberg.tidy import CALM, Patience, Step, due
from sinks.reduce import Reduced, reduce
from sources.changes import CDC_PARTITION, CDC_TOPIC, TopicPartition
from tables.key_index import FileKeys, IndexState, KeyIndex, PartitionIndex, PlacedRows, fingerprint

Feed = Literal["derived", "written"]
"""Where change data readers find changes: in the vectors' differences, or in files that the commit writes."""

PIPELINE = "lakeward/bench/lake"
UNSAFE = frozenset("\"#%'*/:=?\\{}[]^" + "".join(map(chr, range(32))))
"""Characters of a partition's value that a folder's name has in hexadecimal, as Hive and Spark have it."""

SAFE = "/=!$&'()*+,;@~"
"""Characters of a path that its URI in the log has as they are."""


class CommitLost(Exception):
    """Another writer's commit came first and touched what this one is about."""


@dataclass
class Delta:
    """The files of one commit, written but not committed."""

    added: list[LogicalFile] = field(default_factory=list)
    removed: list[LogicalFile] = field(default_factory=list)
    feed: list[Action] = field(default_factory=list)
    bitmaps: dict[str, BitMap] = field(default_factory=dict)
    placed: dict[TopicPartition, list[PlacedRows]] = field(default_factory=lambda: defaultdict(list))
    gone: dict[TopicPartition, pa.Table] = field(default_factory=dict)
    replaced: dict[TopicPartition, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    tidied: set[TopicPartition] = field(default_factory=set)
    bytes_written: int = 0
    bytes_read: int = 0


class Upserts:
    """One table's writer. `prefix` is a folder for vector files, `inline` puts the smallest ones into the log."""

    def __init__(
        self, store: Store, index: KeyIndex, partitions: Sequence[TopicPartition], key: tuple[str, ...],
        *, feed: Feed = "derived", prefix: str = "", inline: bool = False,
    ) -> None:  # fmt: skip
        self.store = store
        self.snapshot = log.load(store)
        self.rebuilt = 0
        self.rebased = 0
        self._index = index
        self._tps = tuple(partitions)
        self._key = tuple(sorted(key))
        self._feed: Feed = feed
        self._prefix = prefix
        self._inline = inline
        self._indexes: dict[TopicPartition, PartitionIndex] = {}
        self._bitmaps: dict[str, BitMap] = {}

    @property
    def columns(self) -> pa.Schema:
        return pa.schema(Schema.from_json(self.snapshot.metadata["schemaString"]).to_arrow())

    @property
    def partition_by(self) -> list[str]:
        return list(self.snapshot.metadata["partitionColumns"])

    def write(self, batch: Batch) -> Delta:
        """One commit with the rows and offsets of a batch. Raises CommitLost; the next attempt sees the winner's."""
        self.catch_up()
        delta = self._stage(reduce(batch))
        offsets = {tp: span.next for tp, span in batch.ranges.items()}
        self._commit(delta, "MERGE", offsets)
        self._landed(delta, offsets)
        return delta

    def tidy(self, patience: Patience = CALM) -> Delta | None:
        """One step of rewriting small and dirty files, as the Iceberg sink decides it; None if nothing is due."""
        live = {}
        for file in self.snapshot.files.values():
            place = repr(sorted(file.partition.items(), key=str))
            live["/" + file.path] = LiveFile("/" + file.path, 0, Record(place), file.rows, file.size)
        step = due(LiveFiles(data=live), patience, self._indexes)
        if step is None:
            return None
        delta = self._rewrite(step)
        self._commit(delta, "OPTIMIZE", {})
        self._landed(delta, {})
        return delta

    def clean(self, grace_ms: int) -> int:
        """Remove the files that no row of today needs and that went long enough ago; returns how many."""
        snapshot, limit = self.snapshot, log.now_ms() - grace_ms
        old = [stone for stone in snapshot.tombstones.values() if stone.at <= limit]
        young = [stone for stone in snapshot.tombstones.values() if stone.at > limit]
        needed = {file.location for file in snapshot.files.values()} | {unquote(s.path) for s in young}
        for vector in [f.vector for f in snapshot.files.values()] + [s.vector for s in young]:
            if vector is not None and vector.path is not None:
                needed.add(vector.path)
        paths = {unquote(stone.path) for stone in old}
        paths |= {s.vector.path for s in old if s.vector is not None and s.vector.path is not None}
        gone = [path for path in paths - needed if self.store.exists(path)]
        for path in gone:
            self.store.delete(path)
        for key in [key for key, stone in snapshot.tombstones.items() if stone.at <= limit]:
            del snapshot.tombstones[key]
        return len(gone)

    def catch_up(self) -> None:
        """Take in what others committed, and make the index true."""
        log.follow(self.store, self.snapshot)
        for tp in self._tps:
            if tp not in self._indexes:
                self._indexes[tp] = self._index.partition(self.snapshot.metadata["id"], *tp)
            index, wanted = self._indexes[tp], self._state(tp)
            if index.state != wanted:
                self.rebuilt += 1
                index.rebuild(self._live_keys(tp), wanted)

    # staging

    def _stage(self, reduced: Reduced) -> Delta:
        delta, stale = Delta(), dict[str, BitMap]()
        columns = self.columns
        for tp in self._tps:
            upserts, deletes = (_rows_of(rows, tp) for rows in (reduced.upserts, reduced.deletes))
            names = list(self._key)
            index = self._indexes[tp]
            for file_id, rows in _by_file(index, pa.concat_tables([upserts.select(names), deletes.select(names)])):
                path = index.files[file_id].path  # a file of another engine may hold rows of several Kafka partitions
                stale[path] = stale.get(path, BitMap()) | bitmap_of(rows)
                delta.replaced[tp][file_id] = len(rows)
            if upserts.num_rows:
                for path, part in self._data_files(delta, tp, in_shape(upserts, columns)):
                    delta.placed[tp].append(PlacedRows(path, part.select(names)))
            if deletes.num_rows:
                delta.gone[tp] = deletes.select(names)
        if self._feed == "written":
            self._write_feed(delta, reduced, stale)
        for path, bitmap in stale.items():
            file = self.snapshot.files[path[1:]]
            delta.removed.append(file)
            delta.bitmaps[path] = self._bitmap(file) | bitmap
        self._write_vectors(delta)
        return delta

    def _write_vectors(self, delta: Delta) -> None:
        """The touched files again with their vectors of now. So are those without a live row, until tidying removes
        them: the feed of delta-rs takes all rows of a removed file for deleted just then, whatever its vector says."""
        bitmaps = [delta.bitmaps["/" + file.path] for file in delta.removed]
        vectors, content = staged(bitmaps, self._prefix, inline=self._inline)
        if content:
            self._put(delta, next(path for v in vectors if (path := v.path)), content)
        for file, vector in zip(delta.removed, vectors, strict=True):
            wide = file.stats.replace('"tightBounds":true', '"tightBounds":false', 1)
            delta.added.append(log.with_vector(file, vector, wide))

    def _data_files(self, delta: Delta, tp: TopicPartition, rows: pa.Table) -> Iterator[tuple[str, pa.Table]]:
        """Write rows of a Kafka partition, a file for each partition of the table: their paths and rows."""
        for values, part in self._split(rows):
            name = f"lw-{topic_hash(tp.topic)}-{tp.partition}-{uuid4().hex}.parquet"
            path = _folder(values) + name
            kept = part.drop_columns(self.partition_by)
            content = parquet(kept)
            self._put(delta, path, content)
            file = LogicalFile(quote(path, safe=SAFE), len(content), values, statistics(kept).text, None, log.now_ms())
            delta.added.append(file)
            yield "/" + file.path, part

    def _split(self, rows: pa.Table) -> Iterator[tuple[dict[str, str | None], pa.Table]]:
        """Rows of each partition of the table. Only text columns; Delta takes the empty text for null."""
        names = self.partition_by
        if not names:
            yield {}, rows
            return
        places = pl.DataFrame({name: pl.from_arrow(rows.column(name)) for name in names}).with_row_index("_row")
        for values, group in places.group_by(names, maintain_order=True):
            texts = {name: None if v in (None, "") else str(v) for name, v in zip(names, values, strict=True)}
            yield texts, rows.take(pa.array(group["_row"].to_numpy()))

    def _write_feed(self, delta: Delta, reduced: Reduced, stale: Mapping[str, BitMap]) -> None:
        """Files with the rows before and after. The rows before have to be read from the data files."""
        columns, key = self.columns, list(self._key)
        before = [self._rows_at(delta, self.snapshot.files[path[1:]], rows) for path, rows in stale.items()]
        old = pa.concat_tables(before) if before else columns.empty_table()
        after = in_shape(reduced.upserts, columns)
        is_update = _in(old, after, key)
        known = _in(after, old, key)
        parts = [
            (old.filter(pc.invert(is_update)), "delete"),
            (old.filter(is_update), "update_preimage"),
            (after.filter(known), "update_postimage"),
            (after.filter(pc.invert(known)), "insert"),
        ]
        kinds = [rows.append_column("_change_type", pa.repeat(kind, rows.num_rows)) for rows, kind in parts]
        for values, part in self._split(pa.concat_tables(kinds)):
            if part.num_rows:
                path = f"_change_data/{_folder(values)}cdc-{uuid4().hex}.parquet"
                content = parquet(part.drop_columns(self.partition_by))
                self._put(delta, path, content)
                found = {
                    "path": quote(path, safe=SAFE),
                    "partitionValues": values,
                    "size": len(content),
                    "dataChange": False,
                }
                delta.feed.append({"cdc": found})

    def _rows_at(self, delta: Delta, file: LogicalFile, rows: BitMap) -> pa.Table:
        """Some rows of a data file: of the row groups that hold them. Brought into shape before they are taken: the
        texts of files that delta-rs wrote come as views, of which pyarrow can't take some."""
        positions = np.array(rows.to_array(), dtype=np.int64)
        with self.store.open(file.location) as stream:
            parquet_file = pq.ParquetFile(stream)
            groups = [parquet_file.metadata.row_group(n) for n in range(parquet_file.num_row_groups)]
            ends = np.cumsum([group.num_rows for group in groups])
            wanted = np.unique(np.searchsorted(ends, positions, side="right"))
            found = parquet_file.read_row_groups(wanted.tolist())
            delta.bytes_read += sum(groups[n].total_byte_size for n in wanted)
        sizes = np.array([group.num_rows for group in groups])
        starts = ends - sizes
        shift = np.cumsum(sizes[wanted]) - sizes[wanted]
        group_of = np.searchsorted(ends, positions, side="right")
        local = positions - starts[group_of] + shift[np.searchsorted(wanted, group_of)]
        return self._whole(file, found).take(pa.array(local))

    def _whole(self, file: LogicalFile, rows: pa.Table) -> pa.Table:
        """Rows of a file with all columns of the table, those of its partition included."""
        for name, value in file.partition.items():
            rows = rows.append_column(name, pa.repeat(pa.scalar(value, pa.string()), rows.num_rows))
        return in_shape(rows, self.columns)

    def _live_rows(self, file: LogicalFile) -> tuple[pa.Table, npt.NDArray[np.uint32]]:
        with self.store.open(file.location) as stream:
            rows = self._whole(file, pq.ParquetFile(stream).read())
        alive = np.ones(rows.num_rows, dtype=bool)
        alive[np.array(self._bitmap(file).to_array(), dtype=np.int64)] = False
        positions = np.flatnonzero(alive).astype(np.uint32)
        return rows.take(pa.array(positions)), positions

    def _rewrite(self, step: Step) -> Delta:
        delta = Delta()
        for tp, candidates in step.data:
            files = [self.snapshot.files[c.live.path[1:]] for c in candidates]
            parts = [self._live_rows(file)[0] for file in files]
            rows = pa.concat_tables(parts).sort_by([(name, "ascending") for name in self._key])
            if rows.num_rows:
                for path, part in self._data_files(delta, tp, rows):
                    delta.placed[tp].append(PlacedRows(path, part.select(list(self._key))))
            delta.removed += files
            delta.tidied.add(tp)
        return delta

    # committing

    def _commit(self, delta: Delta, operation: str, offsets: Mapping[TopicPartition, int]) -> None:
        """Put the next version. Lost to a commit that has nothing to do with this one: put the one after it."""
        now, changes = log.now_ms(), operation != "OPTIMIZE"
        transactions: dict[str, int] = {f"{PIPELINE}/{tp.topic}/{tp.partition}": n for tp, n in offsets.items()}
        info = {
            "timestamp": now,
            "operation": operation,
            "operationParameters": {},
            "isBlindAppend": False,
            "engineInfo": "lakeward",
            "txnId": str(uuid4()),
        }
        actions: list[Action] = [{"commitInfo": info}]
        actions += [{"txn": {"appId": a, "version": v, "lastUpdated": now}} for a, v in transactions.items()]
        actions += [file.remove(now, changes=changes) for file in delta.removed]
        actions += [file.add(changes=changes) for file in delta.added]
        actions += delta.feed
        touched = {file.path for file in delta.removed}
        version = self.snapshot.version + 1
        while (size := log.write_commit(self.store, version, actions)) is None:
            winner = log.read_commit(self.store, version) or []
            if any(a.get("commitInfo", {}).get("txnId") == info["txnId"] for a in winner):
                size = 0
                break  # it had landed, and the store's answer was lost
            if _conflicts(winner, touched, set(transactions)):
                raise CommitLost(f"version {version} of {self.store.root}")
            self.snapshot.apply(version, winner)
            self.rebased += 1
            version += 1
        delta.bytes_written += size
        self.snapshot.apply(version, actions)

    def _landed(self, delta: Delta, offsets: Mapping[TopicPartition, int]) -> None:
        for path in [f.path for f in delta.removed]:
            self._bitmaps.pop("/" + path, None)
        self._bitmaps |= {"/" + f.path: b for f in delta.added if (b := delta.bitmaps.get("/" + f.path)) is not None}
        for tp in {*delta.placed, *delta.gone, *delta.replaced, *delta.tidied, *offsets}:
            index = self._indexes[tp]
            dropped = [number for number, file in index.files.items() if file.path[1:] not in self.snapshot.files]
            index.apply(delta.placed[tp], delta.gone.get(tp), delta.replaced[tp], dropped, self._state(tp))

    # the index

    def _state(self, tp: TopicPartition) -> IndexState:
        offset = self.snapshot.transactions.get(f"{PIPELINE}/{tp.topic}/{tp.partition}", 0)
        return IndexState(offset, fingerprint(file.identity for file in self._files_of(tp)))

    def _files_of(self, tp: TopicPartition) -> Iterator[LogicalFile]:
        """The files that may hold rows of a Kafka partition: its own, and those that other engines wrote."""
        mine, ours = f"lw-{topic_hash(tp.topic)}-{tp.partition}-", "lw-"
        for path, file in self.snapshot.files.items():
            name = path.rpartition("/")[2]
            if name.startswith(mine) or not name.startswith(ours):
                yield file

    def _live_keys(self, tp: TopicPartition) -> Iterator[FileKeys]:
        for file in list(self._files_of(tp)):
            self._bitmaps.pop("/" + file.path, None)
            rows, positions = self._live_rows(file)
            mine = pc.and_(pc.equal(rows[CDC_TOPIC], tp.topic), pc.equal(rows[CDC_PARTITION], tp.partition))
            mask = mine.to_numpy()
            yield FileKeys("/" + file.path, file.rows, rows.select(list(self._key)).filter(mine), positions[mask])

    def _bitmap(self, file: LogicalFile) -> BitMap:
        if file.vector is None:
            return BitMap()
        if "/" + file.path not in self._bitmaps:
            self._bitmaps["/" + file.path] = file.vector.read(self.store.read)
        return self._bitmaps["/" + file.path]

    def _put(self, delta: Delta, path: str, content: bytes) -> None:
        self.store.write(path, content)
        delta.bytes_written += len(content)


def _folder(values: Mapping[str, str | None]) -> str:
    """The folder of a partition. Readers should take the values from the log, but Polars takes them from here."""
    parts = []
    for name, value in values.items():
        text = (
            "__HIVE_DEFAULT_PARTITION__"
            if value is None
            else "".join(f"%{ord(c):02X}" if c in UNSAFE else c for c in value)
        )
        parts.append(f"{name}={text}/")
    return "".join(parts)


def _conflicts(winner: Iterable[Action], touched: set[str], transactions: set[str]) -> bool:
    """Whether a commit that landed first touches the files or offsets of one that is on its way."""
    for action in winner:
        for kind, body in action.items():
            if kind in ("metaData", "protocol") or (kind == "txn" and body["appId"] in transactions):
                return True
            if kind in ("remove", "add") and (body["path"] in touched or "lw-" not in body["path"]):
                return True
    return False


def _rows_of(rows: pa.Table, tp: TopicPartition) -> pa.Table:
    return rows.filter(pc.and_(pc.equal(rows[CDC_PARTITION], tp.partition), pc.equal(rows[CDC_TOPIC], tp.topic)))


def _by_file(index: PartitionIndex, keys: pa.Table) -> Iterator[tuple[int, npt.NDArray[np.uint32]]]:
    found = index.look_up(keys)
    order = np.argsort(found.file_ids, kind="stable")
    ids, rows = found.file_ids[order], found.rows[order]
    unique, starts = np.unique(ids, return_index=True)
    yield from zip(unique.tolist(), np.split(rows, starts[1:]), strict=False)


def _in(rows: pa.Table, others: pa.Table, key: Sequence[str]) -> pa.Array:
    """Which rows' keys are among those of the others."""
    left = pl.DataFrame({name: pl.from_arrow(rows.column(name)) for name in key})
    right = pl.DataFrame({name: pl.from_arrow(others.column(name)) for name in key})
    found = left.with_row_index("_row").join(right, on=list(key), how="semi")["_row"].to_numpy()
    mask = np.zeros(rows.num_rows, dtype=bool)
    mask[found] = True
    return pa.array(mask)
