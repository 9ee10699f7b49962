"""Tidying of upsert tables: files stay few and clean, and whatever happens meanwhile, no row is lost or doubled."""

from __future__ import annotations

import tempfile
import time
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from contract_base import commit, expected, inserts, opened, updates
from contract_events import ORDERS, ORDERS_WITH_NOTE, TOPIC, batch, changes, folded, log_rows, order
from contract_harness import target
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from iceberg_harness import IcebergHarness, around_next_catalog_commit
from iceberg_kills import tidied_under_kills
from iceberg_upkeep import (
    between_rewrite_and_commit,
    counts,
    delete_by_position,
    needed,
    on_disk,
    present,
    small_sizes,
)
from pyiceberg.exceptions import CommitFailedException, CommitStateUnknownException
from pyiceberg.table.snapshots import Operation
from structlog.testing import capture_logs

from config.errors import DestinationChanged, Unavailable
from sinks.iceberg import history
from sinks.iceberg.sink import IcebergSink
from sinks.iceberg.state import SinkState, lineage
from sources.changes import TopicPartition

pytestmark = pytest.mark.usefixtures("small_tiers")

TP0 = TopicPartition(TOPIC, 0)


def make(folder: Path, **settings: Any) -> IcebergHarness:
    return IcebergHarness("upsert", folder, table_properties={"lakeward.reader-grace-seconds": "0"}, **settings)


def test_files_stay_few_and_old_ones_go_over_many_commits(tmp_path: Path) -> None:
    harness = make(tmp_path)
    parts = [inserts(0, 40), *updates(150, keys=30, start=40)]
    seen = []
    with closing(opened(harness)) as sink:
        for n, part in enumerate(parts):
            commit(sink, part)
            if n % 25 == 0:
                assert harness.rows() == folded(*parts[: n + 1])
            seen.append(counts(present(harness)))
    assert max(data for data, _ in seen) < 16
    assert max(deletes for _, deletes in seen) < 12
    table = present(harness)
    assert on_disk(tmp_path) == needed(table)
    operations = {snapshot.summary.operation for snapshot in table.snapshots() if snapshot.summary}
    assert Operation.REPLACE in operations
    assert harness.rows() == folded(*parts)
    records = sum(task.file.record_count for task in table.scan().plan_files())
    assert records < 3 * len(harness.rows())


@pytest.mark.parametrize("partition_by", [["bucket(3, id)"], ["day(at)"], ["truncate(6, name)"]])
def test_partitioned_tables_are_tidied_within_their_partitions(partition_by: list[str], tmp_path: Path) -> None:
    harness = make(tmp_path, partition_by=partition_by)
    parts = updates(80)
    with closing(opened(harness)) as sink:
        commit(sink, *parts)
    assert harness.rows() == folded(*parts)
    assert on_disk(tmp_path) == needed(present(harness))


def test_a_column_that_came_meanwhile_and_a_new_partition_spec(tmp_path: Path) -> None:
    harness = make(tmp_path)
    old = updates(21)
    start = old[-1].next
    new = [
        changes([order("u", n % 7, f"n{n}", note=f"note {n}")], start + n, schema=ORDERS_WITH_NOTE) for n in range(30)
    ]
    last = [changes([order("u", n % 9, f"m{n}", note="z")], start + 30 + n, schema=ORDERS_WITH_NOTE) for n in range(30)]
    with closing(opened(harness)) as sink:
        commit(sink, *old, *new)
    assert harness.rows() == folded(*old, *new)
    harness = make(tmp_path)
    with closing(opened(harness)) as sink:
        commit(sink, *last)
    assert harness.rows() == folded(*old, *new, *last)


def test_another_worker_commits_while_files_are_rewritten(tmp_path: Path) -> None:
    harness = make(tmp_path)
    ours, theirs = updates(60), updates(60, partition=1)
    with closing(opened(harness)) as one, closing(opened(harness)) as two:
        for a, b in zip(ours, theirs, strict=True):
            one.write(batch(a))
            with between_rewrite_and_commit(one, partial(two.write, batch(b))) as happened:
                one.tidy()
            if not happened:
                two.write(batch(b))
            two.tidy()
    assert harness.rows() == folded(*ours, *theirs)
    assert counts(present(harness))[0] < 24


