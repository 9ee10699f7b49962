"""What an upsert commit into Delta costs, by `merge` and by `deletion_vectors`: `python -m benchmarks.delta_upserts`.

Through the sinks that a worker uses, with their upkeep, on local disk. CPU seconds and bytes per commit, means; the
rows are compared with what the commits should have made.
"""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Literal

import click
import pyarrow as pa
import structlog
from deltalake import DeltaTable, QueryBuilder

from benchmarks.long import TOPIC, Accounts, Scenario, settle
from config.pipeline import DeltaConfig
from sinks.base import Target
from sinks.delta.sink import DeltaSink
from sinks.delta.vector_sink import VectorSink
from tables.key_index import KeyIndex

LOAD = 250_000
"""Rows of one commit of the load."""


def run(folder: Path, upserts: Literal["merge", "deletion_vectors"], keys: int, changes: int, commits: int) -> str:
    """One way: its line of the table. Raises AssertionError if the rows are wrong."""
    config = DeltaConfig(table_uri=str(folder / "table"), write_mode="upsert", upserts=upserts)
    target = Target("bench", "delta", (TOPIC,), str(folder / "table"))
    accounts = Accounts(Scenario("uniform", (), "disk", keys))
    vectors = upserts == "deletion_vectors"
    sink = VectorSink(config, target, KeyIndex.shared(folder / "index")) if vectors else DeltaSink(config, target)
    with closing(sink):
        sink.open()
        for first in range(0, keys, LOAD):
            sink.write(accounts.load(first, min(LOAD, keys - first)))
            sink.tidy()
        settle(sink, lambda: DeltaTable(folder / "table").version())
        cpu, wall, written, sizes = 0.0, 0.0, 0, _sizes(folder / "table")
        for _ in range(commits):
            batch = accounts.changes(changes)
            cpu_began, began = time.process_time(), time.monotonic()
            sink.write(batch)
            sink.tidy()
            cpu, wall = cpu + time.process_time() - cpu_began, wall + time.monotonic() - began
            now = _sizes(folder / "table")
            written += sum(size for path, size in now.items() if path not in sizes)
            sizes = now
    query = "SELECT count(*) AS n, sum(id) AS i, sum(version) AS v FROM t"
    found = QueryBuilder().register("t", DeltaTable(folder / "table")).execute(query).read_all()
    assert tuple(pa.table(found).to_pylist()[0].values()) == accounts.checks()
    return (
        f"| {keys:,} | {changes:,} | {upserts} ({commits}) | {cpu / commits:.3f} | {wall / commits:.3f}"
        f" | {written / commits / 1e6:.2f} |\n"
    )


def _sizes(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}


@click.command()
@click.option("--keys", default=1_000_000, show_default=True, help="Rows of the table.")
@click.option("--changes", default=2_000, show_default=True, help="Changes of a commit.")
@click.option("--commits", default=20, show_default=True, help="Commits by vectors; a quarter of them by merges.")
def main(keys: int, changes: int, commits: int) -> None:
    """Measure both ways, and print a Markdown table."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    sys.stdout.write("| rows | changes | upserts (commits) | CPU s | s | MB |\n|---:|---:|---|---:|---:|---:|\n")
    with tempfile.TemporaryDirectory(prefix="lakeward-delta-") as folder:
        for upserts, count in (("deletion_vectors", commits), ("merge", max(1, commits // 4))):
            sys.stdout.write(run(Path(folder), upserts, keys, changes, count))  # type: ignore[arg-type]  # one of both
            sys.stdout.flush()
            shutil.rmtree(folder)
            Path(folder).mkdir()


if __name__ == "__main__":
    main()
