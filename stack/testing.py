"""Pytest fixtures over the real stack: started once per test run, on free ports, only what the run's tests ask for.

Use: `pytest_plugins = ["stack.testing"]`. Each fixture brings what its service needs. The services end with the run,
also when it is killed. The processes of pytest-xdist share them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from stack.manager import Endpoint, Endpoints, own_state, state_of, up
from stack.ports import free_ports

StartServices = Callable[..., Endpoints]

_run = ExitStack()


def _is_helper() -> bool:
    """Whether this is one of pytest-xdist's processes, children of the one that the run belongs to."""
    return "PYTEST_XDIST_WORKER" in os.environ


def pytest_configure() -> None:
    """The run's stack is that of the process that was started, and ends with it."""
    if not _is_helper():
        _run.enter_context(own_state("tests"))


def pytest_unconfigure() -> None:
    """Stop what was started."""
    _run.close()


@pytest.fixture(scope="session")
def stack_state() -> Path:
    """The folder of the run's stack, whose name is the process that it belongs to."""
    return state_of("tests", os.getppid() if _is_helper() else os.getpid())


@pytest.fixture(scope="session")
def start_services(stack_state: Path) -> StartServices:
    """A function that starts the named services, if they aren't running yet, and returns all endpoints."""
    ports = free_ports()

    def start(*names: str) -> Endpoints:
        return up(stack_state, set(names), ports=ports, say=lambda _: None, owner=int(stack_state.name))

    return start


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