@pytest.mark.parametrize("mode", ["upsert", "append"])
def test_a_partition_comes_over_whose_files_were_tidied_since_its_last_commit(mode: Any, tmp_path: Path) -> None:
    """The worker that gets it has seen its offset before the tidying, and has committed for others after it."""
    harness = IcebergHarness(mode, tmp_path)
    ours, theirs = updates(12, keys=6), updates(6, keys=6, partition=1)
    with closing(opened(harness)) as one, closing(opened(harness)) as two:
        for part in ours[:8]:
            one.write(batch(part))
        two.write(batch(theirs[0]))
        two.tidy()
        for _ in range(3):
            one.tidy()
        for part in theirs[1:]:
            two.write(batch(part))
            two.tidy()
        for part in ours[8:]:
            two.write(batch(part))
            two.tidy()
    expected = folded if mode == "upsert" else log_rows
    assert harness.rows() == expected(*ours, *theirs)


def test_an_answer_that_was_lost_is_looked_up(tmp_path: Path) -> None:
    harness = make(tmp_path)
    parts = updates(40)
    lost = 0

    def lose() -> None:
        raise CommitStateUnknownException("the answer was lost")

    with closing(opened(harness)) as sink:
        for part in parts:
            sink.write(batch(part))
            before = present(harness).metadata.current_snapshot_id
            try:
                with around_next_catalog_commit(after=lose):
                    sink.tidy()
            except Unavailable:
                assert present(harness).metadata.current_snapshot_id != before
                lost += 1
            except AssertionError:  # nothing was due
                pass
    assert lost > 3
    assert harness.rows() == folded(*parts)


@pytest.mark.parametrize("overtaken", [False, True])
@pytest.mark.parametrize("mode", ["upsert", "append"])
def test_a_step_that_landed_and_was_refused_has_landed(mode: Any, overtaken: bool, tmp_path: Path) -> None:
    """Somebody between worker and catalog has repeated the request."""
    harness = IcebergHarness(mode, tmp_path, table_properties={"lakeward.reader-grace-seconds": "0"})
    parts, theirs = updates(40), updates(40, partition=1)
    steps: list[int] = []

    with closing(opened(harness)) as sink, closing(opened(harness)) as other:

        def refuse(n: int) -> None:
            steps.append(n)
            if overtaken:
                other.write(batch(theirs[len(steps) - 1]))
            raise CommitFailedException("Requirement failed: branch main has changed")

        for n, part in enumerate(parts):
            sink.write(batch(part))
            before = present(harness).metadata.current_snapshot_id
            try:
                with around_next_catalog_commit(after=partial(refuse, n)):
                    sink.tidy()
            except AssertionError:  # nothing was due
                assert present(harness).metadata.current_snapshot_id == before
    assert len(steps) > 3
    left = on_disk(tmp_path) ^ needed(present(harness))
    # PyIceberg removes old metadata once it has the catalog's answer
    assert {path for path in left if not path.endswith(".metadata.json")} == set()
    expected = folded if mode == "upsert" else log_rows
    assert harness.rows() == expected(*parts, *(theirs[: len(steps)] if overtaken else ()))


def test_a_step_that_a_rollback_came_before_is_made_again(tmp_path: Path) -> None:
    harness = make(tmp_path)
    parts = updates(40)
    steps = 0

    def roll_back(to: int) -> None:
        nonlocal steps
        steps += 1
        present(harness).manage_snapshots().rollback_to_snapshot(to).commit()

    with closing(opened(harness)) as sink:
        assert isinstance(sink, IcebergSink)
        for part in parts:
            sink.write(batch(part))
            assert sink._table is not None
            ours = sink._table.metadata.current_snapshot_id
            assert ours is not None
            table = present(harness)
            table.append(table.schema().as_arrow().empty_table())
            sink._table.refresh()
            with suppress(AssertionError), around_next_catalog_commit(before=partial(roll_back, ours)):
                sink.tidy()  # or nothing was due
    assert steps > 3
    assert {path for path in on_disk(tmp_path) ^ needed(present(harness)) if path.endswith(".parquet")} == set()
    assert harness.rows() == folded(*parts)


