"""Which transactions may have logged what no snapshot shows yet, as real databases tell."""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import AsyncIterator
from functools import partial
from typing import Any
from uuid import uuid4

import asyncpg
import pymysql
import pytest
from deployments import login

from config.pipeline import SourceConfig
from stack.manager import Endpoint, Endpoints
from stack.testing import StartServices
from verify.mariadb import MariaDbReader
from verify.postgres import PostgresReader
from verify.source import connect_source


@pytest.fixture(scope="module")
def services(start_services: StartServices) -> Endpoints:
    return start_services("postgres", "mariadb")


def source(server: Endpoint, kind: str, database: str) -> SourceConfig:
    return SourceConfig.model_validate(
        {
            "source_type": kind,
            "host": server.host,
            "port": server.port,
            "username": server.user,
            "password": server.password or "",
            "database": database,
            "tables": ["public.parts" if kind == "postgres" else f"{database}.parts"],
        }
    )


@pytest.fixture
async def postgres(services: Endpoints) -> AsyncIterator[tuple[PostgresReader, Any]]:
    """A reader, and a connection that writes to the same database."""
    server, name = services["postgres"], f"u{uuid4().hex[:10]}"
    connect = partial(asyncpg.connect, **login(server))
    admin = await connect(database=server.more["database"])
    await admin.execute(f"CREATE DATABASE {name}")
    writer = await connect(database=name)
    await writer.execute("CREATE TABLE parts (id int, part int, PRIMARY KEY (part, id)) PARTITION BY LIST (part)")
    await writer.execute("CREATE TABLE first PARTITION OF parts FOR VALUES IN (1)")
    await writer.execute("CREATE TABLE other (id int PRIMARY KEY)")
    reader = await connect_source(source(server, "postgres", name))
    assert isinstance(reader, PostgresReader)
    yield reader, writer
    await reader.close()
    await writer.close()
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.mark.parametrize("statement", ["INSERT INTO parts VALUES (1, 1)", "INSERT INTO first VALUES (1, 1)"])
async def test_who_has_changed_a_table_or_a_part_of_it_is_named_until_all_see_it(
    postgres: tuple[PostgresReader, Any], statement: str
) -> None:
    reader, writer = postgres
    async with writer.transaction():
        await writer.execute(statement)
        first = await reader.unseen("public.parts")
        assert [name.startswith(f"process {writer.get_server_pid()} (") for name in first] == [True]
        await writer.execute("INSERT INTO parts VALUES (2, 1)")
        assert await reader.unseen("public.parts") == first
        assert await reader.unseen("public.other") == frozenset()
        assert await reader.unseen("public.nowhere") == frozenset()
    assert await reader.unseen("public.parts") == frozenset()
    async with writer.transaction():
        await writer.execute("INSERT INTO parts VALUES (3, 1)")
        second = await reader.unseen("public.parts")
        assert len(second) == 1
        assert not second & first, "another transaction of the same process"


async def test_who_only_reads_a_table_is_not_named(postgres: tuple[PostgresReader, Any]) -> None:
    reader, writer = postgres
    async with writer.transaction():
        await writer.execute("INSERT INTO other VALUES (1)")
        await writer.fetch("SELECT * FROM parts FOR UPDATE")
        assert await reader.unseen("public.parts") == frozenset()
        assert len(await reader.unseen("public.other")) == 1


SEMI_SYNC = {
    "rpl_semi_sync_master_wait_point": "AFTER_SYNC",
    "rpl_semi_sync_master_timeout": "60000",
    "rpl_semi_sync_master_enabled": "ON",
}
DUMP_BINLOG = 0x12


def silent_replica(connection: Any) -> None:
    """Read the binlog as a semi-synchronous replica that answers nothing."""
    cursor = connection.cursor()
    cursor.execute("SET @rpl_semi_sync_slave = 1, @master_binlog_checksum = 'NONE', @mariadb_slave_capability = 4")
    cursor.execute("SHOW MASTER STATUS")
    file, position = cursor.fetchone()[:2]
    connection._execute_command(DUMP_BINLOG, struct.pack("<IHI", position, 0, 4242) + file.encode())


async def test_commits_that_wait_for_a_semi_synchronous_replica_are_noticed(services: Endpoints) -> None:
    server, name = services["mariadb"], f"u{uuid4().hex[:10]}"
    connect = partial(pymysql.connect, **login(server), autocommit=True)
    admin = connect()
    replica: Any = connect()

    def execute(statement: str) -> None:
        admin.cursor().execute(statement)

    def insert() -> None:
        with connect(database=name) as connection:
            connection.cursor().execute("INSERT INTO parts VALUES (1)")

    execute(f"CREATE DATABASE {name}")
    execute(f"CREATE TABLE {name}.parts (id int PRIMARY KEY)")
    reader = await connect_source(source(server, "mariadb", name))
    assert isinstance(reader, MariaDbReader)
    rows = f"SELECT * FROM {name}.parts"
    before = [row for key in SEMI_SYNC for row in await reader._query(f"SHOW GLOBAL VARIABLES LIKE '{key}'", ())]
    waiting = threading.Thread(target=insert)
    try:
        for key, value in SEMI_SYNC.items():
            execute(f"SET GLOBAL {key} = {value}")
        silent_replica(replica)
        await asyncio.sleep(1)  # the server takes it in
        assert await reader.unseen(f"{name}.parts") == frozenset()
        waiting.start()
        async with asyncio.timeout(30):
            while True:
                first = await reader.unseen(f"{name}.parts")
                if first:
                    break
                await asyncio.sleep(0.05)
        assert await reader._query(rows, ()) == [], "it is logged, and nobody sees it"
        assert await reader.unseen(f"{name}.parts") == first, "it is the same one still"
    finally:
        for key, value in reversed(before):
            execute(f"SET GLOBAL {key.decode()} = {value.decode()}")
        if waiting.ident is not None:
            waiting.join()
        replica._force_close()
    assert len(await reader._query(rows, ())) == 1
    assert await reader.unseen(f"{name}.parts") == frozenset()
    execute(f"DROP DATABASE {name}")
    await reader.close()
    admin.close()
