"""`make flaky`: run the suite of Spark and one format again and again, and count the tests that don't always pass.

    python tests/flaky.py delta 10    # tests/contract/test_spark_delta*.py, ten times

A line per run, then one with the count; the exit status is 1 if a test failed in any run, or a run ended early.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parent.parent


def run(files: list[str], report: Path) -> tuple[set[str], set[str], int]:
    """Run these test files once: which tests passed, which failed, and pytest's exit status."""
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", f"--junitxml={report}", *files]
    status = subprocess.run(command, cwd=ROOT, check=False, stdout=sys.stderr).returncode
    if not report.exists():
        return set(), set(), status
    passed: set[str] = set()
    failed: set[str] = set()
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        bad = any(case.find(outcome) is not None for outcome in ("failure", "error", "skipped"))
        (failed if bad else passed).add(name)
    return passed - failed, failed, status


def main(suite: str, runs: int) -> int:
    files = sorted(str(file.relative_to(ROOT)) for file in ROOT.glob(f"tests/contract/test_spark_{suite}*.py"))
    if not files:
        raise SystemExit(f"no tests/contract/test_spark_{suite}*.py")
    failures: Counter[str] = Counter()
    seen: set[str] = set()
    ended_early = 0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1, runs + 1):
            start = time.monotonic()
            passed, failed, status = run(files, Path(folder) / f"{number}.xml")
            seen |= passed | failed
            failures.update(failed)
            ended_early += status not in (0, 1) or not (passed or failed)
            seconds = time.monotonic() - start
            say(f"run {number} of {runs}: {len(passed)} passed, {len(failed)} failed, {seconds:.0f} s")
    for name, count in failures.most_common():
        say(f"failed in {count} of {runs} runs: {name}")
    flaky = sum(count < runs for count in failures.values())
    say(f"{flaky} flaky of {len(seen)} tests in {runs} runs; {len(failures) - flaky} failed always,"
        f" {ended_early} runs ended early")  # fmt: skip
    return 1 if failures or ended_early else 0


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], int(sys.argv[2])))
