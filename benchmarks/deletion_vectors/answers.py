"""What readers answered: the matrix of the checks, and what tells a right answer from a wrong one."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from benchmarks.deletion_vectors.readers import Ask
from benchmarks.long import STATUSES

State = dict[int, int]
"""The version of each key's row: all else of the row follows from it."""


@dataclass
class Matrix:
    """What each reader said in each situation."""

    cells: dict[str, dict[str, str]] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    def note(self, situation: str, reader: str, check: Callable[[], str]) -> None:
        """Run one check: it returns what is wrong, or an empty text."""
        try:
            wrong = check()
            verdict = "WRONG" if wrong else "right"
        except Exception as error:
            wrong, verdict = " ".join(str(error).split())[:300], "refused"
        self.cells.setdefault(situation, {})[reader] = verdict
        if wrong:
            self.reasons.append(f"{situation} / {reader}: {verdict}: {wrong}")
        sys.stderr.write(f"{situation} / {reader}: {verdict} {wrong}\n")

    def markdown(self) -> str:
        """The matrix, and the reasons below it."""
        names = list(dict.fromkeys(name for row in self.cells.values() for name in row))
        lines = [f"| situation | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
        for situation, row in self.cells.items():
            lines.append(f"| {situation} | {' | '.join(row.get(name, '-') for name in names)} |")
        return "\n".join(lines) + "\n\n" + "\n".join(f"- {reason}" for reason in self.reasons) + "\n"


def rows_wrong(ask: Ask, state: State) -> str:
    """What is wrong in the answers of a reader: all rows, and queries that might be answered from statistics."""
    found = ask("SELECT id, version, owner, note, status FROM t")
    rows = list(zip(*(found[name].to_pylist() for name in ("id", "version")), strict=True))
    if Counter(rows) != Counter(state.items()):
        extra, missing = Counter(rows) - Counter(state.items()), Counter(state.items()) - Counter(rows)
        return f"{len(rows)} rows for {len(state)}: {extra.total()} too many, {missing.total()} missing"
    for key, version, owner, note, status in zip(*(found[n].to_pylist() for n in found.column_names), strict=True):
        if status != STATUSES[version % 4]:
            return f"the status of {key} is {status}, not {STATUSES[version % 4]}"
        if owner != f"owner {key:08d}" or note not in (f"note of change {version}", "spark"):
            return f"the row of {key} isn't its own: {owner}, {note}"
    ids, versions = np.array(list(state)), np.array(list(state.values()))
    middle, late = int(np.median(ids)), int(np.median(versions))
    held = (versions % 4 == 2).sum()
    chosen = (ids >= middle) & (versions > late)
    expected = {
        "SELECT count(*) AS n FROM t": (len(state),),
        "SELECT min(id) AS a, max(id) AS b FROM t": (ids.min(), ids.max()),
        f"SELECT count(*) AS n FROM t WHERE version > {late} AND owner >= 'owner {middle:08d}'": (chosen.sum(),),
        "SELECT count(*) AS n, sum(id * 0) AS z FROM t WHERE status = 'on hold'": (held, 0),
    }
    for query, values in expected.items():
        answer = tuple(ask(query).to_pylist()[0].values())
        if tuple(map(int, answer)) != tuple(map(int, values)):
            return f"{query}: {answer}, should be {tuple(map(int, values))}"
    return ""


def feed_wrong(changes: pa.Table, states: dict[int, State], first: int, last: int) -> str:
    """Whether the changes of each version lead from its rows before to its rows after, one row at a time."""
    by_version: dict[int, dict[str, Counter[tuple[int, int]]]] = {}
    for row in changes.to_pylist():
        kinds = by_version.setdefault(row["_commit_version"], {})
        kinds.setdefault(row["_change_type"], Counter())[row["id"], row["version"]] += 1
    for version in range(first, last + 1):
        before, after = Counter(states[version - 1].items()), Counter(states[version].items())
        kinds = by_version.get(version, {})
        minus = kinds.get("delete", Counter()) + kinds.get("update_preimage", Counter())
        plus = kinds.get("insert", Counter()) + kinds.get("update_postimage", Counter())
        # an engine may say that a row was replaced by itself
        if minus - plus != before - after or plus - minus != after - before:
            counts = {kind: rows.total() for kind, rows in kinds.items()}
            return f"version {version}: {counts}, should be -{(before - after).total()} +{(after - before).total()}"
    return ""
