"""Random histories of workers around one table, by every sink: a modelled broker, real tables.

Three workers write what a log holds. Any of them may be assigned any partitions at any time, and none is told when
another gets them: each may be a zombie. Commits are raced by another worker, their answers are lost, workers are killed
before and after a commit lands. After each step the table holds exactly what the offsets in it say, and offsets never
go back; at the end it holds the whole log. `make histories` tries thousands; a failing one is shrunk.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contract_base import committed, expected, opened, random_examples
from contract_events import ORDERS, ORDERS_WITH_NOTE, TOPIC, Change, batch, changes, order, unsent
from contract_harness import Factory, SinkHarness
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from config.errors import Unavailable
from sinks.base import Batch, Sink
from sources.changes import ChangeBatch, TopicPartition

PARTITIONS = (0, 1)
WORKERS = st.integers(0, 2)
KEYS = 5
HISTORIES = int(os.environ.get("HISTORIES", "0"))

Made = list[tuple[str, int]]
MADE: st.SearchStrategy[Made] = st.lists(
    st.tuples(st.sampled_from("ccuuud"), st.integers(0, KEYS - 1)), min_size=1, max_size=6
)


class Killed(BaseException):
    """The process is gone; whoever catches it restarts it."""


@dataclass
class Worker:
    """A sink, and where it takes itself to stand in each partition that it was assigned."""

    sink: Sink
    stands: dict[int, int] = field(default_factory=dict)


class Histories(RuleBasedStateMachine):
    """What may happen; `factory` makes the table."""

    factory: Factory

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.harness: SinkHarness = self.factory(Path(self.folder.name))
        self.workers = [Worker(opened(self.harness)) for _ in range(3)]
        self.log: dict[int, list[Change]] = {partition: [] for partition in PARTITIONS}
        self.noted: dict[int, int] = {}
        """From which offset of a partition on the records have the newer schema."""
        self.there: dict[int, set[int]] = {partition: set() for partition in PARTITIONS}
        self.landed = dict.fromkeys(PARTITIONS, 0)

    # -- the source

    @rule(partition=st.sampled_from(PARTITIONS), made=MADE)
    def produce(self, partition: int, made: Made) -> None:
        """Changes arrive in the log: creates, updates (with an unsent value, if there is one), deletes."""
        log, there = self.log[partition], self.there[partition]
        for kind, number in made:
            key = 2 * number + partition
            if kind == "u" and key in there and self.harness.upsert:
                change = unsent("u", key, "amount", name=f"at {len(log)}")
            else:
                change = order("d" if kind == "d" else "u" if key in there else "c", key, f"at {len(log)}")
            (there.discard if kind == "d" else there.add)(key)
            log.append(change)

    @rule(partition=st.sampled_from(PARTITIONS))
    def a_column_comes(self, partition: int) -> None:
        """The source's table gets a column; each partition's records show it from some offset on."""
        self.noted.setdefault(partition, len(self.log[partition]))

    def records(self, partition: int, first: int, end: int) -> list[ChangeBatch]:
        """The log's records as a chunk brings them: cut where the schema changes."""
        cut = min(max(self.noted.get(partition, end), first), end)
        return [
            changes(self.log[partition][a:b], a, partition=partition, schema=schema)
            for a, b, schema in ((first, cut, ORDERS), (cut, end, ORDERS_WITH_NOTE))
            if b > a
        ]

    # -- the workers

    @rule(number=WORKERS, partitions=st.sets(st.sampled_from(PARTITIONS)))
    def assign(self, number: int, partitions: set[int]) -> None:
        """A rebalance gives a worker these partitions; it asks the table where they stand."""
        worker = self.workers[number]
        offsets = worker.sink.committed([TopicPartition(TOPIC, partition) for partition in partitions])
        worker.stands = {partition: offsets.get(TopicPartition(TOPIC, partition), 0) for partition in partitions}

    @rule(number=WORKERS, count=st.integers(1, 8))
    def write(self, number: int, count: int) -> None:
        """A commit of the next records."""
        self._commit(number, self._next(number, count))

    @precondition(lambda self: any(self._is_news(number) for number in range(3)))
    @rule(number=WORKERS, other=WORKERS, count=st.integers(1, 8))
    def write_raced(self, number: int, other: int, count: int) -> None:
        """Another worker commits between what this one has read of the table and its commit."""
        if number != other:
            self._commit(number, self._next(number, count), before=lambda: self._commit(other, self._next(other, 8)))

    @rule(number=WORKERS, count=st.integers(1, 8))
    def write_unanswered(self, number: int, count: int) -> None:
        """The commit lands, and the answer gets lost."""

        def lost() -> None:
            raise Unavailable("the answer got lost")

        self._commit(number, self._next(number, count), after=lost)

    @rule(number=WORKERS, count=st.integers(1, 8), landed=st.booleans())
    def killed_in_a_commit(self, number: int, count: int, landed: bool) -> None:
        """The process dies just before or just after its commit lands, and is started again."""

        def die() -> None:
            raise Killed

        try:
            self._commit(number, self._next(number, count), **{"after" if landed else "before": die})
        except Killed:
            self.restart(number)

    @rule(number=WORKERS)
    def tidy(self, number: int) -> None:
        """A step of upkeep."""
        self.workers[number].sink.tidy()

    @rule(number=WORKERS)
    def restart(self, number: int) -> None:
        """A new process; it has no partition yet."""
        self.workers[number].sink.close()
        self.workers[number] = Worker(opened(self.harness))

    def _next(self, number: int, count: int) -> Batch:
        parts = [
            part
            for partition, first in self.workers[number].stands.items()
            for part in self.records(partition, first, min(first + count, len(self.log[partition])))
        ]
        return batch(*parts)

    def _is_news(self, number: int) -> bool:
        return self._has_news(self._next(number, 8))

    def _has_news(self, todo: Batch) -> bool:
        return any(span.next > self.landed[tp.partition] for tp, span in todo.ranges.items())

    def _commit(self, number: int, todo: Batch, **around: Callable[[], None]) -> None:
        worker = self.workers[number]
        if not todo.ranges:
            return
        try:
            if around and self._has_news(todo):
                with self.harness.around_next_commit(**around):
                    receipt = worker.sink.write(todo)
            else:
                receipt = worker.sink.write(todo)
        except Unavailable:
            return  # it tries again, from where it takes itself to stand
        for tp, offset in receipt.next_offsets.items():
            worker.stands[tp.partition] = offset
            self.landed[tp.partition] = max(self.landed[tp.partition], offset)

    # -- what has to hold

    @invariant()
    def the_table_holds_what_its_offsets_say(self) -> None:
        if not hasattr(self, "workers"):
            return
        offsets = committed(self.harness)
        found = {partition: offsets.get(TopicPartition(TOPIC, partition), 0) for partition in PARTITIONS}
        for partition in PARTITIONS:
            assert found[partition] >= self.landed[partition], "an offset went back"
        self.landed = found
        self._assert_rows()

    def _assert_rows(self) -> None:
        parts = [part for partition in PARTITIONS for part in self.records(partition, 0, self.landed[partition])]
        assert self.harness.rows() == expected(self.harness, *parts)

    def teardown(self) -> None:
        if not hasattr(self, "workers"):
            return
        try:
            self.assign(0, set(PARTITIONS))
            while self._is_news(0):
                self.write(0, 8)
            self._assert_rows()
            assert self.landed == {partition: len(log) for partition, log in self.log.items()}
        finally:
            for worker in self.workers:
                with closing(worker.sink):
                    pass
            self.folder.cleanup()


def test_every_history_ends_as_the_log(factory: Factory) -> None:
    """By Hypothesis' rules of shrinking: the smallest failing history is printed."""
    from hypothesis.stateful import run_state_machine_as_test

    affordable = random_examples(factory)
    tried = settings(
        max_examples=HISTORIES or max(3, affordable.max_examples // 3),
        stateful_step_count=20,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    made: Any = type("HistoriesOfThisSink", (Histories,), {"factory": staticmethod(factory)})
    run_state_machine_as_test(made, settings=tried)
