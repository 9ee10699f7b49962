"""The architecture's arrows: config <- sources <- tables <- sinks <- agents <- app; Faust only where it belongs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

MAY_IMPORT = {
    "config": set(),
    "sources": {"config"},
    "tables": {"config", "sources"},
    "sinks": {"config", "sources", "tables"},
    "agents": {"config", "sources", "tables", "sinks"},
    "verify": {"config", "sources", "sinks"},
    "stack": {"config"},
    "app": {"config", "sources", "tables", "sinks", "agents", "verify", "stack"},
}
MAY_IMPORT_FAUST = (
    "agents/",
    "app/",
    "sources/kafka/",
    "tables/files.py",
    "tables/recovery.py",
    "tables/schema_versions.py",
    "tables/sink_watermarks.py",
)

FILES = sorted(path for room in MAY_IMPORT for path in (ROOT / room).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports, anywhere in it."""
    packages = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            packages |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            packages.add((node.module or "").split(".")[0])
    return packages


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_what_stands_below_it(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    wrong = (imported(path) & MAY_IMPORT.keys()) - MAY_IMPORT[room] - {room}
    assert not wrong, f"{room}/ may not import {sorted(wrong)}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_faust_is_imported_only_where_streams_are_handled(path: Path) -> None:
    relative = path.relative_to(ROOT).as_posix()
    if "faust" in imported(path):
        assert relative.startswith(MAY_IMPORT_FAUST), f"{relative} imports faust"


def test_no_module_is_longer_than_400_lines() -> None:
    long = {str(p.relative_to(ROOT)): n for p in FILES if (n := len(p.read_text().splitlines())) > 400}
    assert not long


def test_the_sink_contract_stays_short() -> None:
    assert len((ROOT / "sinks/base.py").read_text().splitlines()) < 150
