"""Pytest fixtures over the real stack: started once per test run, on free ports, only what the run's tests ask for.

Use: `pytest_plugins = ["stack.testing"]`. Each fixture brings what its service needs. The services end with the run,
also when it is killed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from stack.manager import Endpoint, Endpoints, own_state, up
from stack.ports import free_ports

StartServices = Callable[..., Endpoints]


@pytest.fixture(scope="session")
def start_services() -> Iterator[StartServices]:
    """A function that starts the named services, if they aren't running yet, and returns all endpoints."""
    ports = free_ports()
    with own_state("tests") as state:

        def start(*names: str) -> Endpoints:
            return up(state, set(names), ports=ports, say=lambda _: None, owner=os.getpid())

        yield start


def _service(service: str, fixture_name: str) -> Callable[[StartServices], Endpoint]:
    @pytest.fixture(scope="session", name=fixture_name)
    def fixture(start_services: StartServices) -> Endpoint:
        return start_services(service)[service]

    return fixture


kafka = _service("kafka", "kafka")
registry = _service("registry", "registry")
connect = _service("connect", "connect")
postgres = _service("postgres", "postgres")
mariadb = _service("mariadb", "mariadb")
s3 = _service("s3", "s3")
rest_catalog = _service("catalog", "rest_catalog")
