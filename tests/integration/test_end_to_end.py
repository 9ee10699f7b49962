"""From a real database through real Debezium into lake tables: the same rows, after every kind of change."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pymysql
import pytest
from deltalake import DeltaTable
from deployments import (
    Run,
    delta,
    files,
    iceberg,
    login,
    mariadb_source,
    own_database,
    postgres_source,
    run_pipeline,
    write_mode,
    written,
)

from stack.manager import Endpoints
from stack.places import in_catalog
from stack.testing import StartServices

POSTGRES_TABLES = (
    "CREATE TABLE accounts (id bigint PRIMARY KEY, owner text NOT NULL, balance numeric(12,2), active boolean,"
    " born date, opened timestamptz, seen timestamp, code uuid, doc jsonb, ratio double precision, raw bytea,"
    " lunch time, small smallint)",
    "CREATE TABLE lines (order_no int, line int, sku varchar(20), price numeric(10,2), PRIMARY KEY (order_no, line))",
    "INSERT INTO accounts SELECT n, 'owner é ' || n, n * 1.25, n % 2 = 0, date '1969-12-30' + n,"
    " timestamptz '2024-02-29 23:59:59.999999+00' + n * interval '1 day', timestamp '1969-12-31 23:59:59'"
    " + n * interval '1 h', md5(n::text)::uuid, jsonb_build_object('n', n), n / 3.0,"
    " decode(md5(n::text), 'hex'), '12:34:56.789', n"
    " FROM generate_series(1, 300) n",
    "INSERT INTO accounts (id, owner) VALUES (301, '')",
    "INSERT INTO lines SELECT n / 3, n % 3, 'sku' || n, n FROM generate_series(0, 299) n",
)
MARIADB_TABLES = (
    "CREATE TABLE accounts (id BIGINT PRIMARY KEY, owner VARCHAR(80) NOT NULL, balance DECIMAL(12,2), active BOOLEAN,"
    " born DATE, opened TIMESTAMP(6) NULL, seen DATETIME(6), kind ENUM('a','b'), doc JSON, ratio DOUBLE,"
    " raw VARBINARY(40), small SMALLINT)",
    "CREATE TABLE `lines` (order_no INT, line INT, sku VARCHAR(20), price DECIMAL(10,2), PRIMARY KEY (order_no, line))",
    "INSERT INTO accounts SELECT seq, CONCAT('owner é ', seq), seq * 1.25, seq % 2 = 0, '1969-12-30'"
    " + INTERVAL seq DAY, '2024-02-29 23:59:59.999999' + INTERVAL seq DAY, '1969-12-31 23:59:59' + INTERVAL seq HOUR,"
    " 'b',"
    """ CONCAT('{"n": ', seq, '}'), seq / 3, UNHEX(MD5(seq)), seq FROM seq_1_to_300""",
    "INSERT INTO accounts (id, owner) VALUES (301, '')",
    "INSERT INTO `lines` SELECT seq DIV 3, seq % 3, CONCAT('sku', seq), seq FROM seq_0_to_299",
)

# One transaction per tuple; `lines` is a reserved word in MariaDB.
CHANGES: tuple[tuple[str, ...], ...] = (
    ("INSERT INTO accounts (id, owner, balance) VALUES (1001, 'new', 0.01), (1002, '漢字', NULL)",),
    ("UPDATE accounts SET balance = balance + 1, owner = 'changed' WHERE id <= 50",),
    ("DELETE FROM accounts WHERE id BETWEEN 51 AND 60",),
    (  # in both tables at once, one row twice
        "UPDATE accounts SET balance = -7 WHERE id IN (100, 101)",
        "UPDATE accounts SET balance = -8 WHERE id = 101",
        "INSERT INTO {lines} (order_no, line, sku, price) VALUES (500, 1, 'tx', 9.99), (500, 2, NULL, NULL)",
        "DELETE FROM {lines} WHERE order_no = 10",
    ),
    ("UPDATE accounts SET id = 2000 WHERE id = 200",),
    ("UPDATE {lines} SET order_no = 900 WHERE order_no = 20 AND line = 2",),
    ("DELETE FROM accounts WHERE id = 1002",),
    ("INSERT INTO accounts (id, owner) VALUES (1002, 'back')",),  # a key that was deleted
    ("ALTER TABLE accounts ADD COLUMN level INT",),
    ("UPDATE accounts SET level = 3 WHERE id BETWEEN 70 AND 90",),
    ("INSERT INTO accounts (id, owner, level) VALUES (1003, 'after', 9)",),
    ("DELETE FROM accounts WHERE id = 70",),
)
MOVED = {200: 2000}


CDC = Path(sys.executable).with_name("cdc")


@pytest.fixture(scope="module")
def services(start_services: StartServices) -> Endpoints:
    return start_services("connect", "postgres", "mariadb", "s3", "catalog")


def iceberg_rest(services: Endpoints, namespace: str, mode: str) -> dict[str, Any]:
    """On S3, over the REST catalog."""
    section = in_catalog(services["catalog"], services["s3"])
    section |= {"table_namespace": namespace, "write_mode": mode, "flush_interval_seconds": 0.5}
    return {"sink_id": f"iceberg-{mode}", "sink_type": "iceberg", "iceberg": section}


def statements(*, lines: str) -> list[Sequence[str]]:
    return [[statement.format(lines=lines) for statement in transaction] for transaction in CHANGES]


async def test_postgres_tables_are_the_same_in_iceberg_and_delta_appended_and_upserted(
    services: Endpoints, tmp_path: Path
) -> None:
    server = services["postgres"]
    async with own_database(server) as (database, name):
        for statement in POSTGRES_TABLES:
            await database.execute(statement)
        sinks = [
            iceberg(tmp_path, "append"),
            iceberg_rest(services, name, "upsert"),
            delta(tmp_path / "delta", "append"),
            delta(tmp_path / "delta", "upsert"),
        ]
        settings = written(tmp_path, services, name, postgres_source(server, name, "accounts", "lines"), sinks)

        async def change() -> None:
            for transaction in statements(lines="lines"):
                async with database.transaction():
                    for statement in transaction:
                        await database.execute(statement)

        equal = check("public")

        def checked(run: Run, stage: str) -> None:
            equal(run, stage)
            if stage == "changed":
                there = login(server) | {"database": name}
                asyncio.run(verify_tells_differences_and_what_it_cannot_tell(run, tmp_path, there))

        await run_pipeline(settings, tmp_path, change, checked)


async def verify_tells_differences_and_what_it_cannot_tell(run: Run, folder: Path, there: dict[str, Any]) -> None:
    """The command as users type it: a table that somebody else damaged, then a source that is ahead of the sinks."""

    def verify(*options: str) -> tuple[int, str]:
        pipeline, platform = files(folder)
        command = [str(CDC), "verify", str(pipeline), "--platform-config", str(platform), *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        return done.returncode, done.stdout + done.stderr

    status, printed = verify()
    assert status == 0, printed
    table = DeltaTable(folder / "delta/upsert/accounts")
    table.delete("id = 1")
    table.update({"owner": "'damaged'"}, predicate="id = 2")
    status, printed = verify("--format", "json", "--limit", "5")
    assert status == 1, printed
    found = {(t["sink_id"], t["table"]): t["comparison"] for t in json.loads(printed)["tables"]}
    wrong = found.pop(("delta-upsert", "public.accounts"))
    assert (wrong["missing"], wrong["extra"], wrong["different"]) == (1, 0, 1)
    assert wrong["examples"] == [
        {"kind": "missing", "key": {"id": 1}, "columns": {}},
        {"kind": "different", "key": {"id": 2}, "columns": {"owner": ["changed", "damaged"]}},
    ]
    assert all(not (c["missing"] or c["extra"] or c["different"]) for c in found.values())
    status, printed = verify()
    assert status == 1, printed
    assert "delta-upsert public.accounts: missing id=1" in printed
    assert "delta-upsert public.accounts: different id=2: owner: source 'changed', sink 'damaged'" in printed
    assert run.worker.terminate() == 0
    database = await asyncpg.connect(**there)
    await database.execute("UPDATE accounts SET owner = 'unseen' WHERE id = 3")
    await database.close()
    status, printed = verify("--timeout", "15")
    assert status == 2, printed
    # By the deadline the database may have logged something of its own: the sinks are told all the same.
    assert re.search(r"could not tell: not caught up within 15 s: .*sinks (are|were) behind: ", printed), printed
    run.worker.start()
    status, printed = verify()
    assert status == 1, printed  # the damage is still there, and the last update has arrived


async def test_mariadb_tables_are_the_same_in_iceberg_and_delta(services: Endpoints, tmp_path: Path) -> None:
    server, name = services["mariadb"], f"e{uuid4().hex[:10]}"
    sinks = [iceberg(tmp_path, "upsert"), delta(tmp_path / "delta", "append")]
    settings = written(tmp_path, services, name, mariadb_source(server, name, "accounts", "lines"), sinks)
    connecting = pymysql.connect(**login(server), init_command="SET time_zone = '+00:00'")
    with connecting as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
        cursor.execute(f"USE {name}")
        for statement in MARIADB_TABLES:
            cursor.execute(statement)
        connection.commit()

        async def change() -> None:
            for transaction in statements(lines="`lines`"):
                for statement in transaction:
                    cursor.execute(statement)
                connection.commit()

        try:
            await run_pipeline(settings, tmp_path, change, check(name))
        finally:
            cursor.execute(f"DROP DATABASE {name}")


def check(schema: str) -> Any:
    """What has to hold after the snapshot and after the changes."""

    def checked(run: Run, stage: str) -> None:
        if stage == "snapshot":
            run.assert_equal_to_source({f"{schema}.accounts": 301, f"{schema}.lines": 300})
            return
        run.assert_equal_to_source({f"{schema}.accounts": 301 + 3 - 10 - 1, f"{schema}.lines": 300 + 2 - 3})
        for sink in run.settings.pipeline.sinks:
            if write_mode(sink) == "append":
                accounts = f"{schema}.accounts"
                assert run.ops(sink.sink_id, accounts, 1) == ["r", "u"]
                assert run.ops(sink.sink_id, accounts, 51) == ["r", "d"]
                assert run.ops(sink.sink_id, accounts, 101) == ["r", "u", "u"]  # both changes of one transaction
                assert run.ops(sink.sink_id, accounts, 1002) == ["c", "d", "c"]
                for before, after in MOVED.items():
                    assert run.ops(sink.sink_id, accounts, before) == ["r", "d"]
                    assert run.ops(sink.sink_id, accounts, after) == ["c"]

    return checked
