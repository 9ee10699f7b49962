"""Where `cdc verify` is tried: a deployed pipeline with its worker, a writer that never rests, and damage."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from click.testing import CliRunner
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError
from deployments import files, gone, new_worker, quiet, watched, written
from pyiceberg.exceptions import CommitFailedException

from app.commands.verify import verify
from app.deployment import deploy
from config.environment import Settings
from sinks.factory import TablePlan, plan_tables
from sinks.iceberg.catalog import connect
from stack.manager import Endpoints
from stack.worker import WorkerProcess


class Place:
    """One pipeline. Use `running()`; then `verify` is the command as users type it."""

    def __init__(self, folder: Path, services: Endpoints, name: str, source: dict[str, Any], sinks: list[Any]) -> None:
        self.folder = folder
        self.settings: Settings = written(folder, services, name, source, sinks)

    @contextmanager
    def running(self) -> Iterator[WorkerProcess]:
        """Connector and worker for as long as the block lasts."""
        worker = new_worker(self.folder)
        asyncio.run(deploy(self.settings.pipeline, self.settings.platform, quiet, quiet))
        try:
            worker.start()
            with watched(worker):
                yield worker
        finally:
            asyncio.run(gone(self.settings))

    def verify(self, *options: str) -> tuple[int, dict[tuple[str, str], dict[str, Any]]]:
        """Exit status, and what was found of each (sink, table)."""
        pipeline, platform = map(str, files(self.folder))
        command = [pipeline, "--platform-config", platform, "--format", "json", "--timeout", "300", *options]
        done = CliRunner().invoke(verify, command)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        assert done.stdout, done.stderr
        report = json.loads(done.stdout)
        assert report["exit_status"] == done.exit_code
        return done.exit_code, {(t["sink_id"], t["table"].split(".")[1]): t for t in report["tables"]}

    def plan(self, sink_id: str, table: str) -> TablePlan:
        """The table that a source table is written into."""
        plans = plan_tables(self.settings.pipeline, [sink_id])
        return next(plan for plan in plans if plan.target.topics[0].endswith(f".{table}"))


class Damage:
    """Somebody else's changes of a sink's table, by key `id`, while the worker goes on writing it."""

    def __init__(self, plan: TablePlan) -> None:
        self._plan = plan

    def rows(self, *keys: int) -> pa.Table:
        """The rows with these keys."""
        if self._plan.settings.__class__.__name__ == "IcebergConfig":
            found = self._iceberg().scan(row_filter=f"id IN ({_listed(keys)})").to_arrow()
        else:
            found = DeltaTable(self._plan.target.name).to_pyarrow_table()
            found = found.filter(pc.is_in(found.column("id"), pa.array(keys, pa.int64())))
        return found

    def delete(self, *keys: int) -> None:
        """Take rows away."""
        if self._plan.settings.__class__.__name__ == "IcebergConfig":
            self._again(lambda: self._iceberg().delete(f"id IN ({_listed(keys)})"))
        else:
            self._again(lambda: DeltaTable(self._plan.target.name).delete(f"id IN ({_listed(keys)})"))

    def add(self, rows: pa.Table) -> None:
        """Put rows in."""
        if self._plan.settings.__class__.__name__ == "IcebergConfig":
            self._again(lambda: self._iceberg().append(rows))
        else:
            self._again(lambda: write_deltalake(self._plan.target.name, rows, mode="append"))

    def change(self, key: int, **values: Any) -> None:
        """Give the row with this key other values."""
        self.replace(key, lambda row: row | values)

    def replace(self, key: int, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """Take the rows with this key away and put others in."""
        rows = self.rows(key)
        self.delete(key)
        self.add(pa.Table.from_pylist([change(row) for row in rows.to_pylist()], rows.schema))

    def _iceberg(self) -> Any:
        return connect(self._plan.settings).load_table(self._plan.target.name)  # type: ignore[arg-type]

    def _again(self, write: Callable[[], Any]) -> None:
        """The worker commits, too: a lost race is tried again."""
        for _ in range(100):
            try:
                write()
            except (CommitFailedException, CommitFailedError):
                time.sleep(0.2)
            else:
                return
        raise AssertionError("lost 100 races")


def _listed(keys: tuple[int, ...]) -> str:
    return ", ".join(map(str, keys))


class Writer:
    """Changes the source from a thread of its own until it is stopped; what it raises is raised by `stop`."""

    def __init__(self, step: Callable[[int], None], pause: float = 0.05) -> None:
        self._step = step
        self._pause = pause
        self._stopping = threading.Event()
        self._going = threading.Event()
        self._going.set()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self.steps = 0

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._going.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    @contextmanager
    def resting(self) -> Iterator[None]:
        """No changes in the block, so that somebody else can win a race against the worker's commits."""
        self._going.clear()
        try:
            yield
        finally:
            self._going.set()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._going.wait()
                self._step(self.steps)
                self.steps += 1
                time.sleep(self._pause)
        except BaseException as error:
            self._error = error
