"""Catalogs of Iceberg tables: what they are told, and what is said of one that is away."""

from __future__ import annotations

import socket
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from contract_base import TP0, expected, inserts, opened
from contract_events import TOPIC, batch, log_rows
from contract_harness import target
from iceberg_harness import IcebergHarness, around_next_catalog_commit
from iceberg_upkeep import needed, on_disk, present
from pydantic import SecretStr
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import CommitFailedException, ServiceUnavailableError
from pyiceberg.table import Table
from sqlalchemy.engine import make_url

from config.errors import ConfigurationError, Unavailable
from config.pipeline import IcebergConfig
from sinks.iceberg.catalog import catalog_properties
from sinks.iceberg.sink import IcebergSink


def test_catalog_that_is_away_is_unavailable_and_named(tmp_path: Path) -> None:
    config = IcebergConfig(
        catalog_uri="http://127.0.0.1:1", warehouse="lake", s3_secret_access_key=SecretStr("not-shown")
    )
    sink = IcebergSink(config, target((TOPIC,), "lake.orders"), None)
    with closing(sink), pytest.raises(Unavailable, match=r"http://127\.0\.0\.1:1") as error:
        sink.open()
    assert "not-shown" not in str(error.value)


def test_database_that_is_away_is_unavailable_without_its_password(tmp_path: Path) -> None:
    config = IcebergConfig(catalog_uri="postgresql://lake:not-shown@127.0.0.1:1/lake", warehouse=str(tmp_path))
    sink = IcebergSink(config, target((TOPIC,), "lake.orders"), None)
    with closing(sink), pytest.raises(Unavailable, match=r"postgresql://127\.0\.0\.1:1/lake") as error:
        sink.open()
    assert "not-shown" not in str(error.value)


def test_catalog_that_never_answers_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sinks.iceberg.catalog.ANSWER_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        config = IcebergConfig(catalog_uri=f"http://127.0.0.1:{silent.getsockname()[1]}", warehouse="lake")
        sink = IcebergSink(config, target((TOPIC,), "lake.orders"), None)
        with closing(sink), pytest.raises(Unavailable, match="timed out"):
            sink.open()


def test_catalog_in_a_database_notices_a_lost_connection_unless_the_uri_says_otherwise() -> None:
    uri = "postgresql://lake:s%40cret@db:5432/lake?keepalives_idle=600"
    told = make_url(catalog_properties(IcebergConfig(catalog_uri=uri, warehouse="lake"))["uri"])
    assert (told.drivername, told.password, told.host) == ("postgresql+psycopg2", "s@cret", "db")
    assert told.query == {
        "connect_timeout": "10",
        "keepalives_idle": "600",
        "keepalives_interval": "10",
        "keepalives_count": "4",
    }


def test_busy_sqlite_catalog_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sinks.iceberg.catalog.SQLITE_WAIT_SECONDS", 0.2)
    harness = IcebergHarness("append", tmp_path)
    with closing(opened(harness)) as sink:
        sink.write(batch(inserts(0, 2)))
        with closing(sqlite3.connect(tmp_path / "catalog.db")) as busy:
            busy.execute("BEGIN EXCLUSIVE")
            with pytest.raises(Unavailable, match="locked"):
                sink.write(batch(inserts(2, 2)))
            busy.rollback()
        sink.write(batch(inserts(2, 2)))
    assert harness.rows() == log_rows(inserts(0, 4))


def test_warehouse_that_is_no_folder_is_a_configuration_error_or_unavailable(tmp_path: Path) -> None:
    (tmp_path / "warehouse").write_text("a file where tables should be")
    with (
        closing(opened(IcebergHarness("append", tmp_path))) as sink,
        pytest.raises((ConfigurationError, Unavailable), match="warehouse"),
    ):
        sink.write(batch(inserts(0, 1)))


def test_catalog_properties_carry_the_store_and_the_users_own() -> None:
    config = IcebergConfig(
        catalog_uri="http://catalog:8181",
        warehouse="s3://lake/warehouse",
        s3_endpoint="http://store:9000",
        s3_access_key_id="key",
        s3_secret_access_key=SecretStr("secret"),
        catalog_properties={"token": "t", "s3.region": "eu-central-1"},
    )
    properties = catalog_properties(config)
    assert {
        "type": "rest",
        "uri": "http://catalog:8181",
        "s3.access-key-id": "key",
        "s3.secret-access-key": "secret",
        "s3.region": "eu-central-1",
        "token": "t",
    }.items() <= properties.items()
    assert properties["s3.endpoint"].rstrip("/") == "http://store:9000"


