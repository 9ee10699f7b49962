"""`cdc verify` on real databases, connectors and tables, while a writer goes on changing the source."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg2
import pyarrow as pa
import pyarrow.parquet as pq
import pymysql
import pytest
from deployments import delta, iceberg, login, mariadb_source, postgres_source
from verify_place import Damage, Place, Writer

from stack.manager import Endpoints
from stack.testing import StartServices

SIGNALS = "CREATE TABLE {} (id varchar(64) PRIMARY KEY, type varchar(32) NOT NULL, data text)"

POSTGRES = (
    "CREATE TABLE accounts (id bigint PRIMARY KEY, owner text NOT NULL, note text, balance numeric(12,2))",
    "INSERT INTO accounts SELECT n, 'owner ' || n, '', n * 1.25 FROM generate_series(1, 2000) n",
    # composite, with texts that collations and byte order sort differently
    "CREATE TABLE lines (order_no int, sku text, price numeric(10,2), PRIMARY KEY (order_no, sku))",
    "INSERT INTO lines SELECT n / 5, (ARRAY['a', 'B', 'é', '''', '\\'])[1 + n % 5] || n % 5, n"
    " FROM generate_series(1, 1000) n",
    SIGNALS.format("signals"),
)
MARIADB = (
    "CREATE TABLE accounts (id BIGINT PRIMARY KEY, owner VARCHAR(80) NOT NULL, note TEXT, balance DECIMAL(12,2))",
    "INSERT INTO accounts SELECT seq, CONCAT('owner ', seq), '', seq * 1.25 FROM seq_1_to_2000",
    "CREATE TABLE `lines` (order_no INT, sku VARCHAR(20), price DECIMAL(10,2), PRIMARY KEY (order_no, sku))",
    "INSERT INTO `lines` SELECT seq DIV 5, CONCAT(ELT(1 + seq % 5, 'a', 'B', 'é', '''', '\\\\'), seq % 5), seq"
    " FROM seq_1_to_1000",
    SIGNALS.format("signals"),
)

NONE = {"missing": 0, "extra": 0, "doubled": 0, "different": 0}


@pytest.fixture(scope="module")
def services(start_services: StartServices) -> Endpoints:
    return start_services("connect", "postgres", "mariadb")


def lake(folder: Path, *names: str) -> list[dict[str, Any]]:
    """Sinks named `iceberg-upsert`, `delta-append` and so on."""
    forms = {"iceberg": iceberg, "delta": delta}
    return [forms[form](folder, mode) for form, mode in (name.split("-") for name in names)]


def step(execute: Any, number: int) -> None:
    """What the writer does: one row all the time, others now and then, keys that come and go and change."""
    key = 1000 + number * 7919 % 1000
    execute("UPDATE accounts SET balance = balance + 1 WHERE id = 500")
    execute(f"UPDATE accounts SET note = 'step {number}' WHERE id = {key}")
    if number % 3 == 0:
        execute(f"DELETE FROM accounts WHERE id = {key}")
    elif number % 3 == 1:
        execute(f"INSERT INTO accounts VALUES ({10_000 + number}, 'new', NULL, {number})")
    else:
        execute(f"UPDATE accounts SET id = {100_000 + number} WHERE id = {key}")


@contextmanager
def postgres(
    services: Endpoints,
    folder: Path,
    *sinks: str,
    tables: tuple[str, ...] = ("accounts", "lines"),
    columns: Mapping[str, Any] | None = None,
) -> Iterator[tuple[Place, Any, Any]]:
    """A pipeline over a database of its own, and two ways (connections) to execute a statement. `columns`: by table."""
    server, name = services["postgres"], f"v{uuid4().hex[:10]}"
    admin = psycopg2.connect(**login(server), dbname=server.more["database"])
    admin.autocommit = True
    admin.cursor().execute(f"CREATE DATABASE {name}")
    source = postgres_source(
        server,
        name,
        *tables,
        columns={f"public.{table}": rules for table, rules in (columns or {}).items()},
        signal_table="public.signals",
    )
    connections = [psycopg2.connect(**login(server), dbname=name) for _ in range(2)]
    for connection in connections:
        connection.autocommit = True
    execute, write = (connection.cursor().execute for connection in connections)
    for statement in POSTGRES:
        execute(statement)
    try:
        yield Place(folder, services, name, source, lake(folder, *sinks)), execute, write
    finally:
        for connection in connections:
            connection.close()
        admin.cursor().execute(f"DROP DATABASE {name} WITH (FORCE)")
        admin.close()


@contextmanager
def mariadb(
    services: Endpoints, folder: Path, *sinks: str, tables: tuple[str, ...] = ("accounts", "lines")
) -> Iterator[tuple[Place, Any, Any]]:
    """As `postgres`."""
    server, name = services["mariadb"], f"v{uuid4().hex[:10]}"
    source = mariadb_source(server, name, *tables, signal_table=f"{name}.signals")
    connect = partial(pymysql.connect, **login(server), autocommit=True)
    with connect() as database, connect() as writing:
        for connection in (database, writing):
            if connection is database:
                connection.cursor().execute(f"CREATE DATABASE {name}")
            connection.select_db(name)
        for statement in MARIADB:
            database.cursor().execute(statement)
        place = Place(folder, services, name, source, lake(folder, *sinks))
        yield place, database.cursor().execute, writing.cursor().execute
        database.cursor().execute(f"DROP DATABASE {name}")


def counts(found: dict[str, Any]) -> dict[str, int]:
    assert found["unclear"] is None, found
    return {kind: found["comparison"][kind] for kind in NONE}


def said(found: dict[tuple[str, str], dict[str, Any]]) -> str:
    """What isn't equal, a line each."""
    lines = []
    for name, one in found.items():
        comparison = one["comparison"]
        if comparison is None or any(comparison[kind] for kind in NONE):
            wrong = comparison and {"examples": comparison["examples"][:5], **{kind: comparison[kind] for kind in NONE}}
            lines.append(f"{name}: {one['unclear']} {wrong} {one['notes']}")
    return "\n".join(lines)


