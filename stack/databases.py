"""The source databases (PostgreSQL with logical decoding, MariaDB with a row binlog) and the registry's store."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from pathlib import Path
from typing import Any, ClassVar

import asyncpg
import pymysql

from stack.errors import StackError
from stack.layout import Account, account, own_folder
from stack.service import ProcessService, launched

DATABASE = "cdc_demo"
USER = "cdc_user"
PASSWORD = "cdc_password"

FOLDER = "{data}"
"""Stands for the data folder in a set-up command."""

POSTGRES_BIN = Path("/usr/lib/postgresql/15/bin")


async def make_data(data: Path, user: Account, command: list[str], failure: str) -> None:
    """Make a database's data folder: `command` fills one beside it, which is renamed when it is whole."""
    beside = data.with_name(f".{data.name}.{os.getpid()}")
    own_folder(beside, user)
    process = await asyncio.create_subprocess_exec(
        *launched([argument.replace(FOLDER, str(beside)) for argument in command], user),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=beside,
    )  # fmt: skip
    output, _ = await process.communicate()
    if process.returncode:
        raise StackError(f"{failure}:\n{output.decode(errors='replace')[-2000:]}")
    beside.rename(data)


def program(name: str, *places: Path) -> str:
    """Where a server program lies; the way out if it isn't installed."""
    for place in places:
        if (place / name).exists():
            return str(place / name)
    found = shutil.which(name)
    if found is None:
        raise StackError(f"{name} isn't installed; run `make setup`")
    return found


class PostgresServer(ProcessService):
    """A PostgreSQL 15 cluster of its own, with one role and one database beside the superuser `postgres`."""

    abstract = True
    role: ClassVar[str]
    password: ClassVar[str]
    database: ClassVar[str]
    settings: ClassVar[dict[str, str | int]]
    users = ("postgres",)
    stop_signal = signal.SIGINT  # fast shutdown: doesn't wait for clients
    orphan_signal = signal.SIGINT

    async def prepare(self) -> None:
        """initdb, once; the port may differ from run to run."""
        data = self.layout.data(self.name)
        if not data.exists():
            command = [program("initdb", POSTGRES_BIN), "-D", FOLDER, "-U", "postgres", "--auth=trust"]
            command += ["--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]
            await make_data(data, account(*self.users), command, f"{self.name}: initdb failed")

    def command(self) -> list[str]:
        data = self.layout.data(self.name)
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",  # a socket's path may have 107 bytes; the state folder may lie deeper
            "synchronous_commit": "off",
            **self.settings,
        }
        options = [option for key, value in settings.items() for option in ("-c", f"{key}={value}")]
        return [program("postgres", POSTGRES_BIN), "-D", str(data), *options]

    async def healthy(self) -> bool:
        """Connect, and make the role and the database the first time."""
        try:
            connection = await asyncpg.connect(
                host="127.0.0.1", port=self.port, user="postgres", database="postgres", timeout=5
            )
            try:
                await self._create_role(connection)
            finally:
                await connection.close()
        except asyncpg.PostgresError as error:
            raise OSError(str(error)) from error  # still starting up
        return True

    async def _create_role(self, connection: asyncpg.Connection) -> None:
        if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", self.role):
            await connection.execute(f"CREATE ROLE {self.role} LOGIN SUPERUSER REPLICATION PASSWORD '{self.password}'")
        if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", self.database):
            await connection.execute(f"CREATE DATABASE {self.database} OWNER {self.role}")

    def endpoint(self) -> dict[str, Any]:
        url = f"postgresql://{self.role}:{self.password}@127.0.0.1:{self.port}/{self.database}"
        return _endpoint(url, self.port, self.role, self.password, self.database)


class Postgres(PostgresServer):
    """The source database: `wal_level=logical`, and the pipeline's user and database."""

    name = "postgres"
    port_names = ("postgres",)
    role, password, database = USER, PASSWORD, DATABASE
    settings: ClassVar[dict[str, str | int]] = {
        "wal_level": "logical",
        "max_wal_senders": 20,
        "max_replication_slots": 20,
        "shared_buffers": "128MB",
        "max_wal_size": "2GB",
    }


class RegistryStorage(PostgresServer):
    """Where the schema registry keeps its schemas and ids: a cluster that no source shares."""

    name = "registry-storage"
    port_names = ("registry-storage",)
    role = password = database = "registry"
    settings: ClassVar[dict[str, str | int]] = {"shared_buffers": "16MB", "max_connections": 60}


class MariaDb(ProcessService):
    """MariaDB 10.11 with a row binlog; the pipeline's user may replicate and owns its database."""

    name = "mariadb"
    port_names = ("mariadb",)
    users = ("mysql", "nobody")
    orphan_signal = signal.SIGTERM

    async def prepare(self) -> None:
        """mariadb-install-db, once."""
        data = self.layout.data(self.name)
        if not data.exists():
            command = [program("mariadb-install-db"), "--no-defaults", f"--datadir={FOLDER}"]
            command += ["--auth-root-authentication-method=normal", "--skip-test-db"]
            await make_data(data, account(*self.users), command, "mariadb: mariadb-install-db failed")

    def command(self) -> list[str]:
        data = self.layout.data(self.name)
        return [
            program("mariadbd", Path("/usr/sbin")),
            "--no-defaults",
            f"--datadir={data}",
            "--socket=mariadb.sock",  # in the data folder, relative: a socket's path may have 107 bytes
            f"--pid-file={data}/mariadb.pid",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            "--server-id=1",
            "--log-bin=binlog",
            "--binlog-format=ROW",
            "--binlog-row-image=FULL",
            "--binlog-row-metadata=FULL",
            "--gtid-strict-mode=1",
            "--innodb-buffer-pool-size=128M",
            "--innodb-flush-log-at-trx-commit=2",
            "--skip-name-resolve",
            "--character-set-server=utf8mb4",
            "--default-time-zone=+00:00",
        ]

    async def healthy(self) -> bool:
        """Connect, and make the user and the database the first time."""
        try:
            await asyncio.to_thread(self._create_user)
        except pymysql.MySQLError as error:
            raise OSError(str(error)) from error  # still starting up
        return True

    def _create_user(self) -> None:
        with (
            pymysql.connect(host="127.0.0.1", port=self.port, user="root", connect_timeout=5, autocommit=True) as root,
            root.cursor() as cursor,
        ):
            cursor.execute(f"CREATE DATABASE IF NOT EXISTS {DATABASE}")
            cursor.execute(f"CREATE USER IF NOT EXISTS '{USER}'@'127.0.0.1' IDENTIFIED BY '{PASSWORD}'")
            cursor.execute(f"GRANT ALL ON *.* TO '{USER}'@'127.0.0.1'")

    def endpoint(self) -> dict[str, Any]:
        url = f"mysql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{DATABASE}"
        return _endpoint(url, self.port, USER, PASSWORD, DATABASE)


def _endpoint(url: str, port: int, user: str, password: str, database: str) -> dict[str, Any]:
    return {
        "url": url,
        "host": "127.0.0.1",
        "port": port,
        "user": user,
        "password": password,
        "database": database,
    }
