"""The RocksDB under the key index: bounded memory, no write-ahead log, and begun anew when it turns out damaged.

The log is off: after a crash the database is what it was at its last flush. All of it is a cache, so a damaged one
(RocksDB checks a checksum per block read) is deleted, and whoever used it takes its part again and rebuilds it.

When the disk fails or is full, RocksDB writes nothing more until it is opened anew: it is given up, as a crash would,
and opened again when it is next asked for and the disk lets it.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import structlog
from rocksdict import (
    BlockBasedIndexType,
    BlockBasedOptions,
    Cache,
    DbClosedError,
    DBCompactionStyle,
    DBCompressionType,
    IngestExternalFileOptions,
    Options,
    Rdict,
    ReadOptions,
    SstFileWriter,
    UniversalCompactOptions,
    WriteBatch,
    WriteOptions,
)

from config.errors import ConfigurationError, Unavailable, is_of_disk
from tables.rocksdb import entries_from, is_in_use

log = structlog.get_logger("lakeward.index")

BLOCK_CACHE_BYTES = 64 << 20
WRITE_BUFFER_BYTES = 32 << 20
"""Memory per worker: the block cache, and up to three write buffers."""

METADATA_BLOCK_BYTES = 32 << 10
"""Size of a part of a file's filter or index."""

SORTED_RUNS, OUTDATED_PERCENT = 8, 50
"""Sorted runs that may gather before they are merged; and the share of the largest one that the others may have before
all become one, which bounds what outdated entries take on disk."""

INFO_LOG_BYTES, MANIFEST_BYTES = 4 << 20, 4 << 20
"""RocksDB begins a new info log (and keeps the one before) and a new list of its files at these sizes: otherwise only
when it is opened, and a worker may run for months."""

RUNS = "runs"
"""Folder of files that are to be ingested."""

FORMAT_KEY, FORMAT = b"V", b"5"
"""Which layout the entries have, as told by one of them: one of another version of Lakeward is begun anew."""


class IndexDamaged(Exception):
    """The database was damaged and has been begun anew, or was given up because of its disk: what was taken from it
    before has to be taken again."""


