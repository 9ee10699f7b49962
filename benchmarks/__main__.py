"""`make bench`: appends and upserts beside raw aiokafka and a plain Faust agent, alternated, medians of several rounds.

Every run's end state is checked against the seeded workload. Writes `benchmarks/results/latest.json`.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import click
import numpy as np
import psutil
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from rich.console import Console
from rich.table import Table

from benchmarks import workload
from benchmarks.lakeward import VECTORS, Services, end_state_ok, read_table, run_worker
from benchmarks.workload import PARTITIONS, Changes
from stack.manager import running_stack
from stack.ports import free_port

RESULTS = Path(__file__).parent / "results" / "latest.json"
console = Console(width=None if sys.stdout.isatty() else 120)


@dataclass(frozen=True)
class Run:
    """One timed run, as the results file holds it."""

    system: str
    format: str | None
    mode: str
    rows: int
    rows_per_s: float
    cpu_s_per_million: float
    peak_rss_mb: float
    commits: int
    end_state_ok: bool | None


@dataclass(frozen=True)
class Log:
    """A loaded topic: how many changes and records it holds, and each partition's end before and after the changes."""

    topic: str
    base_end: Mapping[int, int]
    end: Mapping[int, int]
    changes: int
    all: Changes


def load(services: Services, table: str, base: Changes | None, made: Changes) -> Log:
    """Create and fill `bench.public.{table}`: the base first, then the changes."""
    topic = f"bench.public.{table}"
    admin = AdminClient({"bootstrap.servers": services.broker})
    for future in admin.create_topics([NewTopic(topic, PARTITIONS, 1)]).values():
        future.result()
    key_id = workload.register(services.registry, f"{topic}-key", workload.KEY_SCHEMA)
    value_id = workload.register(services.registry, f"{topic}-value", workload.envelope_schema(table))
    producer = Producer({"bootstrap.servers": services.broker, "linger.ms": 20, "batch.size": 500_000})
    ends = dict.fromkeys(range(PARTITIONS), 0)
    base_end = dict(ends)
    for part in (base, made):
        if part is None:
            continue
        for partition, key, value in workload.encode(part, table, key_id, value_id):
            while True:
                try:
                    producer.produce(topic, value, key, partition)
                    break
                except BufferError:
                    producer.poll(0.1)
            ends[partition] += 1
        producer.flush()
        if part is base:
            base_end = dict(ends)
    parts = [part for part in (base, made) if part is not None]
    columns = zip(*((p.ops, p.ids, p.cents, p.statuses) for p in parts), strict=True)
    console.print(f"loaded {topic}: {sum(ends.values()):,} records")
    return Log(topic, base_end, ends, len(made), Changes(*(np.concatenate(c) for c in columns)))


def peer(kind: str, services: Services, log: Log, count: int) -> Run:
    """A peer's run in its own process."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.peers",
        kind,
        services.broker,
        log.topic,
        services.registry,
        str(count),
    ]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=900).stdout
    line = json.loads(next(text for text in output.splitlines() if text.startswith("{")))
    return Run(
        {"raw": "raw-aiokafka", "faust": "plain-faust"}[kind],
        None,
        "consume",
        line["rows"],
        line["rows"] / line["seconds"],
        line["cpu_s"] / line["rows"] * 1e6,
        line["peak_rss_mb"],
        0,
        None,
    )


def ours(services: Services, folder: Path, log: Log, format: str, mode: str) -> Run:
    """One of our runs, end state checked."""
    table = log.topic.rsplit(".", 1)[1]
    timing = run_worker(
        services, folder, table=table, format=format, mode=mode, base_end=log.base_end, end=log.end,
        rows=log.changes, web_port=free_port(),
    )  # fmt: skip
    return Run(
        "lakeward",
        format,
        mode,
        timing.rows,
        timing.rows / timing.seconds,
        timing.cpu_s / timing.rows * 1e6,
        timing.peak_rss_mb,
        timing.commits,
        end_state_ok(read_table(folder, table, format), log.all, mode),
    )


@click.command()
@click.option("--appends", default=2_000_000, show_default=True, help="Inserts of the append runs.")
@click.option("--keys", default=1_000_000, show_default=True, help="Rows of the table that is upserted.")
@click.option("--changes", default=2_000_000, show_default=True, help="Changes of the upsert runs.")
@click.option("--rounds", default=3, show_default=True, help="Rounds; the table shows medians.")
@click.option("--faust-events", default=150_000, show_default=True, help="Events for the plain agent.")
def bench(appends: int, keys: int, changes: int, rounds: int, faust_events: int) -> None:
    """Run all systems in turn and print a table with ratios."""
    runs: list[Run] = []
    with tempfile.TemporaryDirectory(prefix="lakeward-bench-") as folder, running_stack({"kafka", "registry"}) as stack:
        services = Services(stack["kafka"].address, stack["registry"].url)
        append_log = load(services, "appends", None, workload.appends(appends))
        upsert_log = load(services, "accounts", workload.snapshot(keys), workload.changes(changes, keys))
        run_folder = Path(folder, "run")
        plan: list[tuple[str, Callable[[], Run]]] = [
            ("raw-aiokafka", partial(peer, "raw", services, append_log, appends)),
            ("plain-faust", partial(peer, "faust", services, append_log, min(appends, faust_events))),
            *(
                (f"lakeward {form} {mode}", partial(ours, services, run_folder, log, form, mode))
                for mode, log in (("append", append_log), ("upsert", upsert_log))
                for form in ("iceberg", "delta", *([VECTORS] if mode == "upsert" else []))
            ),
        ]
        for number in range(1, rounds + 1):
            for name, run in plan:
                result = run()
                runs.append(result)
                verdict = (
                    "" if result.end_state_ok is None else "  rows right" if result.end_state_ok else "  ROWS WRONG"
                )
                console.print(f"round {number}: {name}: {result.rows_per_s:,.0f} rows/s{verdict}")
    show(runs)
    RESULTS.parent.mkdir(exist_ok=True)
    machine = {
        "cpus": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "python": platform.python_version(),
    }
    results = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "runs": [asdict(r) for r in runs],
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    console.print(f"written to {RESULTS}")
    if any(run.end_state_ok is False for run in runs):
        raise SystemExit(1)


def show(runs: list[Run]) -> None:
    """Medians per system, with the ratio to raw aiokafka of the same rounds."""
    groups: dict[tuple[str, str | None, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.system, run.format, run.mode), []).append(run)
    raw = statistics.median(run.rows_per_s for run in groups["raw-aiokafka", None, "consume"])
    rounds = len(next(iter(groups.values())))
    table = Table(title=f"medians of {rounds} rounds, {os.cpu_count()} cores, broker on the same machine")
    for column in (
        "system",
        "format",
        "mode",
        "rows/s",
        "x raw aiokafka",
        "CPU s / 1M rows",
        "peak MB",
        "commits",
        "rows right",
    ):
        table.add_column(column, justify="left" if column in ("system", "format", "mode") else "right")
    for (system, format, mode), group in groups.items():
        rate = statistics.median(run.rows_per_s for run in group)
        right = "-" if group[0].end_state_ok is None else "yes" if all(run.end_state_ok for run in group) else "NO"
        table.add_row(
            system,
            format or "-",
            mode,
            f"{rate:,.0f}",
            f"{rate / raw:.2f}",
            f"{statistics.median(run.cpu_s_per_million for run in group):.2f}",
            f"{max(run.peak_rss_mb for run in group):,.0f}",
            f"{statistics.median(run.commits for run in group):,.0f}",
            right,
        )
    console.print(table)


if __name__ == "__main__":
    bench()
