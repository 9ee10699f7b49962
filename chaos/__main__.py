"""The run: changes and faults by the seed's schedule, then calm, then every table compared with its source.

Prints a trail of what happened, which is also kept in the run's folder, and at the end the counts. Exit status 1 if a
row is lost, doubled or different, or a worker stopped for good; the seed repeats the schedule.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import shutil
import statistics
import sys
import threading
from collections import Counter
from collections.abc import Callable
from itertools import count
from pathlib import Path
from time import monotonic, sleep

import click
from rich.console import Console

from chaos.changes import Kind, Script
from chaos.independent import differences
from chaos.recovery import Recovery
from chaos.scene import SESSION_TIMEOUT, Scene
from chaos.schedule import Fault, faults
from config.errors import LakewardError
from stack.ending import exit_on_sigterm
from stack.manager import down
from stack.ports import free_ports
from verify.run import verify_pipeline

STATE = Path(".stack/chaos")
WORKERS: dict[Kind, int] = {"postgres": 2, "mariadb": 1}
RATE = 4.0
"""Transactions per second and database."""
HEALED = (None, 70, 74, 75, 87)
"""Exit statuses that a supervisor's new start gets over; 87: somebody rolled the table back."""
CALM_SECONDS = 240.0
"""How long the sinks may take to catch up after the last fault."""