@pytest.mark.parametrize("mode", ["upsert", "append"])
def test_a_file_that_its_store_has_lost_is_told_and_does_not_stop_the_rest(
    mode: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = IcebergHarness(mode, tmp_path)
    monkeypatch.setattr("sinks.iceberg.sink.REST_SECONDS", 0.3)
    with closing(opened(harness)) as sink, capture_logs() as logs:
        sink.write(batch(inserts(0, 40)))
        [task] = present(harness).scan().plan_files()
        path = Path(task.file.file_path.removeprefix("file://"))
        held = path.rename(tmp_path / "held")
        parts = [inserts(start, 2) for start in range(40, 100, 2)]
        for part in parts[:-6]:
            commit(sink, part)
        told = [line for line in logs if line["event"] == "iceberg.not_tidied"]
        assert told
        assert all(path.name in line["reason"] and "roll the table back" in line["reason"] for line in told)
        assert len(told) < len(parts) // 3
        held.rename(path)
        for part in parts[-6:]:
            commit(sink, part)
            time.sleep(0.1)
        assert [line["event"] for line in logs].index("iceberg.tidied") > logs.index(told[-1])
    assert harness.rows() == expected(harness, inserts(0, 40), *parts)


def test_killed_at_each_step_of_tidying_and_cleaning(tmp_path: Path) -> None:
    parts = updates(60)
    steps = tidied_under_kills(tmp_path, make, parts[:23], parts[23:24], parts[24:])
    assert len(steps) > 16  # data file, delete file, manifests, list, catalog, removals


def test_files_that_others_remove_while_they_are_read_are_looked_up_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker commits and cleans up again and again between this one's look at the table and at its files."""
    harness = make(tmp_path)
    mine, others = updates(20), updates(80, partition=1)
    left = list(others)
    overtaken: list[Any] = []
    inside: list[Any] = []
    read = history._retired

    with closing(opened(harness)) as slow, closing(opened(harness)) as quick:

        def overtaken_twice(io: Any, chain: Any) -> list[str]:
            if len(overtaken) < 2 and not inside:
                overtaken.append(chain)
                inside.append(chain)
                for _ in range(20):
                    commit(quick, left.pop(0))
                inside.clear()
            return read(io, chain)

        commit(quick, *[left.pop(0) for _ in range(12)])
        commit(slow, *mine[:-12])
        monkeypatch.setattr(history, "GROUP", 1)  # each attempt looks at the files of old snapshots
        monkeypatch.setattr(history, "_retired", overtaken_twice)
        commit(slow, *mine[-12:])
    assert len(overtaken) == 2
    assert harness.rows() == folded(*mine, *others[: len(others) - len(left)])


def test_rows_that_others_deleted_by_position_do_not_come_back(tmp_path: Path) -> None:
    """As Spark's merge-on-read does: a delete file that isn't ours takes a row away."""
    harness = make(tmp_path)
    parts = [inserts(0, 8), *updates(3, keys=6, start=8)]
    with closing(opened(harness)) as sink:
        commit(sink, *parts)
        gone = delete_by_position(harness, 70)
        more = updates(30, keys=6, seed=5, start=parts[-1].next)
        commit(sink, *more)
    rows = [row for row in folded(*parts, *more) if row["id"] != 70]
    assert gone == 1
    assert harness.rows() == rows


def test_a_count_that_is_wrong_rewrites_nothing_and_builds_the_index_anew(tmp_path: Path) -> None:
    harness = make(tmp_path)
    parts = updates(40)
    with closing(opened(harness)) as sink:
        commit(sink, *parts[:10])
        assert isinstance(sink, IcebergSink)
        assert sink._upserts is not None
        index = sink._upserts._partitions[TP0]
        for file_id, file in list(index.files.items()):
            index.files[file_id] = type(file)(file.path, file.rows, 0 if file.dead else file.rows)
        commit(sink, *parts[10:])
    assert harness.rows() == folded(*parts)


Made = list[tuple[int, bool]]
MADE = st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=6)
"""Changes of a partition: its keys, and whether they stay."""


