"""Pytest fixtures over the real stack: started once per test run, on free ports, only what the run's tests ask for.

Use: `pytest_plugins = ["stack.testing"]`. Each fixture brings what its service needs. The services end with the run,
also when it is killed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator

import pytest

from stack import dist
from stack.manager import Endpoint, Endpoints, down, up
from stack.ports import free_ports

StartServices = Callable[..., Endpoints]


@pytest.fixture(scope="session")
def start_services() -> Iterator[StartServices]:
    """A function that starts the named services, if they aren't running yet, and returns all endpoints."""
    state = dist.REPOSITORY / ".stack" / "tests" / str(os.getpid())
    shutil.rmtree(state, ignore_errors=True)
    ports = free_ports()

    def start(*names: str) -> Endpoints:
        return up(state, set(names), ports=ports, say=lambda _: None, owner=os.getpid())

    yield start
    down(state, lambda _: None)
    shutil.rmtree(state, ignore_errors=True)


def _service(name: str) -> Callable[[StartServices], Endpoint]:
    @pytest.fixture(scope="session", name=name.replace("-", "_"))
    def fixture(start_services: StartServices) -> Endpoint:
        return start_services(name)[name]

    return fixture  # type: ignore[return-value]


kafka = _service("kafka")
registry = _service("registry")
connect = _service("connect")
postgres = _service("postgres")
mariadb = _service("mariadb")
s3 = _service("s3")
rest_catalog = pytest.fixture(scope="session", name="rest_catalog")(
    lambda start_services: start_services("catalog")["catalog"]
)