class Run:
    """One run of a seed."""

    def __init__(self, seed: int, minutes: float, state: Path, console: Console) -> None:
        self.seed, self.seconds = seed, minutes * 60
        self.state = state
        self._console = console
        self._began = monotonic()
        self._trail = state / "trail.txt"
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._stop = threading.Event()
        self._failures: list[str] = []
        self.counts: Counter[str] = Counter()
        self.changes: Counter[str] = Counter()
        self.recovery: dict[str, Recovery] = {}

    def say(self, text: str) -> None:
        """A line of the trail."""
        line = f"[{monotonic() - self._began:7.1f} s] {text}"
        self._console.print(line, markup=False, highlight=False)
        with self._trail.open("a") as trail:
            trail.write(line + "\n")

    def go(self) -> bool:
        """True if all tables equal their sources and no worker stopped for good."""
        self.state.mkdir(parents=True)
        scene = Scene(self.state, free_ports(), self.say)
        scripts = [Script(kind, self.seed) for kind in WORKERS]
        try:
            for script in scripts:
                connection = scene.connect(script.kind)
                connection.transaction([(statement, [()]) for statement in script.setup()])
                scene.deploy(script.kind, WORKERS[script.kind])
                self.recovery[script.kind] = Recovery()
            self._turbulence(scene, scripts)
            self._calm(scene)
            return self._compare(scene) and not self._failures
        finally:
            self._stop.set()
            scene.end()

    def _turbulence(self, scene: Scene, scripts: list[Script]) -> None:
        names = {kind: list(crew.members) for kind, crew in scene.crews.items()}
        wanted = faults(self.seed, self.seconds, names, SESSION_TIMEOUT)
        self.say(f"seed {self.seed}: {len(wanted)} faults in {self.seconds:.0f} s")
        threads = [threading.Thread(target=self._change, args=(scene, script)) for script in scripts]
        for thread in threads:
            thread.start()
        start = monotonic()
        for fault in wanted:
            self._wait(scene, start + fault.at)
            self.counts[fault.kind] += 1
            pipelines = [fault.target.split("-")[0]] if "service" not in fault.kind else list(scene.crews)
            over = self._over(fault, pipelines)
            self.say(scene.begin(fault, self._do_later, over))
        self._wait(scene, start + self.seconds)
        self._stop.set()
        for thread in threads:
            thread.join()
        self.say(f"changes made: {dict(self.changes)}")

    def _over(self, fault: Fault, pipelines: list[str]) -> Callable[[], None]:
        def over() -> None:
            for name in pipelines:
                self.recovery[name].fault_ended(fault.kind)

        return over

    def _do_later(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._later, (monotonic() + seconds, next(self._order), action))

    def _wait(self, scene: Scene, until: float) -> None:
        """Do what is due, and keep the workers running."""
        while (now := monotonic()) < until:
            while self._later and self._later[0][0] <= now:
                heapq.heappop(self._later)[2]()
            self._look(scene)
            sleep(min(0.5, max(0.0, until - monotonic())))

    def _look(self, scene: Scene) -> None:
        for name, ending in scene.supervise():
            self.counts["worker ended by itself"] += 1
            if ending.get("exit_status") not in HEALED:
                self._failures.append(f"{name} stopped for good: {ending}")
        for kind, crew in scene.crews.items():
            if (told := crew.stats()) is not None:
                self.recovery[kind].look(told)

    def _change(self, scene: Scene, script: Script) -> None:
        rng = random.Random(f"{self.seed} pace {script.kind}")
        try:
            connection = scene.connect(script.kind)
            while not self._stop.wait(rng.expovariate(RATE)):
                transaction = script.next()
                connection.transaction([(statement, [()]) for statement in transaction.statements])
                self.changes[script.kind] += transaction.changes
        except BaseException as error:  # told at the end
            self._failures.append(f"the changes of {script.kind} broke off: {error!r}")

    def _calm(self, scene: Scene) -> None:
        self.say("no more faults; waiting until the sinks have everything")
        while self._later:
            self._wait(scene, monotonic() + 0.5)
        scene.calm()
        end = monotonic() + CALM_SECONDS
        while any(recovery.is_waiting for recovery in self.recovery.values()) and monotonic() < end:
            self._wait(scene, monotonic() + 0.5)

    def _compare(self, scene: Scene) -> bool:
        equal = True
        for kind, crew in scene.crews.items():
            pipeline, platform = crew.settings.pipeline, crew.settings.platform
            report = asyncio.run(verify_pipeline(pipeline, platform, timeout=CALM_SECONDS))
            for verdict in report.verdicts:
                found = verdict.comparison
                said = verdict.unclear or (f"{found.differences} differences" if found else "no comparison")
                self.say(f"{kind} {verdict.sink_id} {verdict.table}: {said}")
                for example in found.examples[:5] if found else ():
                    self.say(f"  {example}")
            equal &= report.exit_status == 0
            for text in differences(kind, crew, scene.endpoints):
                self.say(f"{kind}: {text}")
                equal = False
        self._look(scene)
        return equal

    def summary(self, *, equal: bool) -> None:
        """What happened, in numbers."""
        self.say(f"faults: {dict(self.counts)}")
        for kind, recovery in self.recovery.items():
            for fault, seconds in sorted(recovery.seconds.items()):
                middle, most = statistics.median(seconds), max(seconds)
                self.say(f"{kind}: after {fault}: {len(seconds)} times, p50 {middle:.1f} s, max {most:.1f} s")
        for failure in self._failures:
            self.say(f"FAILED: {failure}")
        self.say("every table equals its source" if equal else f"FAILED: repeat by `make chaos SEED={self.seed}`")


@click.command()
@click.option("--seed", type=int, help="Of changes and faults; default: a new one.")
@click.option("--minutes", default=5.0, show_default=True, help="How long there are faults.")
@click.option("--state", default=STATE, type=click.Path(path_type=Path), show_default=True, help="The run's folder.")
def main(seed: int | None, minutes: float, state: Path) -> None:
    """Run a seed and compare."""
    exit_on_sigterm()
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    state = state.absolute()
    console = Console(soft_wrap=True)
    down(state, lambda _: None)
    shutil.rmtree(state, ignore_errors=True)
    run = Run(seed, minutes, state, console)
    equal = False
    try:
        equal = run.go()
        run.summary(equal=equal)
    except LakewardError as error:
        run.say(f"FAILED: {type(error).__name__}: {error}; repeat by `make chaos SEED={seed} MINUTES={minutes:g}`")
    finally:
        down(state, lambda _: None)
    sys.exit(0 if equal else 1)


if __name__ == "__main__":
    main()
