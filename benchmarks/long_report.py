"""What the long benchmark found, as lines, JSON, `docs/benchmarks.md` and its plot."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from rich.console import Console

if TYPE_CHECKING:
    from benchmarks.long import Checkpoint, Result

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "benchmarks" / "results" / "long.json"
PAGE = REPOSITORY / "docs" / "benchmarks.md"
PLOT = REPOSITORY / "docs" / "long-run.svg"

EARLY = slice(100, 500)
LATE = 500


def line(name: str, checkpoint: Checkpoint) -> str:
    """A checkpoint in one line."""
    scans = ", ".join(f"{reader} {scan.seconds:.2f} s" for reader, scan in checkpoint.scans.items())
    return (
        f"{name}: commit {checkpoint.commit:,}: p50 {checkpoint.commit_p50_s * 1e3:.0f} ms,"
        f" p95 {checkpoint.commit_p95_s * 1e3:.0f} ms, max {checkpoint.commit_max_s * 1e3:.0f} ms,"
        f" CPU {checkpoint.commit_cpu_s * 1e3:.0f} ms, {checkpoint.data_files} + {checkpoint.delete_files} files;"
        f" scan {scans or 'not measured'}; rows right"
    )


def cpu_ratio(result: Result) -> float | None:
    """CPU of the last 500 commits over that of commits 100 to 500; None for a run too short to tell."""
    if len(result.cpu_s) < EARLY.stop + LATE:
        return None
    return float(np.mean(result.cpu_s[-LATE:]) / np.mean(result.cpu_s[EARLY]))


def scan_ratios(result: Result) -> dict[str, float]:
    """Each reader's CPU for a scan within the last 500 commits over that for one at commits 100 to 500 (means)."""
    commits = result.checkpoints[-1].commit
    if commits < EARLY.stop + LATE:
        return {}
    early = [c for c in result.checkpoints if EARLY.start <= c.commit <= EARLY.stop]
    late = [c for c in result.checkpoints if c.commit > commits - LATE]
    return {reader: _scan_cpu_s(late, reader) / _scan_cpu_s(early, reader) for reader in late[-1].scans}


def _scan_cpu_s(checkpoints: Sequence[Checkpoint], reader: str) -> float:
    return float(np.mean([checkpoint.scans[reader].cpu_s for checkpoint in checkpoints]))


def is_flat(result: Result, limit: float) -> bool:
    """Whether neither commits nor scans came to cost more than `limit` times of what they cost early on."""
    ratios = [cpu_ratio(result) or 0.0, *scan_ratios(result).values()]
    return all(ratio <= limit for ratio in ratios)


@dataclass(frozen=True)
class SizeCost:
    """What a table of so many million rows costs: CPU µs per changed row, that over the smallest table's, bytes of the
    key index per key, and seconds (CPU) of the first commit without a key index."""

    millions: float
    change_us: float
    ratio: float
    index_bytes: float
    lost_index_s: float
    lost_index_cpu_s: float


def by_size(results: Sequence[Result]) -> list[SizeCost]:
    """Of the short runs over tables of several sizes."""
    short = sorted((r for r in results if cpu_ratio(r) is None), key=lambda r: r.scenario.keys)
    costs = [float(np.mean(r.cpu_s)) / r.changes * 1e6 for r in short]
    return [
        SizeCost(r.scenario.keys / 1e6, cost, cost / costs[0], r.checkpoints[-1].index_bytes / r.scenario.keys,
                 r.lost_index_s, r.lost_index_cpu_s)
        for r, cost in zip(short, costs, strict=True)
    ]  # fmt: skip


def show(results: Sequence[Result], console: Console) -> None:
    """The ratios."""
    for result in results:
        ratio = cpu_ratio(result)
        if ratio is not None:
            scans = ", ".join(f"{reader} {r:.2f}" for reader, r in scan_ratios(result).items())
            console.print(f"{result.scenario.name}: commits x {ratio:.2f}, scans x {scans}")
    for cost in by_size(results):
        console.print(
            f"{cost.millions:g}M rows: {cost.change_us:.1f} µs of CPU per change, x {cost.ratio:.2f};"
            f" index {cost.index_bytes:.1f} bytes per key; a commit that rebuilds it {cost.lost_index_s:.1f} s"
            f" ({cost.lost_index_cpu_s:.1f} s of CPU)"
        )


def machine() -> str:
    """Where this runs."""
    return f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB"


def read() -> list[dict[str, Any]]:
    """The results that were written before."""
    return list(json.loads(RESULTS.read_text())) if RESULTS.exists() else []


def write(results: Sequence[Result]) -> None:
    """The results file, a line for each result, the page and its plot."""
    lines = [json.dumps(asdict(result)) for result in results]
    RESULTS.write_text("[" + ",\n".join(lines) + "]\n")
    PAGE.write_text(page(results))
    plot(results)


