"""The RocksDB files under Faust's tables: a copy of their changelog topics, so that damaged ones are begun anew."""

from __future__ import annotations

import shutil
from contextlib import suppress
from typing import Any

import structlog
from faust.stores import rocksdb
from faust.tables.globaltable import GlobalTable
from yarl import URL

from config.errors import is_of_disk
from tables.rocksdb import entries_from, is_in_use

log = structlog.get_logger("lakeward.tables")

WRITE_BUFFER_BYTES = 1 << 20
"""Rows are few, and written anew at each commit: with Faust's 64 MB, as much memory and log fills up with old ones."""

INFO_LOG_BYTES = 1 << 20
"""Of RocksDB's info log there are this one and the one before."""


class _Limits(rocksdb.RocksDBOptions):
    """Faust's, for which it has no name for the info log's."""

    def as_options(self) -> Any:
        options = super().as_options()
        options.set_max_log_file_size(INFO_LOG_BYTES)
        options.set_keep_log_file_num(2)
        return options


class Files(rocksdb.Store):
    """Faust's with limits; and a damaged database is deleted, and restored from the changelog, instead of ending the
    worker."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rocksdb_options = _Limits(write_buffer_size=WRITE_BUFFER_BYTES)

    def _open_for_partition(self, partition: int) -> Any:
        try:
            database = super()._open_for_partition(partition)
        except Exception as error:  # rocksdict raises plain Exception
            if is_in_use(error) or is_of_disk(error):
                raise
            return self._begun_anew(partition, error)
        try:
            entries_from(database, b"")  # a row per partition and sink: few enough to be read for a look
        except Exception as error:  # as above
            database.close()
            return self._begun_anew(partition, error)
        return database

    def _begun_anew(self, partition: int, damage: Exception) -> Any:
        path = self.partition_path(partition)
        log.warning("table.damaged", path=str(path), error=str(damage))
        shutil.rmtree(path)
        return super()._open_for_partition(partition)


class FilesTable(GlobalTable):
    """A global table over `Files`, where the app's store is RocksDB."""

    def _new_store_by_url(self, url: str | URL) -> Any:
        url = URL(url)
        if url.scheme != "rocksdb":
            return super()._new_store_by_url(url)
        return Files(
            url,
            self.app,
            self,
            table_name=self.name,
            key_type=self.key_type,
            key_serializer=self.key_serializer,
            value_serializer=self.value_serializer,
            value_type=self.value_type,
            loop=self.loop,
            options=self.options,
        )


def give_up_files(table: Any) -> None:
    """Close a table's databases, which Faust opens again when it next needs them: after a disk was full or failed,
    RocksDB writes nothing more until then. What they lack by then is in the table's changelog topic."""
    databases: dict[int, Any] = table.data._dbs
    for partition in list(databases):
        with suppress(Exception):  # it can't be written to
            databases.pop(partition).close()
