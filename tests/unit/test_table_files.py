"""The databases under Faust's tables stay small however often a row is written, and those that are there open."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import faust
import pytest
from faust.stores.rocksdb import RocksDBOptions
from faust.types import TP

from sources.changes import TopicPartition
from tables import files
from tables.schema_versions import define_schema_versions
from tables.sink_watermarks import define_sink_watermarks, watermark, watermark_key

KEY = watermark_key("iceberg-orders", TopicPartition("cdc.public.orders", 0)).encode()
ROW = repr(watermark(123_456_789, 2**62, datetime(2026, 1, 1, tzinfo=UTC))).encode()


def store(folder: Path, define: Any = define_sink_watermarks) -> Any:
    """The files of a table of an app that isn't run."""
    app = faust.App(
        "files-test",
        store="rocksdb://",
        datadir=str(folder),
        GlobalTable=files.FilesTable,
        autodiscover=False,
        web_enabled=False,
    )
    return define(app).data


@pytest.mark.parametrize("define", [define_sink_watermarks, define_schema_versions])
def test_the_limits_reach_rocksdb(define: Any, tmp_path: Path) -> None:
    made = store(tmp_path, define)
    made._db_for_partition(0)
    (written,) = made.partition_path(0).glob("OPTIONS-*")
    options = {line.strip() for line in written.read_text().splitlines()}
    assert f"write_buffer_size={files.WRITE_BUFFER_BYTES}" in options
    assert f"max_log_file_size={files.INFO_LOG_BYTES}" in options
    assert "keep_log_file_num=2" in options


def test_a_row_that_is_written_again_and_again_takes_no_room(tmp_path: Path) -> None:
    made = store(tmp_path)
    database = made._db_for_partition(0)
    for offset in range(60_000):
        database[KEY] = ROW
        made.set_persisted_offset(TP("changelog", 0), offset)
    log = sum(path.stat().st_size for path in made.partition_path(0).glob("*.log"))
    assert log < 3 * files.WRITE_BUFFER_BYTES  # of all that was put: 10 MB
    assert database[KEY] == ROW
    made._dbs.clear()
    del database
    again = store(tmp_path)
    assert again._db_for_partition(0)[KEY] == ROW
    assert again.persisted_offset(TP("changelog", 0)) == 59_999


@pytest.mark.parametrize("closed", [True, False])
def test_files_of_before_the_limits_are_read(closed: bool, tmp_path: Path) -> None:
    """Closed, or as a kill leaves them: with all of it in the log."""
    path = store(tmp_path).partition_path(0)
    before = RocksDBOptions().open(tmp_path / "before")
    for number in range(30_000):
        before[b"%d" % number] = ROW
    if closed:
        before.close()
    shutil.copytree(tmp_path / "before", path, dirs_exist_ok=True)
    assert any(file.stat().st_size for file in path.glob("*.log")) is not closed
    database = store(tmp_path)._db_for_partition(0)
    assert [database[b"%d" % number] for number in (0, 15_000, 29_999)] == [ROW] * 3