def examples(found: dict[str, Any]) -> set[tuple[str, int, str]]:
    """(kind, id, columns that differ)."""
    return {(e["kind"], e["key"]["id"], ",".join(e["columns"])) for e in found["comparison"]["examples"]}


def damage(place: Place, sink: str, gone: pa.Table) -> None:
    """A row of each kind; the writer leaves these keys alone. `gone`: the row that the source has deleted."""
    table = Damage(place.plan(sink, "accounts"))
    table.delete(1)
    table.add(table.rows(2))
    table.change(3, owner="damaged")
    table.change(4, note=None)
    if sink.endswith("append"):
        last = max(table.rows(5).to_pylist(), key=lambda row: row["_cdc_offset"])
        comes_back = last | {"_cdc_op": "u", "_cdc_offset": last["_cdc_offset"] + 1, "owner": "back"}
        gone = pa.Table.from_pylist([comes_back], gone.schema)
    table.add(gone)


DAMAGED = {
    ("missing", 1, ""),
    ("doubled", 2, ""),
    ("different", 3, "owner"),
    ("different", 4, "note"),
    ("extra", 5, ""),
}


DAMAGED_LOG = {one for one in DAMAGED if one[0] != "doubled"}
"""In a change log a row twice is none."""


def check_all(place: Place, sinks: tuple[str, ...], execute: Any, write: Any, folder: Path) -> None:
    """The whole story: equal while the source changes, damage found while it does, repaired while it does."""
    with place.running(), Writer(lambda number: step(write, number)) as writer:
        status, found = place.verify()
        assert status == 0, said(found)
        assert all(counts(one) == NONE for one in found.values())
        assert found[sinks[0], "lines"]["comparison"]["source_rows"] == 1000
        there = {sink: Damage(place.plan(sink, "accounts")).rows(5) for sink in sinks}
        execute("DELETE FROM accounts WHERE id = 5")
        status, found = place.verify()
        assert status == 0, said(found)
        with writer.resting():
            for sink in sinks:
                damage(place, sink, there[sink])
        began = writer.steps
        files = [folder / "found.json", folder / "found.parquet"]
        for file in files:
            status, found = place.verify("--output", str(file))
            assert status == 1, said(found)
            for sink in sinks:
                wanted = DAMAGED_LOG if sink.endswith("append") else DAMAGED
                assert examples(found[sink, "accounts"]) == wanted, sink
                assert counts(found[sink, "lines"]) == NONE
                assert sum(counts(found[sink, "accounts"]).values()) == len(wanted)
        assert writer.steps > began
        check_files(files, sinks)
        status, found = place.verify("--repair")
        assert status == 1, said(found)
        for sink in sinks:
            is_log = sink.endswith("append")
            left = {one for one in DAMAGED if one[0] == ("extra" if is_log else "doubled")}
            notes = " ".join(found[sink, "accounts"]["notes"])
            if "the worker's commits came first" in notes:
                left |= {one for one in DAMAGED if one[0] == "extra"}
            assert examples(found[sink, "accounts"]) == left, notes
            assert "3 rows were sent again; 0 of them differ still" in notes
            assert ("only in the sink's change log: the source has nothing to send again. Insert" in notes) == is_log
            assert ("in the sink more than once" in notes) == (not is_log)
        with writer.resting():
            status, found = place.verify("--repair")
        for sink in sinks:
            left = {one for one in DAMAGED if one[0] == ("extra" if sink.endswith("append") else "doubled")}
            assert examples(found[sink, "accounts"]) == left, said(found)
        # what the notes say
        execute("INSERT INTO accounts VALUES (5, 'x', NULL, 0)")
        execute("DELETE FROM accounts WHERE id = 5")
        with writer.resting():
            for sink in sinks:
                if sink.endswith("upsert"):
                    Damage(place.plan(sink, "accounts")).delete(2)
        status, found = place.verify("--repair")
        assert status == 0, said(found)


