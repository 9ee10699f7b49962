"""A soak: one worker under a steady load for an hour, its memory, handles, threads, files and freshness all the while.

`make soak MINUTES=60`: a topic of four partitions written five ways with default settings; every table is compared
with what was sent at the end. Flat means: the last third of the run needs no more than `LIMIT` times what the second
third needed, of what mustn't grow. Writes `docs/soak.svg` and `benchmarks/results/soak.json`.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import psutil
from rich.console import Console

from benchmarks.long_report import machine
from chaos.load import Load
from chaos.pipeline import SINKS, ChaosPipeline
from sinks.factory import KEY_INDEX
from stack.ending import exit_on_sigterm
from stack.manager import running_stack
from stack.worker import WorkerProcess
from stack.worker_log import WorkerLog

ROOT = Path(__file__).parents[1]
STATE = ROOT / ".stack/soak"
RESULTS = ROOT / "benchmarks/results/soak.json"
PLOT = ROOT / "docs/soak.svg"

KEYS = 200_000
PER_SECOND = 500
INSERTS = 0.01
"""Share of the changes: about as many rows come as stay deleted, so that the tables don't grow."""
SAMPLE_SECONDS = 5.0
LIMIT = 1.1
LAST_CHECKPOINT = "_last_checkpoint"


@dataclass(frozen=True)
class Sample:
    """A moment: seconds since the load began; sizes in MB; how many records the slowest sink is behind the log."""

    at: float
    memory: float
    cpu: float
    handles: int
    threads: int
    key_index: float
    tables: float
    files: int
    metadata: float
    behind: int


BOUNDED = {
    "memory": "resident memory, MB",
    "handles": "open files and sockets",
    "threads": "threads",
    "metadata": "tables' current metadata, MB",
    "behind": "records behind the log",
}
"""What must not grow with time, under a load that doesn't."""

GROWING = {
    "key_index": "key index on disk, MB",
    "tables": "Faust's tables on disk, MB",
    "files": "files of the five tables",
    "cpu": "CPU of the worker, s",
}
"""What grows with the number of keys and rows, or goes up and down as RocksDB writes out and merges."""


class SoakPipeline(ChaosPipeline):
    """With the default settings."""

    def _sink(self, form: str, mode: str) -> dict[str, Any]:
        sink = super()._sink(form, mode)
        for name in ("batch_size", "flush_interval_seconds", "table_properties"):
            sink[form].pop(name, None)
        return sink


class Observer:
    """Takes samples of a worker."""

    def __init__(self, pipeline: ChaosPipeline, worker: WorkerProcess) -> None:
        self._pipeline, self._process = pipeline, psutil.Process(worker.pid)
        self._log = WorkerLog(worker)
        self._began = time.monotonic()

    def sample(self) -> Sample:
        """How the worker is now."""
        ends = self._pipeline.load.ends
        self._log.read()
        behind = max(sum(max(0, end - self._log.next.get(s, {}).get(tp, 0)) for tp, end in ends.items()) for s in SINKS)
        process, lake, data = self._process, _files(self._pipeline.lake), _files(self._pipeline.data)
        index = sum(size for path, size in data.items() if KEY_INDEX in path.parts)
        with process.oneshot():
            times = process.cpu_times()
            return Sample(
                at=round(time.monotonic() - self._began, 1),
                memory=round(process.memory_info().rss / 1e6, 1),
                cpu=round(times.user + times.system, 1),
                handles=process.num_fds(),
                threads=process.num_threads(),
                key_index=round(index / 1e6, 2),
                tables=round((sum(data.values()) - index) / 1e6, 2),
                files=len(lake),
                metadata=round(_metadata(lake) / 1e6, 3),
                behind=behind,
            )


def _files(folder: Path) -> dict[Path, int]:
    """Those under a folder, with their sizes."""
    found = {}
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # the worker may remove it meanwhile
            if path.is_file():
                found[path] = path.stat().st_size
    return found