def page(results: Sequence[Result]) -> str:
    """`docs/benchmarks.md`."""
    lines = [
        "# An upsert table through thousands of commits",
        "",
        "Printed by `make bench-long`; object store and catalog are on the same machine.",
        "",
        "Each table gets its rows, then commits of some thousand changes (a tenth deletes) through the sink that a",
        "worker uses, with default settings; nobody runs maintenance. At checkpoints PyIceberg, DuckDB and Spark 3.5",
        "read all of it, each in a process of its own, and the rows are checked against what the commits should have",
        "made. Flat is what costs at most 1.5 times as much CPU in the last 500 commits as in commits 100 to 500.",
        "",
        "![commits and scans over the number of commits](long-run.svg)",
        "",
    ]
    for result in results:
        lines += _section(result)
    sizes = by_size(results)
    if sizes:
        heads = ["rows", "CPU per changed row", "ratio", "key index per key", "a commit that rebuilds the index (CPU)"]
        lines += ["## Cost by the table's size", "", "Over 300 commits, once what the load left is tidied.", ""]
        lines += ["| " + " | ".join(heads) + " |", "|" + "---:|" * len(heads)]
        lines += [
            f"| {c.millions:g}M | {c.change_us:.1f} µs | {c.ratio:.2f} | {c.index_bytes:.1f} bytes"
            f" | {c.lost_index_s:.1f} s ({c.lost_index_cpu_s:.1f} s) |"
            for c in sizes
        ]
        lines.append("")
    return "\n".join(lines)


def _section(result: Result) -> list[str]:
    readers = list(result.checkpoints[-1].scans)
    heads = ["commit", "p50", "p95", "max", "CPU", "written", "data files", "delete files", "table", "manifests",
             "metadata", "index", *(f"{reader} (CPU, peak)" for reader in readers)]  # fmt: skip
    lines = [f"## {result.scenario.name}", "", f"{result.at[:10]}, {result.machine}.", ""]
    ratio = cpu_ratio(result)
    if ratio is not None:
        scans = ", ".join(f"{reader} {r:.2f}" for reader, r in scan_ratios(result).items())
        lines += [f"Commits late / early: **{ratio:.2f}**; scans: **{scans}**.", ""]
    lines += ["| " + " | ".join(heads) + " |", "|" + "---:|" * len(heads)]
    for c in result.checkpoints:
        cells = [
            f"{c.commit:,}",
            *(
                f"{seconds * 1e3:.0f} ms"
                for seconds in (c.commit_p50_s, c.commit_p95_s, c.commit_max_s, c.commit_cpu_s)
            ),
            _size(c.bytes_per_commit),
            str(c.data_files),
            str(c.delete_files),
            _size(c.table_bytes),
            str(c.manifests),
            _size(c.metadata_bytes),
            _size(c.index_bytes),
            *(f"{s.seconds:.2f} s ({s.cpu_s:.2f} s, {s.peak_rss_mb:,.0f} MB)" for s in map(c.scans.get, readers) if s),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def _size(count: float) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def plot(results: Sequence[Result]) -> None:
    """CPU per commit (means of 50) and per scan, over the commits; a colour per scenario, a dash per reader."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "lakeward"
    from matplotlib import pyplot as plt

    runs = [result for result in results if cpu_ratio(result) is not None] or list(results)
    figure, (commits, scans) = plt.subplots(1, 2, figsize=(11, 4))
    styles = dict(zip(runs[0].checkpoints[-1].scans, ("-", "--", ":"), strict=False)) if runs else {}
    for number, result in enumerate(runs):
        cpu = np.array(result.cpu_s)
        cpu = cpu[: len(cpu) // 50 * 50].reshape(-1, 50).mean(axis=1) * 1e3 if len(cpu) >= 50 else cpu * 1e3
        at = np.linspace(0, len(result.cpu_s), len(cpu))
        commits.plot(at, cpu, label=result.scenario.name, linewidth=1, color=f"C{number}")
        for reader, style in styles.items():
            points = [(c.commit, c.scans[reader].cpu_s) for c in result.checkpoints if reader in c.scans]
            scans.plot(*zip(*points, strict=True), style, marker=".", linewidth=1, color=f"C{number}")
    commits.set(title="one commit with its tidying", xlabel="commits", ylabel="CPU, ms", ylim=(0, None))
    commits.legend(fontsize=6)
    scans.set(title="reading the whole table", xlabel="commits", ylabel="CPU, s", ylim=(0, None))
    for reader, style in styles.items():
        scans.plot([], [], style, color="black", linewidth=1, label=reader)
    scans.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(PLOT, metadata={"Date": None})
    plt.close(figure)