def check_files(files: list[Path], sinks: tuple[str, ...]) -> None:
    """Both files have all differing rows, with texts for values."""
    plain = json.loads(files[0].read_text())
    parquet = pq.read_table(files[1]).to_pylist(maps_as_pydicts="strict")

    def order(rows: list[dict[str, Any]]) -> list[str]:
        return sorted(json.dumps(row, sort_keys=True) for row in rows)

    assert order(plain) == order(parquet)
    assert len(plain) == sum(len(DAMAGED_LOG if sink.endswith("append") else DAMAGED) for sink in sinks)
    assert {"name": "note", "source": "", "sink": None} in [column for row in plain for column in row["columns"]]


def test_postgres_tables_are_verified_and_repaired_while_they_change(services: Endpoints, tmp_path: Path) -> None:
    sinks = ("iceberg-upsert", "iceberg-append", "delta-upsert", "delta-append")
    with postgres(services, tmp_path, *sinks) as (place, execute, write):
        check_all(place, sinks, execute, write, tmp_path)


def test_mariadb_tables_are_verified_and_repaired_while_they_change(services: Endpoints, tmp_path: Path) -> None:
    sinks = ("iceberg-upsert", "delta-append")
    with mariadb(services, tmp_path, *sinks) as (place, execute, write):
        check_all(place, sinks, execute, write, tmp_path)


def arrived(table: Damage, key: int) -> None:
    """Wait until the sink has the row."""
    deadline = time.monotonic() + 60
    while not len(table.rows(key)):
        assert time.monotonic() < deadline, f"row {key} never came"
        time.sleep(0.5)


def test_a_row_whose_commit_waits_for_a_standby_is_not_removed(services: Endpoints, tmp_path: Path) -> None:
    """It is logged, so the connector has it, but nobody sees it at the source for as long as the standby is away."""
    sinks = ("iceberg-upsert", "delta-upsert")
    with postgres(services, tmp_path, *sinks) as (place, execute, write), place.running():
        status, found = place.verify()
        assert status == 0, said(found)
        write("SET synchronous_commit = on")
        execute("ALTER SYSTEM SET synchronous_standby_names = 'away'")
        execute("SELECT pg_reload_conf()")
        time.sleep(2)  # every process of the server takes it in by itself
        waiting = threading.Thread(target=write, args=("INSERT INTO accounts VALUES (9000, 'waits', NULL, 1)",))
        try:
            waiting.start()
            for sink in sinks:
                arrived(Damage(place.plan(sink, "accounts")), 9000)
            assert waiting.is_alive()
            status, found = place.verify("--repair")
            assert status == 1, said(found)
            for sink in sinks:
                notes = " ".join(found[sink, "accounts"]["notes"])
                assert examples(found[sink, "accounts"]) == {("extra", 9000, "")}
                assert "couldn't be deleted: the source may have them, not visible yet" in notes
                assert "changes that are logged but not visible may explain it: process " in notes
                assert counts(found[sink, "lines"]) == NONE
            assert waiting.is_alive()
        finally:
            execute("ALTER SYSTEM RESET synchronous_standby_names")
            execute("SELECT pg_reload_conf()")
            waiting.join()
        status, found = place.verify()
        assert status == 0, said(found)
        assert found[sinks[0], "accounts"]["comparison"]["source_rows"] == 2001
