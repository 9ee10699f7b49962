"""Limits of a worker's memory, and what it says of those that are too small."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from app import memory
from app.memory import Limit, container
from config.errors import ConfigurationError

MB = 1 << 20


def limit(free: int) -> Callable[[], Iterator[Limit]]:
    return lambda: iter([Limit("room", 4096 * MB, free)])


def group(folder: Path, bound: str, used: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{bound}\n")
    (folder / "memory.current").write_text(f"{used}\n")


def test_every_group_above_the_worker_bounds_it(tmp_path: Path) -> None:
    root, own = tmp_path / "cgroup", tmp_path / "own"
    own.write_text("4:memory:/old\n0::/pods/worker\n")
    group(root / "pods/worker", str(900 * MB), 300 * MB)
    group(root / "pods", str(2000 * MB), 1500 * MB)
    root.joinpath("memory.stat").write_text("")
    assert [(found.bound, found.free) for found in container(root, own)] == [
        (900 * MB, 600 * MB),
        (2000 * MB, 500 * MB),
    ]
    group(root / "pods/worker", "max", 300 * MB)
    assert [found.free for found in container(root, own)] == [500 * MB]


def test_machines_without_such_groups_have_no_limit(tmp_path: Path) -> None:
    own = tmp_path / "own"
    assert not list(container(tmp_path, own))
    own.write_text("4:memory:/old\n")
    assert not list(container(tmp_path, own))
    own.write_text("0::/\n")
    assert not list(container(tmp_path, own))


def test_an_address_space_that_is_too_small_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "container", limit(4096 * MB))
    monkeypatch.setattr(memory, "address_space", limit(1152 * MB))
    memory.check(tables=5)
    with pytest.raises(
        ConfigurationError, match=r"4096 MB, of which 1152 MB are free: 1280 MB should be, for 6 tables"
    ):
        memory.check(tables=6)


def test_a_container_that_may_be_too_small_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "address_space", lambda: iter(()))
    monkeypatch.setattr(memory, "container", limit(896 * MB))
    with capture_logs() as logs:
        memory.check(tables=5)
        assert not logs
        memory.check(tables=6)
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("worker.memory_tight", "warning")]
    assert "1024 MB should be, for 6 tables" in logs[0]["reason"]
