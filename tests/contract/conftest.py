"""Finds the harness of every sink in this folder and makes its modules importable from each other."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`case`: every check with every sink and mode that it applies to; `harness_name`: every sink and mode."""
    if not {"case", "factory"} & set(metafunc.fixturenames):
        return
    checks = importlib.import_module("contract_checks")
    factories = {}
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
