"""The local stack keeps its promises: idempotent, restarts what dies, keeps its data, leaves no process behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import psutil
import pymysql
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from deployments import login

from stack import supervisors
from stack.errors import StackError
from stack.layout import account
from stack.manager import Endpoint, Endpoints, down, own_state, statuses, up, wipe
from stack.ports import free_ports

HOLDS_A_STACK = """
import sys
from stack.manager import running_stack
with running_stack({"s3"}, say=lambda line: None):
    print("up", flush=True)
    sys.stdin.read()
"""


class Stack:
    """A stack of this test alone."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.ports = free_ports()
        self.lines: list[str] = []

    def up(self, *names: str) -> Endpoints:
        return up(self.state, set(names), ports=self.ports, say=self.lines.append, owner=os.getpid())

    def down(self) -> None:
        down(self.state, self.lines.append)

    def pid(self, name: str) -> int:
        pid: int = statuses(self.state)[name]["pid"]
        return pid

    def processes(self) -> list[psutil.Process]:
        """The supervisors, the services and all that these started."""
        living = supervisors.living(self.state)
        return [p for s in living for p in (s, *s.children(recursive=True))]


@pytest.fixture
def stack() -> Iterator[Stack]:
    """Nothing runs yet; whatever does is stopped after the test."""
    with own_state("stack-tests") as state:
        yield Stack(state)


def eventually(condition: Callable[[], Any], what: str, seconds: float = 60.0) -> None:
    """Poll until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)


async def query(server: Endpoint, *statements: str) -> list[tuple[Any, ...]]:
    """Run statements as the pipeline's user; the rows of the last."""
    connection = await asyncpg.connect(server.url)
    try:
        for statement in statements:
            rows = await connection.fetch(statement)
    finally:
        await connection.close()
    return [tuple(row) for row in rows]


def mariadb_query(server: Endpoint, *statements: str) -> tuple[Any, ...]:
    """Run statements as the pipeline's user; the rows of the last."""
    with pymysql.connect(database=server.more["database"], autocommit=True, **login(server)) as connection:
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)
        return tuple(cursor.fetchall())


def test_up_again_changes_nothing_and_more_services_join_those_that_run(stack: Stack) -> None:
    stack.up("s3")
    store = stack.pid("s3")
    stack.lines.clear()
    stack.up("s3")
    assert (stack.pid("s3"), stack.lines) == (store, [])
    endpoints = stack.up("catalog")
    assert stack.pid("s3") == store
    assert list(endpoints) == ["s3", "catalog"]
    assert httpx.get(f"{endpoints['catalog'].url}/v1/config").status_code == httpx.codes.OK
    processes = stack.processes()
    stack.down()
    assert statuses(stack.state) == {}
    assert not any(process.is_running() for process in processes)
    assert not (stack.state / "endpoints.json").exists()


async def test_a_service_that_is_killed_comes_back_with_its_data(stack: Stack) -> None:
    database = stack.up("postgres")["postgres"]
    await query(database, "CREATE TABLE kept AS SELECT 1 AS id", "CHECKPOINT")
    killed = stack.pid("postgres")
    os.kill(killed, signal.SIGKILL)

    def back() -> bool:
        status = statuses(stack.state)["postgres"]
        return bool(status["state"] == "ready" and status["pid"] != killed)

    eventually(back, "postgres is ready again")
    assert statuses(stack.state)["postgres"]["restarts"] >= 1
    assert await query(database, "SELECT id FROM kept") == [(1,)]


async def test_killing_the_supervisor_leaves_no_process_and_no_data_is_lost(stack: Stack) -> None:
    endpoints = stack.up("postgres", "mariadb", "catalog")
    await query(endpoints["postgres"], "CREATE TABLE kept AS SELECT 1 AS id", "CHECKPOINT")
    mariadb_query(endpoints["mariadb"], "CREATE TABLE kept (id int PRIMARY KEY)", "INSERT INTO kept VALUES (1)")
    (supervisor, *services) = stack.processes()
    assert len(services) > 4
    supervisor.kill()
    eventually(lambda: not any(process.is_running() for process in services), "all processes are gone")
    assert statuses(stack.state) == {}
    endpoints = stack.up("postgres", "mariadb")
    assert await query(endpoints["postgres"], "SELECT id FROM kept") == [(1,)]
    assert mariadb_query(endpoints["mariadb"], "SELECT id FROM kept") == ((1,),)


def test_up_right_after_a_kill_of_the_supervisor_waits_for_its_services(stack: Stack) -> None:
    stack.up("mariadb")
    mariadb = stack.pid("mariadb")
    (supervisor, *_) = stack.processes()
    os.kill(mariadb, signal.SIGSTOP)  # it can't follow the order to end yet
    supervisor.kill()
    supervisor.wait()
    waker = subprocess.Popen(["sh", "-c", f"sleep 1; kill -CONT {mariadb}"])
    stack.lines.clear()
    stack.up("mariadb")
    assert waker.wait() == 0
    assert stack.lines[0] == f"waiting for mariadb of a killed supervisor to end (pid {mariadb})"
    assert stack.pid("mariadb") != mariadb


