"""The folder that a worker owns."""

from __future__ import annotations

import shutil
from pathlib import Path

from app.worker_dir import WorkerDir


def test_a_worker_takes_the_first_folder_that_nobody_owns_and_finds_its_own_again(tmp_path: Path) -> None:
    first, second = WorkerDir.acquire(tmp_path), WorkerDir.acquire(tmp_path)
    assert (first.path.name, second.path.name) == ("worker-0", "worker-1")
    assert first.instance_id != second.instance_id
    first._lock.close()
    assert WorkerDir.acquire(tmp_path).instance_id == first.instance_id


def test_a_copied_folder_is_another_member(tmp_path: Path) -> None:
    original = WorkerDir.acquire(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    copy = WorkerDir.acquire(tmp_path / "b")
    assert copy.instance_id != original.instance_id
    copy._lock.close()
    assert WorkerDir.acquire(tmp_path / "b").instance_id == copy.instance_id
