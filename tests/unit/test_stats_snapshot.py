"""The snapshot behind the pages: whose partition, how far behind, in which state; and what probes make of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from agents.pipeline import Pipeline, SinkTable
from agents.writer import Commit, FlushPolicy
from app.lag import CaughtUp
from app.pages.connector import ConnectorState
from app.pages.metrics import exposition
from app.pages.readiness import readiness
from app.snapshot import Snapshot
from app.stats import Feed, Situation, assemble
from config.errors import OffsetGap, Unavailable
from config.platform import RetryConfig
from sinks.base import OffsetRange, Receipt, Target
from sinks.memory import MemorySink
from sources.changes import Chunk, DecodedChunk, TopicPartition
from tables import schema_versions
from tables.schema_versions import SeenVersion
from tables.sink_watermarks import watermark, watermark_key

NOW = datetime.now(UTC)
MINE, OTHER = TopicPartition("t", 0), TopicPartition("t", 1)
RUNS = ConnectorState("RUNNING", ("RUNNING",))


class Undecoded:
    """Nothing is decoded here."""

    def decode(self, chunk: Chunk) -> DecodedChunk:
        raise NotImplementedError


async def _nothing(*_: object) -> None:
    """For callbacks that these tests don't reach."""


def pipeline(*sink_ids: str) -> Pipeline:
    tables = [
        SinkTable(MemorySink(Target("p", sink, ("t",), f"table_{sink}"), "append"), FlushPolicy(1, 1), RetryConfig())
        for sink in sink_ids
    ]
    return Pipeline(
        tables,
        Undecoded(),
        None,
        budget=1000,
        retry=RetryConfig(),
        partition_count=lambda _: None,
        generation=lambda: 1,
        on_watermark=_nothing,
        crash=_nothing,
    )


def situation(*sink_ids: str, **changes: Any) -> Situation:
    feeds = tuple(Feed(sink, "delta", "t", f"table_{sink}", 60.0) for sink in sink_ids)
    found = Situation("p", "g-p", "w", feeds, 1000, {}, {}, {MINE: 100, OTHER: 100}, None, False, False, False, NOW)
    return replace(found, **changes)


def committed(running: Pipeline, sink: str, next_offset: int, at: datetime = NOW) -> None:
    receipt = Receipt({MINE: next_offset}, 2**62 + 1, at, next_offset)
    running.ledger.record(sink, receipt.next_offsets)
    timestamps = {MINE: int((NOW - timedelta(seconds=30)).timestamp() * 1000)}
    running.stats.on_commit(sink, Commit(receipt, {MINE: OffsetRange(0, next_offset)}, {MINE: 40}, timestamps, 0.5))


def snapshot(running: Pipeline | None, seen: Situation, now: datetime = NOW) -> Snapshot:
    return assemble(running, seen, CaughtUp(), lambda text: text.replace("secret", "***"), now)


def stored(sink: str, tp: TopicPartition, next_offset: int) -> Mapping[str, Mapping[str, Any]]:
    return {watermark_key(sink, tp): watermark(next_offset, 7, NOW - timedelta(minutes=1))}


def test_own_partitions_come_from_the_destination_and_others_from_the_table() -> None:
    running = pipeline("s")
    running.ledger.assign({MINE: {"s": 0}})
    committed(running, "s", 60)
    # the table's copy of the own partition is behind: it must not be believed
    table = {**stored("s", MINE, 10), **stored("s", OTHER, 80), **stored("removed", MINE, 1)}
    mine, other = snapshot(running, situation("s", watermarks=table)).partitions
    assert (mine.mine, mine.next_offset, mine.lag_rows, mine.rows, mine.version) == (True, 60, 40, 40, str(2**62 + 1))
    assert mine.lag_seconds == 30
    assert (other.mine, other.next_offset, other.lag_rows, other.version) == (False, 80, 20, "7")
    assert (other.rows, other.rows_per_s, other.lag_seconds) == (None, None, None)


def test_totals_sum_the_group_and_say_what_is_unknown() -> None:
    running = pipeline("s")
    running.ledger.assign({MINE: {"s": 95}})
    totals = snapshot(running, situation("s", log_ends={MINE: 100, OTHER: 100, TopicPartition("t", 2): 0})).totals
    assert (totals.partitions, totals.lag_rows, totals.lag_unknown) == (3, 5, 1), "an empty partition has no lag"


def test_table_survives_a_restart_until_this_worker_commits() -> None:
    running = pipeline("s")
    running.ledger.assign({MINE: {"s": 100}})
    (mine, _) = snapshot(running, situation("s", watermarks=stored("s", MINE, 100))).partitions
    assert mine.version == "7"
    assert mine.committed_at is not None
    assert abs(mine.committed_at - (NOW - timedelta(minutes=1))) < timedelta(milliseconds=1)