def test_the_stack_of_a_process_that_is_killed_ends(stack: Stack) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS_A_STACK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "up\n"
        (supervisor,) = [p for p in psutil.Process(holder.pid).children() if "stack.supervisor" in p.cmdline()]
        processes = [supervisor, *supervisor.children(recursive=True)]
        holder.kill()
    eventually(lambda: not any(process.is_running() for process in processes), "its stack is gone")


def test_a_taken_port_is_refused_with_its_owner_before_anything_starts(stack: Stack) -> None:
    port = stack.ports["s3"]
    taken = socket.create_server(("127.0.0.1", port))
    with taken, pytest.raises(StackError, match=rf"port {port} \(for s3\) is taken by .*pid {os.getpid()}"):
        stack.up("catalog", "postgres")
    assert not (stack.state / "data").exists()
    assert stack.processes() == []


def test_a_folder_that_a_database_cannot_enter_is_refused_before_anything_starts(stack: Stack) -> None:
    stack.state.mkdir(parents=True)
    stack.state.chmod(0o700)
    user = account("postgres")
    if user.uid == os.getuid():
        stack.up("postgres")  # runs as ourselves: nothing is in its way
    else:
        with pytest.raises(StackError, match=rf"runs as user {user.name}, who can't enter {stack.state}: `chmod o\+x"):
            stack.up("postgres", "s3")
        assert not (stack.state / "data").exists()
    stack.state.chmod(0o755)


def test_a_service_that_cannot_start_shows_its_log_and_takes_the_others_down(stack: Stack) -> None:
    data = stack.state / "data" / "catalog"
    data.mkdir(parents=True)
    (data / "catalog.db").write_text("this is no database" * 100)
    log = stack.state / "logs" / "catalog.log"
    with pytest.raises(StackError, match=rf"(?s)catalog ended with status 1 while starting; {log} ends with:.*SQLITE"):
        stack.up("catalog")
    assert stack.processes() == []
    assert statuses(stack.state) == {}


def test_a_service_that_keeps_dying_is_given_up_and_up_tries_again(stack: Stack) -> None:
    stack.up("postgres")
    server = stack.state / "data" / "postgres"
    away = server.with_name("away")
    server.rename(away)
    os.kill(stack.pid("postgres"), signal.SIGKILL)
    eventually(lambda: statuses(stack.state)["postgres"]["state"] == "failed", "postgres is given up", 90)
    error = statuses(stack.state)["postgres"]["error"]
    assert "5 restarts didn't help" in error
    assert str(stack.state / "logs" / "postgres.log") in error
    away.rename(server)
    stack.up("postgres")
    assert statuses(stack.state)["postgres"]["state"] == "ready"
    processes = stack.processes()
    stack.down()
    assert not any(process.is_running() for process in processes)


async def test_a_restart_keeps_topics_records_schema_ids_tables_and_rows(stack: Stack) -> None:
    names = ("kafka", "registry", "catalog")
    before = stack.up(*names)
    broker = before["kafka"].address
    schema = {"schema": '{"type": "record", "name": "Kept", "fields": [{"name": "id", "type": "long"}]}'}
    async with httpx.AsyncClient() as client:
        registered = await client.post(f"{before['registry'].url}/subjects/kept-value/versions", json=schema)
        created = await client.post(f"{before['catalog'].url}/v1/namespaces", json={"namespace": ["kept"]})
    assert (registered.status_code, created.status_code) == (200, 200)
    admin = AIOKafkaAdminClient(bootstrap_servers=broker)
    await admin.start()
    await admin.create_topics([NewTopic("kept", num_partitions=3, replication_factor=1)])
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=broker)
    await producer.start()
    sent = await producer.send_and_wait("kept", b"value", partition=2)
    await producer.stop()

    stack.down()
    after = stack.up(*names)

    assert after == before
    async with httpx.AsyncClient() as client:
        found = await client.get(f"{after['registry'].url}/subjects/kept-value/versions/latest")
        by_id = await client.get(f"{after['registry'].url}/schemas/ids/{registered.json()['id']}")
        namespaces = await client.get(f"{after['catalog'].url}/v1/namespaces")
    assert found.json()["id"] == registered.json()["id"]
    assert "Kept" in by_id.json()["schema"]
    assert ["kept"] in namespaces.json()["namespaces"]
    consumer = AIOKafkaConsumer(bootstrap_servers=broker)
    await consumer.start()
    partition = TopicPartition("kept", 2)
    consumer.assign([partition])
    consumer.seek(partition, sent.offset)
    record = await consumer.getone()
    await consumer.stop()
    assert record.value == b"value"


async def test_fresh_forgets_the_data_of_a_stopped_stack_and_refuses_a_running_one(stack: Stack) -> None:
    database = stack.up("postgres")["postgres"]
    await query(database, "CREATE TABLE forgotten (id int)")
    with pytest.raises(StackError, match="is running; stop it by `cdc stack down` first"):
        wipe(stack.state)
    stack.down()
    wipe(stack.state)
    database = stack.up("postgres")["postgres"]
    assert await query(database, "SELECT 1 FROM pg_tables WHERE tablename = 'forgotten'") == []
