"""Ports: the defaults with an offset, free ones for test runs, and who owns one that is taken."""

from __future__ import annotations

import random
import socket
from collections.abc import Mapping

import psutil

from stack.errors import StackError

DEFAULT_PORTS: Mapping[str, int] = {
    "kafka": 9092,
    "kafka-controller": 9093,
    "registry": 8081,
    "registry-management": 8082,
    "connect": 8083,
    "postgres": 5433,
    "registry-storage": 5434,
    "mariadb": 3307,
    "s3": 9000,
    "catalog": 8181,
}


def default_ports(offset: int = 0) -> dict[str, int]:
    """The stack's ports, shifted by `offset`."""
    return {name: port + offset for name, port in DEFAULT_PORTS.items()}


def free_port() -> int:
    """A port of this machine that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def free_ports() -> dict[str, int]:
    """The default ports shifted to where all are free, below the range that outgoing connections use."""
    while True:
        ports = default_ports(random.randrange(10_000, 23_000, 10))
        if not any(listening(port) for port in ports.values()):
            return ports


def listening(port: int) -> bool:
    """Whether something accepts connections on the port."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def owner(port: int) -> str:
    """Who listens on a port, as far as this user may know."""
    for connection in psutil.net_connections("tcp"):
        address = connection.laddr
        if connection.status == psutil.CONN_LISTEN and connection.pid and address and address.port == port:
            try:
                process = psutil.Process(connection.pid)
                return f"{process.name()} (pid {process.pid}, user {process.username()})"
            except psutil.Error:
                break  # it ended, or may not be looked at
    return "a process of another user"


def refuse_taken(wanted: Mapping[str, int]) -> None:
    """Raises StackError, naming each taken port and who has it, unless all of these (by name) are free."""
    taken = [f"port {port} (for {name}) is taken by {owner(port)}" for name, port in wanted.items() if listening(port)]
    if taken:
        raise StackError(f"{'; '.join(taken)}. Stop what has it, or shift the stack by --port-offset")