def _metadata(lake: dict[Path, int]) -> int:
    """Bytes of what a reader reads before all else: Iceberg's newest metadata file of each table, and the entries of
    Delta's logs since the last checkpoint."""
    newest: dict[Path, tuple[str, int]] = {}
    checkpoints = {
        path.parent: json.loads(path.read_text())["version"] for path in lake if path.name == LAST_CHECKPOINT
    }
    entries = 0
    for path, size in lake.items():
        if path.name.endswith(".metadata.json"):
            newest[path.parent] = max(newest.get(path.parent, ("", 0)), (path.name, size))
        elif (
            path.parent.name == "_delta_log"
            and path.suffix == ".json"
            and int(path.stem) > checkpoints.get(path.parent, -1)
        ):
            entries += size
    return entries + sum(size for _, size in newest.values())


def growth(samples: Sequence[Sample], name: str) -> float:
    """The median of the last third over that of the second one."""
    third = len(samples) // 3
    middle, last = (
        statistics.median(getattr(sample, name) for sample in part)
        for part in (samples[third : 2 * third], samples[2 * third :])
    )
    return last / middle if middle else float(last > 0)


def plot(samples: Sequence[Sample]) -> None:
    """A panel for each measure, over the minutes."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "lakeward"
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(3, 3, figsize=(10, 7.5))
    for panel, (name, title) in zip(panels.flat, {**BOUNDED, **GROWING}.items(), strict=True):
        panel.plot([sample.at / 60 for sample in samples], [getattr(sample, name) for sample in samples], linewidth=1)
        panel.set_title(title, fontsize=9)
        panel.set_xlabel("minutes", fontsize=8)
        panel.set_ylim(0, None)
    figure.tight_layout()
    figure.savefig(PLOT, metadata={"Date": None})
    plt.close(figure)


def soak(minutes: float, per_second: int, console: Console) -> tuple[list[Sample], dict[str, Any]]:
    """Load, look, and compare; the samples and what was counted."""
    samples: list[Sample] = []
    with running_stack({"kafka", "registry"}) as endpoints:
        load = Load(endpoints, most=int(minutes * 60 * per_second * 1.2) + 10_000, keys=KEYS, inserts=INSERTS)
        pipeline = SoakPipeline(STATE, endpoints, load)
        try:
            load.send(KEYS)
            worker = pipeline.worker()
            worker.start()
            log = WorkerLog(worker)
            pipeline.catch_up(log)
            load.start(per_second)
            observer = Observer(pipeline, worker)
            end = time.monotonic() + minutes * 60
            while time.monotonic() < end:
                samples.append(observer.sample())
                if len(samples) % 12 == 1:
                    console.print(" ".join(f"{name}={value}" for name, value in asdict(samples[-1]).items()))
                time.sleep(SAMPLE_SECONDS)
            load.stop()
            pipeline.catch_up(log)
            commits = dict(log.committed)
            assert worker.terminate() == 0, worker.tail()
            pipeline.assert_tables_exact()
        finally:
            pipeline.close()
    return samples, {"records": sum(load.ends.values()), "commits": commits}


@click.command()
@click.option("--minutes", default=60.0, show_default=True)
@click.option("--per-second", default=PER_SECOND, show_default=True, help="Records that are sent each second.")
def main(minutes: float, per_second: int) -> None:
    """Run it; exit status 1 if something grew that mustn't."""
    exit_on_sigterm()
    console = Console(soft_wrap=True)
    shutil.rmtree(STATE, ignore_errors=True)
    STATE.mkdir(parents=True)
    samples, counts = soak(minutes, per_second, console)
    found = {name: round(growth(samples, name), 2) for name in BOUNDED}
    told = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "minutes": minutes,
        "per_second": per_second,
        **counts,
        "growth": found,
        "peak_memory_mb": max(sample.memory for sample in samples),
        "samples": [asdict(sample) for sample in samples],
    }
    RESULTS.write_text(json.dumps(told, indent=1) + "\n")
    plot(samples)
    console.print(f"every table holds exactly what was sent: {counts}")
    for name, ratio in found.items():
        console.print(f"{BOUNDED[name]}: last third / second third = {ratio:.2f}")
    sys.exit(int(any(ratio > LIMIT for name, ratio in found.items() if name != "behind")))


if __name__ == "__main__":
    main()
