"""What an upsert commit costs, by our deletion vectors and by delta-rs' MERGE, and what a scan costs afterwards.

Each scenario runs in a process of its own, each scan in another one; the results are appended to a file of JSON lines.
`python -m benchmarks.deletion_vectors.costs run --out FILE`, `… show FILE`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np
from deltalake import DeltaTable, Transaction

from benchmarks.deletion_vectors import log, readers
from benchmarks.deletion_vectors.writer import Upserts
from benchmarks.long import COLUMNS, PARTITIONS, TOPIC, Accounts, Scenario
from benchmarks.measure import Watch
from sinks.base import Batch
from sinks.delta import commit
from sinks.delta.schema import table_columns
from sinks.reduce import reduce, union_changelog
from sources.changes import TopicPartition
from tables.key_index import KeyIndex

Way = Literal["vectors", "vectors, feed written", "MERGE"]
READERS = ("delta-rs", "DuckDB", "Polars", "Spark")
CHECKPOINT_EVERY = 20
GRACE_MS = 20_000
QUERY = (
    "SELECT count(*) AS n, sum(id) AS i, sum(version) AS v, max(owner) AS o, max(balance) AS b, max(status) AS s,"
    " max(updated) AS u, max(note) AS m FROM t"
)


@dataclass(frozen=True)
class Case:
    """One run: how it writes, how large the table is, how keys are drawn, how many changes and commits."""

    way: Way
    keys: int
    draw: str
    changes: int
    commits: int
    scans: tuple[int, ...] = ()


@dataclass
class Outcome:
    """CPU seconds of the commits (and of the tidying in them), bytes written, the table at the end, and scans."""

    case: Case
    load_cpu_s: float = 0.0
    cpu_s: list[float] = field(default_factory=list)
    wall_s: list[float] = field(default_factory=list)
    tidy_cpu_s: list[float] = field(default_factory=list)
    bytes_written: list[int] = field(default_factory=list)
    log_bytes: int = 0
    table_bytes: int = 0
    files: int = 0
    peak_rss_mb: float = 0.0
    scans: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)


def run_case(case: Case) -> Outcome:
    """Load, commit, scan. Raises if a reader's sums aren't those of the commits."""
    outcome = Outcome(case)
    accounts = Accounts(Scenario(case.draw, (), "disk", case.keys))
    with tempfile.TemporaryDirectory(prefix="lakeward-costs-") as folder:
        with _writer(case, Path(folder)) as (load, write, tidy):
            began = time.process_time()
            load([accounts.load(n, min(250_000, case.keys - n)) for n in range(0, case.keys, 250_000)])
            outcome.load_cpu_s = time.process_time() - began
            sizes = _sizes(Path(folder, "table"))
            for number in range(1, case.commits + 1):
                batch = accounts.changes(case.changes)
                cpu, wall = time.process_time(), time.monotonic()
                write(batch)
                between = time.process_time()
                tidy(number)
                outcome.cpu_s.append(time.process_time() - cpu)
                outcome.wall_s.append(time.monotonic() - wall)
                outcome.tidy_cpu_s.append(time.process_time() - between)
                now = _sizes(Path(folder, "table"))
                outcome.bytes_written.append(sum(size for path, size in now.items() if path not in sizes))
                sizes = now
                if number in case.scans:
                    outcome.scans[str(number)] = _scans(f"{folder}/table", accounts.checks())
        outcome.log_bytes = sum(size for path, size in sizes.items() if "_delta_log" in path)
        table = DeltaTable(f"{folder}/table")
        outcome.files = len(table.file_uris())
        live = set(table.file_uris())
        outcome.table_bytes = sum(size for path, size in sizes.items() if path in live or f"file://{path}" in live)
    outcome.peak_rss_mb = Watch().peak_rss_mb()
    return outcome


Steps = tuple[Callable[[list[Batch]], None], Callable[[Batch], object], Callable[[int], object]]


@contextmanager
def _writer(case: Case, folder: Path) -> Iterator[Steps]:
    """How a case loads, writes and tidies."""
    uri = str(folder / "table")
    if case.way == "MERGE":
        yield _merging(uri)
        return
    store = log.local_store(folder / "table")
    log.create(store, table_columns(tuple(COLUMNS)), (), feed=True)
    index = KeyIndex.shared(folder / "index")
    tps = [TopicPartition(TOPIC, n) for n in range(PARTITIONS)]
    writer = Upserts(store, index, tps, ("id",), feed="written" if "written" in case.way else "derived", prefix="_dv")

    def load(batches: list[Batch]) -> None:
        for batch in batches:
            writer.write(batch)
            writer.tidy()

    def tidy(number: int) -> None:
        writer.tidy()
        if number % CHECKPOINT_EVERY == 0:
            DeltaTable(uri).create_checkpoint()
            writer.clean(GRACE_MS)

    try:
        yield load, writer.write, tidy
    finally:
        index.close()


def _merging(uri: str) -> Steps:
    columns = table_columns(tuple(COLUMNS))
    commit.create(
        uri, {}, columns, [], key=("id",), write_mode="upsert", partition_by=(), change_data_feed=True
    )  # fmt: skip

    def offsets(batch: Batch) -> list[Transaction]:
        return [Transaction(f"bench/{tp.topic}/{tp.partition}", span.next) for tp, span in batch.ranges.items()]

    def load(batches: list[Batch]) -> None:
        for batch in batches:  # distinct new keys: an append makes the rows that a MERGE would
            commit.append(DeltaTable(uri), columns, union_changelog(batch.changes), offsets(batch))
        DeltaTable(uri).optimize.compact()

    def write(batch: Batch) -> None:
        commit.merge(DeltaTable(uri), columns, reduce(batch), offsets(batch))

    return load, write, lambda _: None


def _sizes(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def _scans(uri: str, expected: tuple[int, int, int]) -> dict[str, tuple[float, float]]:
    """Seconds and CPU seconds of each reader."""
    found = {}
    for reader in READERS:
        command = [sys.executable, "-m", __spec__.name, "scan", reader, uri]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
        if done.returncode:
            raise RuntimeError(f"{reader} failed: {done.stderr[-2000:]}")
        seconds, cpu, *sums = json.loads(done.stdout.splitlines()[-1])
        if tuple(sums) != expected:
            raise RuntimeError(f"{reader} reads {sums}, should be {expected}")
        found[reader] = (seconds, cpu)
    return found


@click.group()
def main() -> None:
    """The cost of upserts into Delta."""


@main.command()
@click.argument("reader")
@click.argument("uri")
def scan(reader: str, uri: str) -> None:
    """The best of three scans: seconds, CPU seconds, rows, sum of ids, sum of versions."""
    session = readers.spark_session() if reader == "Spark" else None
    openers: dict[str, Callable[[], readers.Ask]] = {
        "delta-rs": lambda: readers.delta_rs(uri),
        "DuckDB": lambda: readers.duckdb(uri),
        "Polars": lambda: readers.polars(uri),
        "Spark": lambda: readers.spark(session, uri),
    }
    watch = Watch(family=True)
    best: tuple[float, float, Any] | None = None
    for _ in range(3):
        watch.mark()
        began = time.monotonic()
        row = openers[reader]()(QUERY).to_pylist()[0]  # opening the table is a part of it
        seconds = time.monotonic() - began
        if best is None or seconds < best[0]:
            best = seconds, watch.cpu_seconds(), row
    assert best is not None
    sys.stdout.write(json.dumps([best[0], best[1], *(int(best[2][name]) for name in "niv")]) + "\n")


@main.command()
@click.argument("spec")
def one(spec: str) -> None:
    """One case, told as JSON."""
    told = json.loads(spec)
    outcome = run_case(Case(**{**told, "scans": tuple(told["scans"])}))
    sys.stdout.write(json.dumps(asdict(outcome)) + "\n")


@main.command()
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--keys", type=int, multiple=True, default=(100_000, 1_000_000, 5_000_000))
@click.option("--long/--no-long", "lasting", default=True, help="Also 300 commits with scans on the way.")
def run(out: Path, keys: tuple[int, ...], lasting: bool) -> None:
    """All cases; those that the file has already are left out."""
    cases = []
    for size in keys:
        for changes in (2_000, 50_000):
            for draw in ("uniform", "zipf"):
                cases.append(Case("vectors", size, draw, changes, 20))
                cases.append(Case("MERGE", size, draw, changes, 4))
            cases.append(Case("vectors, feed written", size, "uniform", changes, 10))
    if lasting:
        cases += [Case("vectors", 1_000_000, draw, 2_000, 300, (10, 100, 300)) for draw in ("uniform", "zipf")]
        cases += [Case("MERGE", 1_000_000, "uniform", 2_000, 10, (10,))]
    done = {json.dumps(o["case"]) for o in _outcomes(out)} if out.exists() else set()
    for case in cases:
        if json.dumps(asdict(case)) in done:
            continue
        command = [sys.executable, "-m", __spec__.name, "one", json.dumps(asdict(case))]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode:
            sys.stderr.write(f"{case}: {ran.stderr[-1500:]}\n")
            continue
        with out.open("a") as file:
            file.write(ran.stdout.splitlines()[-1] + "\n")


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
def show(file: Path) -> None:
    """The figures as Markdown tables."""
    lines = [
        "| rows | keys | changes | way | CPU s per commit | of it tidying | s per commit | MB per commit | peak MB |",
        "|---:|---|---:|---|---:|---:|---:|---:|---:|",
    ]
    scans = ["| keys | way | commits | reader | s | CPU s |", "|---|---|---:|---|---:|---:|"]
    for o in _outcomes(file):
        case = o["case"]
        cpu, tidy, wall, size = (float(np.mean(o[n])) for n in ("cpu_s", "tidy_cpu_s", "wall_s", "bytes_written"))
        lines.append(
            f"| {case['keys']:,} | {case['draw']} | {case['changes']:,} | {case['way']} ({case['commits']}) | {cpu:.3f}"
            f" | {tidy:.3f} | {wall:.3f} | {size / 1e6:.2f} | {o['peak_rss_mb']:.0f} |"
        )
        for commits, found in o["scans"].items():
            for reader, (seconds, cpu) in found.items():
                scans.append(f"| {case['draw']} | {case['way']} | {commits} | {reader} | {seconds:.2f} | {cpu:.2f} |")
    sys.stdout.write("\n".join(lines) + "\n\n" + "\n".join(scans) + "\n")


def _outcomes(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


if __name__ == "__main__":
    main()