def refuse() -> None:
    """The answer to a request that somebody on its way has repeated: the first one has landed."""
    raise CommitFailedException("Requirement failed: branch main has changed")


MODES = pytest.mark.parametrize("mode", ["append", "upsert"])


@MODES
def test_commit_that_landed_and_was_refused_has_landed(mode: Any, tmp_path: Path) -> None:
    harness = IcebergHarness(mode, tmp_path)
    with closing(opened(harness)) as sink:
        for start in range(0, 12, 2):
            with around_next_catalog_commit(after=refuse if start else None):
                receipt = sink.write(batch(inserts(start, 2)))
            assert receipt.version == present(harness).metadata.current_snapshot_id
            assert (receipt.rows, receipt.next_offsets) == (2, {TP0: start + 2})
            sink.tidy()
        assert on_disk(tmp_path) == needed(present(harness))
        sink.write(batch(inserts(12, 2)))
    assert harness.rows() == expected(harness, inserts(0, 14))


@MODES
def test_commit_that_landed_and_was_refused_once_others_had_committed(mode: Any, tmp_path: Path) -> None:
    harness = IcebergHarness(mode, tmp_path)
    with closing(opened(harness)) as sink, closing(opened(harness)) as other:
        sink.write(batch(inserts(0, 2)))
        ours: list[int | None] = []

        def overtaken() -> None:
            ours.append(present(harness).metadata.current_snapshot_id)
            other.write(batch(inserts(0, 3, partition=1)))
            refuse()

        with around_next_catalog_commit(after=overtaken):
            receipt = sink.write(batch(inserts(2, 2)))
        assert ([receipt.version], receipt.rows) == (ours, 2)
        sink.write(batch(inserts(4, 2)))
    assert on_disk(tmp_path) == needed(present(harness))
    assert harness.rows() == expected(harness, inserts(0, 6), inserts(0, 3, partition=1))


@pytest.mark.parametrize("looks", [1, 2])
def test_nothing_is_removed_for_a_refusal_while_the_catalog_does_not_show_who_came_first(
    looks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A catalog's cache, or a request that waits behind its repetition."""
    harness = IcebergHarness("upsert", tmp_path)
    load = SqlCatalog.load_table
    with closing(opened(harness)) as sink:
        sink.write(batch(inserts(0, 2)))
        stale = [present(harness)] * looks

        def cached(catalog: SqlCatalog, identifier: Any) -> Table:
            found = load(catalog, identifier)
            if not stale:
                return found
            old = stale.pop()
            found.metadata, found.metadata_location = old.metadata, old.metadata_location
            return found

        def hide() -> None:
            monkeypatch.setattr(SqlCatalog, "load_table", cached)
            refuse()

        with around_next_catalog_commit(after=hide):
            sink.write(batch(inserts(2, 2)))
        sink.write(batch(inserts(4, 2)))
    assert not stale
    assert needed(present(harness)) <= on_disk(tmp_path)
    assert harness.rows() == expected(harness, inserts(0, 6))


def test_refusal_by_a_catalog_that_is_away_afterwards_is_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = IcebergHarness("upsert", tmp_path)
    with closing(opened(harness)) as sink:
        sink.write(batch(inserts(0, 2)))

        def away(*_: object) -> Table:
            raise ServiceUnavailableError("the catalog is away")

        def refuse_and_go() -> None:
            patch.setattr(SqlCatalog, "load_table", away)
            refuse()

        with (
            monkeypatch.context() as patch,
            around_next_catalog_commit(after=refuse_and_go),
            pytest.raises(Unavailable, match="away"),
        ):
            sink.write(batch(inserts(2, 2)))
        sink.write(batch(inserts(2, 2)))
        sink.write(batch(inserts(4, 2)))
    assert on_disk(tmp_path) == needed(present(harness))
    assert harness.rows() == expected(harness, inserts(0, 6))


def test_files_of_a_commit_that_came_second_are_written_once(tmp_path: Path) -> None:
    harness = IcebergHarness("upsert", tmp_path)
    with closing(opened(harness)) as sink, closing(opened(harness)) as other:
        sink.write(batch(inserts(0, 2)))
        other.write(batch(inserts(0, 2, partition=1)))

        def come_first(start: int) -> None:
            other.write(batch(inserts(start, 2, partition=1)))

        for start in range(2, 8, 2):
            with around_next_catalog_commit(before=partial(come_first, start)):
                sink.write(batch(inserts(start, 2)))
    assert on_disk(tmp_path) == needed(present(harness))
    assert harness.rows() == expected(harness, inserts(0, 8), inserts(0, 8, partition=1))