def test_failing_sink_is_said_until_its_commit_lands_or_it_stops_failing() -> None:
    running = pipeline("s", "u")
    running.ledger.assign({MINE: {"s": 0, "u": 0}})
    running.stats.on_error("s", Unavailable("the secret store is away"))
    seen = situation("s", "u")
    now = datetime.now(UTC)
    found = snapshot(running, seen, now)
    assert [sink.status for sink in found.sinks] == ["retrying", "running"]
    assert (found.state.level, found.state.name) == ("error", "retrying")
    assert found.sinks[0].error is not None
    assert found.sinks[0].error.message == "Unavailable: the *** store is away"
    # every attempt of a sink that is still failing reports again; this one has been quiet for too long
    assert snapshot(running, seen, now + timedelta(minutes=3)).sinks[0].status == "running"
    committed(running, "s", 100, now + timedelta(seconds=1))
    over = snapshot(running, seen, now + timedelta(seconds=2))
    assert over.sinks[0].status == "running"
    assert over.sinks[0].error is not None
    assert over.sinks[0].error.over
    running.stats.on_error("u", OffsetGap("a hole"))
    assert snapshot(running, seen).state.name == "failed"


def test_states_in_which_nothing_moves_have_names() -> None:
    assert snapshot(None, situation("s")).state.name == "starting"
    idle = pipeline("s")
    assert snapshot(idle, situation("s")).state.name == "idle"
    assert snapshot(idle, situation("s", log_ends={})).state.name == "waiting"
    assert snapshot(idle, situation("s", rebalancing=True)).state.name == "rebalancing"
    assert snapshot(idle, situation("s", stopping=True)).state.name == "stopping"
    away = snapshot(idle, situation("s", log_ends_error="Kafka at b: away"))
    assert (away.state.level, away.state.name) == ("error", "broker away")


def test_worker_is_ready_unless_changes_cannot_move() -> None:
    running = pipeline("s")
    running.ledger.assign({MINE: {"s": 95}})
    seen = situation("s")
    good = readiness(snapshot(running, seen), {MINE: 95}, RUNS)
    assert good == {
        "ready": True,
        "pipeline_id": "p",
        "state": {"name": "running", "text": "5 rows to write"},
        "source": {"connector": {"state": "RUNNING"}, "tasks": [{"state": "RUNNING"}]},
        "sinks": [{"sink_id": "s", "status": "running"}],
        "consumer_lag": [{"topic": "t", "partition": 0, "lag": 5, "offset": 95}],
    }
    failed = ConnectorState("RUNNING", ("FAILED",), "task 0 of connector p failed: no slot")
    assert readiness(snapshot(running, seen), {}, failed)["ready"] is False
    assert readiness(snapshot(running, seen), {}, ConnectorState("UNREACHABLE", error="away"))["ready"] is True
    assert readiness(snapshot(None, seen), {}, RUNS)["ready"] is False
    running.stats.on_error("s", Unavailable("away"))
    assert readiness(snapshot(running, seen, datetime.now(UTC)), {}, RUNS)["ready"] is False


def test_lag_of_a_partition_is_that_of_its_slowest_sink() -> None:
    running = pipeline("s", "u")
    running.ledger.assign({MINE: {"s": 95, "u": 20}})
    found = readiness(snapshot(running, situation("s", "u")), {MINE: running.committable(MINE)}, RUNS)
    assert found["consumer_lag"] == [{"topic": "t", "partition": 0, "lag": 80, "offset": 20}]


def test_metrics_are_of_own_partitions_and_escape_their_labels() -> None:
    running = pipeline("s")
    running.ledger.assign({MINE: {"s": 0}})
    committed(running, "s", 60)
    seen = replace(situation("s", watermarks=stored("s", OTHER, 80)), worker_id='a"b\\c\nd')
    text = exposition(snapshot(running, seen))
    assert 'lakeward_next_offset{sink="s",topic="t",partition="0"} 60\n' in text
    assert 'lakeward_lag_seconds{sink="s",topic="t",partition="0"} 30\n' in text
    assert 'lakeward_commits_total{sink="s"} 1\n' in text
    assert 'partition="1"' not in text
    assert r'worker="a\"b\\c\nd"' in text
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(
        re.fullmatch(r'[a-z_]+({[a-z]+="([^"\\]|\\.)*"(,[a-z]+="([^"\\]|\\.)*")*})? \d+(\.\d+)?', line)
        for line in samples
    )


def test_history_of_schemas_is_shown_by_topic_newest_first() -> None:
    seen = [SeenVersion(1, 7, "2026-01-01T00:00:00+00:00"), SeenVersion(3, 9, "2026-01-02T00:00:00+00:00", False)]
    kept = {
        "t-value": schema_versions.stored(seen),
        "t-key": schema_versions.stored([]),
        "other-value": {"versions": []},
    }
    found = snapshot(None, situation("s", schema_versions=kept)).schemas
    assert [(view.topic, view.part) for view in found] == [("t", "value")]
    assert [(v.version, v.schema_id, v.compatible) for v in found[0].versions] == [(3, 9, False), (1, 7, None)]
