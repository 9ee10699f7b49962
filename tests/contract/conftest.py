"""Finds the harness of every sink in this folder and makes its modules importable from each other."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stack.readers import SMALL_DATA, spark_session

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
pytest.register_assert_rewrite("spark_delta", "spark_iceberg")


@pytest.fixture(scope="session")
def spark() -> Iterator[Any]:
    """One Spark session for all tests; each adds the catalog of its own table."""
    session = spark_session(memory="1g", more=SMALL_DATA)
    yield session
    session.stop()


@pytest.fixture
def small_tiers() -> Iterator[None]:
    """Tidying of a table of a few rows."""
    with importlib.import_module("iceberg_upkeep").small_sizes():
        yield


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`case`: every check with every sink and mode that it applies to; `harness_name`: every sink and mode."""
    if not {"case", "factory"} & set(metafunc.fixturenames):
        return
    checks = importlib.import_module("contract_checks")
    factories: dict[str, Any] = {}
    for file in sorted(HERE.glob("*_harness.py")):
        factories.update(getattr(importlib.import_module(file.stem), "HARNESSES", {}))
    if "case" in metafunc.fixturenames:
        cases = [
            pytest.param((name, factory), id=f"{label}-{name}")
            for label, factory in factories.items()
            for name in checks.checks_for(upsert=label.endswith("-upsert"))
        ]
        metafunc.parametrize("case", cases)
    else:
        metafunc.parametrize("factory", factories.values(), ids=factories.keys())