class IndexDatabase:
    """One database, used by any thread. `generation` grows when it is begun anew; callers say which one they mean."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.generation = 0
        self._lock = threading.Lock()
        self._no_wal = WriteOptions()
        self._no_wal.disable_wal = True
        self._db: Rdict | None = None
        with suppress(Unavailable):  # whoever uses it is told
            self._opened()

    def close(self) -> None:
        """Flush and close."""
        self.flush()
        if self._db is not None:
            with suppress(DbClosedError):
                self._db.close()

    def flush(self) -> None:
        """Write what is in memory to disk; damage, and a disk that failed, is told by the next use."""
        try:
            if self._db is not None:
                self._db.flush()
        except DbClosedError:
            pass
        except Exception as error:  # rocksdict raises plain Exception; what isn't flushed is rebuilt next time
            log.warning("index.not_flushed", path=str(self.path), error=str(error))

    def get(self, keys: list[bytes], generation: int) -> list[bytes | None]:
        """Values of many keys; fastest when they are sorted."""
        with self._sound(generation) as db:
            values: list[bytes | None] = db.get(keys)
            return values

    def write(self, batch: WriteBatch, generation: int) -> None:
        """Apply a batch atomically."""
        with self._sound(generation) as db:
            db.write(batch, write_opt=self._no_wal)

    def write_run(self, keys: Sequence[bytes], values: bytes, generation: int) -> Path:
        """A file of entries for `ingest`: ascending keys, and their values of equal size one behind the other. Of equal
        keys the first one counts."""
        width = len(values) // max(1, len(keys))
        path = self.path / RUNS / f"{uuid4().hex}.sst"
        with self._sound(generation):
            path.parent.mkdir(exist_ok=True)
            try:
                writer = SstFileWriter(_options())
                writer.open(str(path))
                start, before = 0, None
                for key in keys:
                    if key != before:
                        writer[key] = values[start : start + width]
                        before = key
                    start += width
                writer.finish()
            except BaseException:
                self.discard([path])
                raise
        return path

    def discard(self, runs: Iterable[Path]) -> None:
        """Remove files that aren't to be ingested any more, as far as the disk lets it."""
        for run in runs:
            with suppress(OSError):
                run.unlink(missing_ok=True)

    def ingest(self, runs: Iterable[Path], generation: int) -> None:
        """Take these files in: several times as fast as writing their entries. What is in memory is flushed first: no
        crash finds the entries beside an older state."""
        options = IngestExternalFileOptions()
        options.set_move_files(True)
        with self._sound(generation) as db:
            db.flush()
            for run in runs:
                db.ingest_external_file([str(run)], options)

    def delete_range(self, prefix: bytes, generation: int) -> None:
        """Forget all entries whose key begins with `prefix`."""
        with self._sound(generation) as db:
            db.delete_range(prefix, after(prefix), write_opt=self._no_wal)

    def scan(self, prefix: bytes, generation: int) -> list[tuple[bytes, bytes]]:
        """All entries whose key begins with `prefix`, in order."""
        options = ReadOptions()
        options.set_iterate_upper_bound(after(prefix))
        with self._sound(generation) as db:
            return entries_from(db, prefix, options)

    @contextmanager
    def _sound(self, generation: int) -> Iterator[Rdict]:
        if generation != self.generation:
            raise IndexDamaged(f"the key index at {self.path} was begun anew")
        db = self._opened()
        try:
            yield db
        except DbClosedError as error:
            if generation == self.generation:
                raise
            raise IndexDamaged(f"the key index at {self.path} was begun anew") from error
        except Exception as error:  # rocksdict raises plain Exception, whose text begins with RocksDB's status
            damaged = str(error).startswith("Corruption")
            if not damaged and not is_of_disk(error):
                raise
            self._give_up(generation, error, damaged=damaged)
            raise IndexDamaged(f"the key index at {self.path} was damaged: {error}") from error

    def _give_up(self, generation: int, error: Exception, *, damaged: bool) -> None:
        """Close the database, and delete a damaged one; the next use opens it again, or begins anew."""
        with self._lock:
            if generation != self.generation or self._db is None:
                return
            log.warning("index.damaged" if damaged else "index.given_up", path=str(self.path), error=str(error))
            self.generation += 1
            db, self._db = self._db, None
            with suppress(Exception):  # it may not be able to write
                db.close()
            if damaged:
                shutil.rmtree(self.path, ignore_errors=True)

    def _opened(self) -> Rdict:
        """Raises Unavailable if the disk doesn't let it."""
        if (db := self._db) is not None:
            return db
        with self._lock:
            if self._db is None:
                try:
                    self._db = self._open_or_begin_anew()
                except ConfigurationError:
                    raise
                except Exception as error:
                    raise Unavailable(
                        f"the key index at {self.path} can't be opened: {error}; see to the disk of CDC_DATA_DIR"
                    ) from error
            return self._db

    def _open_or_begin_anew(self) -> Rdict:
        try:
            db = _open(self.path)
            if db.get(FORMAT_KEY) == FORMAT:
                return db
            if next(db.keys(), None) is not None:
                log.warning("index.other_format", path=str(self.path))
            db.close()
            return self._anew()
        except Exception as error:  # rocksdict raises plain Exception; whatever else is wrong with a cache, begin anew
            if is_in_use(error):
                raise ConfigurationError(
                    f"the key index at {self.path} is in use by another process: give each worker a data folder of"
                    " its own (CDC_DATA_DIR)"
                ) from error
            if is_of_disk(error):
                raise
            return self._recreated(error)

    def _recreated(self, error: Exception) -> Rdict:
        log.warning("index.damaged", path=str(self.path), error=str(error))
        return self._anew()

    def _anew(self) -> Rdict:
        shutil.rmtree(self.path, ignore_errors=True)
        db = _open(self.path)
        db.put(FORMAT_KEY, FORMAT, write_opt=self._no_wal)
        return db


def after(prefix: bytes) -> bytes:
    """The smallest key greater than all that begin with `prefix`."""
    return (int.from_bytes(prefix, "big") + 1).to_bytes(len(prefix), "big")


def _open(path: Path) -> Rdict:
    path.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(path / RUNS, ignore_errors=True)  # of a rebuild that was cut short
    return Rdict(str(path), _options())


def _options() -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(WRITE_BUFFER_BYTES)
    options.set_max_write_buffer_number(3)
    options.set_max_background_jobs(2)
    # the newest entries are in memory, in a skip list that is dear to search in vain: 40 % more look-ups per second
    options.set_memtable_prefix_bloom_ratio(0.1)
    options.set_memtable_whole_key_filtering(True)
    # sorted runs are merged with those of their own size: leveled compaction would rewrite all keys of a large table
    # for every few thousand that change anywhere in it
    options.set_compaction_style(DBCompactionStyle.universal())
    universal = UniversalCompactOptions()
    universal.max_size_amplification_percent = OUTDATED_PERCENT
    options.set_universal_compaction_options(universal)
    options.set_level_zero_file_num_compaction_trigger(SORTED_RUNS)
    options.set_compression_type(DBCompressionType.lz4())
    blocks = BlockBasedOptions()
    blocks.set_bloom_filter(10, False)  # most look-ups of an insert-heavy stream find nothing
    # in parts, which the cache can hold: whole filters of large files would be read again for every batch of look-ups
    blocks.set_index_type(BlockBasedIndexType.two_level_index_search())
    blocks.set_partition_filters(True)
    blocks.set_metadata_block_size(METADATA_BLOCK_BYTES)
    blocks.set_pin_top_level_index_and_filter(True)
    blocks.set_block_cache(Cache(BLOCK_CACHE_BYTES))
    blocks.set_cache_index_and_filter_blocks(True)
    options.set_block_based_table_factory(blocks)
    options.set_keep_log_file_num(2)
    options.set_max_log_file_size(INFO_LOG_BYTES)
    options.set_max_manifest_file_size(MANIFEST_BYTES)
    return options
