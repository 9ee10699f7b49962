"""The stack's small rules: what brings what, ports and their owners, folders that a database's user can't enter."""

from __future__ import annotations

import json
import os
import re
import socket
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from app.commands.stack import stack as command
from stack import manager, supervisors
from stack.errors import StackError
from stack.layout import Account, barrier, write_whole
from stack.manager import Endpoint, Endpoints
from stack.ports import default_ports, free_ports, listening, refuse_taken
from stack.supervisor import SERVICES, with_needs

SOMEONE = Account("someone", 64123, 64123)


@pytest.mark.parametrize(
    ("asked", "brought"),
    [
        ({"connect"}, ["kafka", "registry-storage", "registry", "connect"]),
        ({"catalog"}, ["s3", "catalog"]),
        ({"postgres"}, ["postgres"]),
        (set(), []),
    ],
)
def test_a_service_brings_what_it_needs_in_starting_order(asked: set[str], brought: list[str]) -> None:
    assert with_needs(asked) == brought


def test_needs_and_starting_order_hold_for_every_service() -> None:
    order = list(SERVICES)
    for name, kind in SERVICES.items():
        assert set(kind.after) <= set(kind.needs)
        assert all(order.index(need) < order.index(name) for need in kind.needs)
        assert set(kind.port_names) <= default_ports().keys()


def test_an_unknown_service_is_named_with_those_that_exist() -> None:
    with pytest.raises(StackError, match=r"unknown service cassandra, mongo; there are kafka, .*catalog"):
        with_needs({"mongo", "kafka", "cassandra"})


def test_an_offset_shifts_every_port() -> None:
    plain, shifted = default_ports(), default_ports(200)
    assert {name: port - plain[name] for name, port in shifted.items()} == dict.fromkeys(plain, 200)
    assert (plain["kafka"], plain["registry"], plain["connect"]) == (9092, 8081, 8083)  # platform.yaml's defaults


def test_free_ports_are_free_and_none_is_given_twice() -> None:
    ports = free_ports()
    assert len(set(ports.values())) == len(ports)
    assert not any(listening(port) for port in ports.values())


def test_a_taken_port_is_refused_with_its_owner() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StackError, match=rf"port {port} \(for kafka\) is taken by .*pid {os.getpid()}, user "):
            refuse_taken({"kafka": port})
    refuse_taken({"kafka": port})


def test_a_folder_that_a_user_cannot_enter_is_found_above_the_state(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    state = closed / "deep" / "state"
    state.mkdir(parents=True)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.is_relative_to(tempfile.gettempdir()) and folder != Path(tempfile.gettempdir()):
            folder.chmod(0o755)
    assert barrier(state, SOMEONE) is None
    closed.chmod(0o700)
    assert barrier(state, SOMEONE) == closed
    assert barrier(state, Account("owner", os.getuid(), os.getgid())) is None
    closed.chmod(0o710)
    assert barrier(state, SOMEONE) == closed
    assert barrier(state, Account("member", 64123, closed.stat().st_gid)) is None


def test_a_status_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "services" / "kafka.json"
    write_whole(path, "old")
    write_whole(path, "new")
    assert path.read_text() == "new"
    assert [p.name for p in path.parent.iterdir()] == ["kafka.json"]


def test_a_service_that_is_not_up_says_how_to_start_it() -> None:
    kafka = Endpoint.parse({"url": "kafka://127.0.0.1:9092", "host": "127.0.0.1", "port": 9092})
    endpoints = Endpoints(kafka=kafka)
    assert endpoints["kafka"].address == "127.0.0.1:9092"
    with pytest.raises(StackError, match=r"s3 isn't running; start it by `cdc stack up --only s3`"):
        endpoints["s3"]


def test_what_only_some_services_have_is_kept() -> None:
    s3 = Endpoint.parse({"url": "u", "host": "h", "port": 1, "user": "k", "password": "s", "bucket": "lakehouse"})
    assert (s3.user, s3.password, s3.more) == ("k", "s", {"bucket": "lakehouse"})


def test_a_status_whose_supervisor_is_gone_counts_for_nothing(tmp_path: Path) -> None:
    """Its process id may belong to something else by now: here, to this very test."""
    status = {"name": "kafka", "state": "ready", "port": 9092, "supervisor": os.getpid(), "pid": os.getpid()}
    write_whole(tmp_path / "services" / "kafka.json", json.dumps(status))
    assert manager.statuses(tmp_path) == {}
    supervisors.await_leftovers(tmp_path, lambda line: pytest.fail(line))
    lines: list[str] = []
    manager.down(tmp_path, lines.append)
    assert lines == []
    assert not (tmp_path / "services").exists()


def test_status_of_nothing_says_how_to_start_and_fails(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["status", "--state", str(tmp_path / "none")])
    assert result.exit_code == 1
    assert "cdc stack up" in result.output


def test_down_of_nothing_is_fine(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["down", "--state", str(tmp_path / "none")])
    assert result.exit_code == 0
    assert not (tmp_path / "none").exists()


def test_only_takes_names_with_blanks_and_refuses_unknown_ones(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["up", "--state", str(tmp_path), "--only", "kafka, mongo"])
    assert isinstance(result.exception, StackError)
    assert re.match("unknown service mongo; there are", str(result.exception))
