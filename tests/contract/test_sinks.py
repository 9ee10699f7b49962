"""Every sink keeps the sink contract, check by check and under random change logs."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from contract_base import random_examples
from contract_checks import CHECKS, committed, expected, opened
from contract_events import TOPIC, Change, batch, changes, order
from contract_harness import Factory
from hypothesis import given
from hypothesis import strategies as st

from sources.changes import ChangeBatch, TopicPartition

PARTITIONS = 2


def test_sink_keeps_the_contract(case: tuple[str, Factory], tmp_path: Path) -> None:
    name, factory = case
    CHECKS[name][0](factory(tmp_path))


@st.composite
def change_logs(draw: st.DrawFn) -> tuple[list[list[Change]], list[tuple[int, int, int, int]]]:
    """Per partition a log of changes of few keys (each key in one partition), and writes of it: (writer, partition,
    how far to go back before the destination's offset, how many records)."""
    logs = []
    for partition in range(PARTITIONS):
        ops = draw(st.lists(st.tuples(st.sampled_from("cuud"), st.integers(0, 4)), max_size=25))
        logs.append([order(op, key * PARTITIONS + partition, f"{op}{n}") for n, (op, key) in enumerate(ops)])
    step = st.tuples(st.integers(0, 1), st.integers(0, PARTITIONS - 1), st.integers(0, 6), st.integers(0, 9))
    return logs, draw(st.lists(step, min_size=1, max_size=10))


def test_random_logs_in_random_cuts_with_replays_end_as_their_fold(factory: Factory) -> None:
    @random_examples(factory)
    @given(change_logs())
    def run(drawn: tuple[list[list[Change]], list[tuple[int, int, int, int]]]) -> None:
        logs, steps = drawn
        with TemporaryDirectory() as folder:
            _replay(factory, Path(folder), logs, steps)

    run()


def _replay(
    factory: Factory, folder: Path, logs: list[list[Change]], steps: list[tuple[int, int, int, int]]
) -> list[dict[str, Any]]:
    harness = factory(folder)
    done = [0] * PARTITIONS
    with closing(opened(harness)) as one, closing(opened(harness)) as two:
        for writer, partition, back, count in [*steps, *[(0, p, 0, len(logs[p])) for p in range(PARTITIONS)]]:
            first = max(0, done[partition] - back)
            part = _part(logs, partition, first, first + count)
            (one, two)[writer].write(batch(part))
            done[partition] = max(done[partition], part.next)
    whole = [_part(logs, partition, 0, done[partition]) for partition in range(PARTITIONS)]
    rows = harness.rows()
    assert rows == expected(harness, *whole)
    assert committed(harness) == {TopicPartition(TOPIC, p): n for p, n in enumerate(done) if n}
    return rows


def _part(logs: list[list[Change]], partition: int, first: int, end: int) -> ChangeBatch:
    return changes(logs[partition][first:end], first, partition=partition)