class Workers(RuleBasedStateMachine):
    """Two workers that hand partitions to each other, a foreign compaction, rollbacks, restarts, zombies."""

    @initialize()
    def begin(self) -> None:
        self.patches = small_sizes(FAN_IN=2)  # something is due after almost every commit
        self.patches.__enter__()
        self.folder = tempfile.TemporaryDirectory()
        self.harness = make(Path(self.folder.name))
        self.sinks = [opened(self.harness), opened(self.harness)]
        self.owner = [0, 1]
        self.log: dict[int, list[Any]] = {0: [], 1: []}
        self.table_is_there = False

    def _write(self, worker: int, partition: int, made: Made) -> None:
        """As its worker, or as one that takes itself for it."""
        log = self.log[partition]
        log += [
            order("u" if keep else "d", 2 * key + partition, f"{len(log) + n}") for n, (key, keep) in enumerate(made)
        ]
        try:
            first = self._committed(worker, partition)
        except DestinationChanged:  # rolled back to before this partition: an operator looks, and starts it again
            self.restart(worker)
            first = self._committed(worker, partition)
        if log[first:]:
            self.sinks[worker].write(batch(changes(log[first:], first, partition=partition)))
            self.table_is_there = True

    def _committed(self, worker: int, partition: int) -> int:
        tp = TopicPartition(TOPIC, partition)
        return self.sinks[worker].committed([tp]).get(tp, 0)

    def _tidy(self, worker: int) -> None:
        try:
            self.sinks[worker].tidy()
        except DestinationChanged:
            self.restart(worker)

    @rule(worker=st.integers(0, 1), made=st.tuples(MADE, MADE), others=st.none() | st.tuples(MADE, MADE))
    def work(self, worker: int, made: tuple[Made, Made], others: tuple[Made, Made] | None) -> None:
        """A worker writes its partitions, and tidies; maybe the other one does so in between."""
        for partition, changed in enumerate(made):
            if self.owner[partition] == worker:
                self._write(worker, partition, changed)
        if others is not None:
            self.work(1 - worker, others, None)
        self._tidy(worker)

    @rule(partition=st.integers(0, 1))
    def move(self, partition: int) -> None:
        """The other worker gets a partition."""
        self.owner[partition] = 1 - self.owner[partition]

    @rule(partition=st.integers(0, 1), made=MADE)
    def zombie(self, partition: int, made: Made) -> None:
        """A worker writes a partition that it doesn't have any more."""
        self._write(1 - self.owner[partition], partition, made)

    @rule(worker=st.integers(0, 1))
    def restart(self, worker: int) -> None:
        self.sinks[worker].close()
        self.sinks[worker] = opened(self.harness)

    @precondition(lambda self: self.table_is_there)
    @rule()
    def compaction_by_another_engine(self) -> None:
        table = present(self.harness)
        table.overwrite(table.scan().to_arrow())

    @precondition(lambda self: self.table_is_there)
    @rule(back=st.integers(1, 3))
    def rollback(self, back: int) -> None:
        table = present(self.harness)
        ancestors = list(lineage(table.metadata, table.metadata.current_snapshot_id))
        # a compaction by PyIceberg is two snapshots, and between them the table is empty
        whole = [s for s in ancestors if s.summary and s.summary.operation != Operation.DELETE]
        if back < len(whole):
            table.manage_snapshots().rollback_to_snapshot(whole[back].snapshot_id).commit()

    @invariant()
    def rows_are_those_of_the_log(self) -> None:
        if not getattr(self, "table_is_there", False):
            return
        table = present(self.harness)
        offsets = SinkState.read(table.metadata, target((TOPIC,), ".".join(table.name()))).offsets
        parts = [
            changes(log[: offsets.get(TopicPartition(TOPIC, p), 0)], 0, partition=p, schema=ORDERS)
            for p, log in self.log.items()
        ]
        found = sorted(table.scan().to_arrow().select(["id", "name"]).to_pylist(), key=lambda row: row["id"])
        want = sorted(({"id": r["id"], "name": r["name"]} for r in folded(*parts)), key=lambda row: row["id"])
        assert found == want

    def teardown(self) -> None:
        if hasattr(self, "sinks"):
            for sink in self.sinks:
                sink.close()
            self.folder.cleanup()
            self.patches.__exit__(None, None, None)


TestWorkers = Workers.TestCase
TestWorkers.settings = settings(
    max_examples=10, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
