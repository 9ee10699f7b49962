"""Writers of one Delta table take turns once they race, and no turn outlives its holder for long."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from pathlib import Path

from contract_checks import committed, inserts, opened
from contract_events import TOPIC, batch, folded
from delta_harness import DeltaHarness
from deltalake import CommitProperties, DeltaTable, Transaction

from sources.changes import TopicPartition

TURN = "lakeward/contract/lake/turn"


def turn(harness: DeltaHarness) -> int | None:
    version: int | None = DeltaTable(harness.path).transaction_version(TURN)
    return version


def reserve(harness: DeltaHarness, seconds: float) -> None:
    """Somebody's reservation, from now on for so long."""
    until = int((time.time() + seconds) * 1e6)
    table = DeltaTable(harness.path)
    identifiers = CommitProperties(app_transactions=[Transaction(TURN, until)])
    table.create_write_transaction([], "append", table.schema(), commit_properties=identifiers)


def test_writers_that_never_race_reserve_nothing(tmp_path: Path) -> None:
    harness = DeltaHarness("upsert", tmp_path)
    with closing(opened(harness)) as one, closing(opened(harness)) as two:
        one.write(batch(inserts(0, 2)))
        two.write(batch(inserts(0, 2, partition=1)))
    assert turn(harness) is None


def test_loser_of_a_race_reserves_and_gives_back(tmp_path: Path) -> None:
    harness = DeltaHarness("upsert", tmp_path)
    seen: list[int | None] = []
    with closing(opened(harness)) as slow, closing(opened(harness)) as quick:
        slow.write(batch(inserts(0, 2)))

        def race() -> None:
            quick.write(batch(inserts(0, 2, partition=1)))
            # the commit after the lost one is the reservation
            harness.hooks = (None, lambda: seen.append(turn(harness)))

        with harness.around_next_commit(before=race):
            slow.write(batch(inserts(2, 2)))
    assert seen[0] is not None
    assert seen[0] > time.time() * 1e6 - 1e6
    assert turn(harness) == 0
    assert harness.rows() == folded(inserts(0, 4), inserts(0, 2, partition=1))


def test_others_wait_until_the_turn_is_given_back(tmp_path: Path) -> None:
    harness = DeltaHarness("upsert", tmp_path)
    with closing(opened(harness)) as sink:
        sink.write(batch(inserts(0, 2)))
        reserve(harness, 60)
        waiting = threading.Thread(target=sink.write, args=(batch(inserts(2, 2)),))
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
        assert committed(harness) == {TopicPartition(TOPIC, 0): 2}
        reserve(harness, -1)
        waiting.join(20)
        assert not waiting.is_alive()
    assert committed(harness) == {TopicPartition(TOPIC, 0): 4}


def test_turn_of_a_dead_writer_expires(tmp_path: Path) -> None:
    harness = DeltaHarness("upsert", tmp_path)
    with closing(opened(harness)) as sink:
        sink.write(batch(inserts(0, 2)))
        reserve(harness, 0.7)
        started = time.monotonic()
        sink.write(batch(inserts(2, 2)))
        waited = time.monotonic() - started
    assert waited > 0.4
    assert committed(harness) == {TopicPartition(TOPIC, 0): 4}


def test_change_logs_do_not_wait(tmp_path: Path) -> None:
    harness = DeltaHarness("append", tmp_path)
    with closing(opened(harness)) as sink:
        sink.write(batch(inserts(0, 2)))
        reserve(harness, 600)
        sink.write(batch(inserts(2, 2)))
    assert committed(harness) == {TopicPartition(TOPIC, 0): 4}
