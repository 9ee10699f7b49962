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

log = structlog.get_logger("lakeward.tables")


class Files(rocksdb.Store):
    """Faust's, but a damaged database is deleted, and restored from the changelog, instead of ending the worker."""

    def _open_for_partition(self, partition: int) -> Any:
        try:
            database = super()._open_for_partition(partition)
        except Exception as error:  # rocksdict raises plain Exception
            if "lock" in str(error).lower() or is_of_disk(error):
                raise
            return self._begun_anew(partition, error)
        if (damage := _damage(database)) is not None:
            database.close()
            return self._begun_anew(partition, damage)
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


def _damage(database: Any) -> Exception | None:
    """What keeps a database's entries from being read. The tables are small: a row per partition and sink."""
    entries = database.iter()
    try:
        entries.seek_to_first()
        while entries.valid():
            entries.next()
        entries.status()  # damage ends an iteration like the end of the data does
    except Exception as error:
        return error
    finally:
        del entries  # it holds the database's lock
    return None
