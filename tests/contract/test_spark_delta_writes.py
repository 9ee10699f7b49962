"""Spark 3.5 with Delta 3.3 works on Delta tables that we write: it maintains them, changes rows, writes at the same
time, comes anew in another session; it never sees half a commit; and Lakeward writes on, right.

(Spark's UPDATE can't be resolved with Iceberg's extension in the same session, so MERGE stands for it.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from contract_base import opened, write_until_acknowledged
from contract_events import batch, canonical, folded, log_rows
from spark_delta import CASE_IDS, CASES, KINDS, DeltaLake, Kind, delta_lake, expected_feed, told_by_spark
from spark_history import (
    AFTER,
    BESIDE_OURS,
    FOREIGN,
    MADE,
    Commit,
    Row,
    SparkTable,
    commits,
    flat,
    foreign,
    insert,
    inserting,
    rows_after,
    selected,
)

from config.errors import ConfigurationError, DestinationChanged
from sinks.delta import upkeep
from sources.changes import ChangeBatch, TopicPartition

MakeLake = Callable[..., DeltaLake]

each_kind = pytest.mark.parametrize("kind", KINDS)
each_case = pytest.mark.parametrize(("kind", "layout"), CASES, ids=CASE_IDS)


@pytest.fixture
def make(spark: Any, tmp_path: Path) -> MakeLake:
    """`make(kind, layout)`: a table on disk."""

    def made(kind: Kind, layout: str = "plain", **settings: Any) -> DeltaLake:
        spark.conf.set("spark.databricks.delta.retentionDurationCheck.enabled", "false")
        return delta_lake(spark, tmp_path, kind, layout, **settings)

    return made


@dataclass(frozen=True)
class Foreign:
    """What Spark does, and what it means: which rows stay, and changes (by key, in upsert tables) or rows (in logs)
    that come."""

    statements: tuple[str, ...]
    stays: Callable[[Row], bool] = lambda _: True
    comes: list[ChangeBatch] = field(default_factory=list)

    def rows(self, upsert: bool, after: list[ChangeBatch]) -> list[Row]:
        """What the table holds after `MADE`, this, and `after`."""
        if not upsert:
            kept = [row for row in rows_after(False, MADE) if self.stays(row)]
            return canonical([*kept, *log_rows(*self.comes, *after)])
        gone = [foreign("d", row["id"]) for row in rows_after(True, MADE) if not self.stays(row)]
        return folded(*flat(MADE), *gone, *self.comes, *after)


OPERATIONS = {
    "optimize": Foreign(("OPTIMIZE {table}",)),
    "optimize by z-order": Foreign(("OPTIMIZE {table} ZORDER BY (id)",)),
    "vacuum": Foreign(("OPTIMIZE {table}", "VACUUM {table} RETAIN 0 HOURS")),
    "delete": Foreign(("DELETE FROM {table} WHERE id % 4 = 0",), lambda row: row["id"] % 4 != 0),
    "merge": Foreign(
        (
            f"MERGE INTO {{table}} t USING ({selected(8)} UNION ALL {selected(900)} UNION ALL {selected(10)}) s"
            " ON t.id = s.id WHEN MATCHED AND s.id = 10 THEN DELETE WHEN MATCHED THEN UPDATE SET *"
            " WHEN NOT MATCHED THEN INSERT *",
        ),
        lambda row: row["id"] not in (8, 10),
        [foreign("c", 8), foreign("c", 900)],
    ),
    "insert": Foreign((insert(900),), comes=[foreign("c", 900)]),
}
WORKED = [
    (name, kind, ("plain", "partitioned")[(n + m) % 2])
    for n, name in enumerate(OPERATIONS)
    for m, kind in enumerate(KINDS)
    if (name, kind)
    not in (
        ("merge", "append"),  # one source row would stand for several of the log
        ("optimize by z-order", "append"),
        ("optimize by z-order", "merge"),  # slow, and to us as any optimize
    )
]


@pytest.mark.parametrize(("name", "kind", "layout"), WORKED)
def test_after_what_spark_did_the_rows_are_right_and_we_write_on(
    name: str, kind: Kind, layout: str, make: MakeLake
) -> None:
    """By the sink that was there all the time, then by another process."""
    operation = OPERATIONS[name]
    lake = make(kind, layout)
    lake.write(MADE)
    upsert = lake.harness.upsert
    with closing(opened(lake.harness)) as sink:
        lake.spark.run(*operation.statements)
        lake.agree_on(operation.rows(upsert, []))
        sink.write(batch(*AFTER[0]))
        sink.tidy()
    with closing(opened(lake.harness)) as sink:
        sink.write(batch(*AFTER[1]))
    lake.agree_on(operation.rows(upsert, flat(AFTER)))


@pytest.mark.parametrize("kind", ["append", "merge"])
def test_files_that_delta_rs_cannot_take_away_are_left_and_their_rows_not_doubled(
    kind: Kind, make: MakeLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spark's paths of values beyond ASCII: a MERGE stops, small files aren't compacted, appends go on."""
    for name, value in (("FAN_IN", 2), ("LOOK_EVERY", 1)):
        monkeypatch.setattr(upkeep, name, value)
    lake = make(kind, "partitioned")
    lake.write(MADE[:1])
    lake.spark.run(insert(900).replace("CAST(NULL AS STRING)", "'ü'"))
    rows = lake.spark.rows()
    assert [row["region"] for row in rows if row["id"] == 900] == ["ü"]
    with closing(opened(lake.harness)) as sink:
        if kind == "merge":
            with pytest.raises(ConfigurationError, match="aren't ASCII, such as region=ü/"):
                sink.write(batch(*MADE[1]))
        else:
            for commit in MADE[1:]:
                sink.write(batch(*commit))
                sink.tidy()
            rows = canonical([*rows, *log_rows(*flat(MADE[1:]))])
    lake.agree_on(rows)


@each_kind
def test_restore_by_spark_brings_rows_back_and_the_offsets_stay(kind: Kind, make: MakeLake) -> None:
    """Delta's restore keeps transaction identifiers: what it undid doesn't come again, what comes next is right."""
    lake = make(kind, "partitioned")
    versions = lake.write(MADE)
    [third] = [version for version in versions if version.brought == MADE[2]]
    lake.spark.run(f"RESTORE TABLE {{table}} TO VERSION AS OF {third.id}")
    lake.agree(MADE[:3])
    with closing(opened(lake.harness)) as sink:
        ends = {part.tp: part.next for commit in MADE for part in commit}
        assert sink.committed(list(ends)) == ends
        for commit in AFTER:
            sink.write(batch(*commit))
    lake.agree([*MADE[:3], *AFTER])


@each_case
def test_commit_that_failed_before_its_log_entry_is_never_seen(kind: Kind, layout: str, make: MakeLake) -> None:
    """Its files are there, and nobody reads them; the next worker writes its rows once."""
    lake = make(kind, layout)
    versions = lake.write(MADE)
    lost = versions[-1]
    assert lost.brought == MADE[-1]
    lake.log_entry(lost.id).unlink()
    lake.agree(MADE[:-1])
    lake.write(MADE[-1:], before=MADE[:-1])
    lake.agree(MADE)
    ids = [version.id for version in versions]
    assert told_by_spark(lake.feed(startingVersion=0), ids) == expected_feed(kind, versions)


@each_kind
def test_readers_see_whole_commits_while_they_land(kind: Kind, make: MakeLake) -> None:
    """Each commit changes rows of two Kafka partitions in several table partitions; whenever Spark looks, the table is
    as some commit left it, and never goes back."""
    made = commits(*(f"u0.{n} u2.{n} u4.{n + 1} | u1.{n} u3.{n + 2} u5.{n}" for n in range(4, 20)))
    lake = make(kind, "partitioned")
    states = [rows_after(lake.harness.upsert, made[:n]) for n in range(1, len(made) + 1)]
    lake.write(made[:1])
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(lake.write, made[1:], before=made[:1])
        seen = [states.index(lake.spark.rows())]
        while not written.done():
            seen.append(states.index(lake.spark.rows()))
    written.result()
    seen.append(states.index(lake.spark.rows()))
    assert seen == sorted(seen)
    assert seen[-1] == len(made) - 1


@each_kind
def test_spark_and_the_sink_that_write_at_the_same_time_lose_nothing(kind: Kind, make: MakeLake) -> None:
    lake = make(kind, "partitioned")
    lake.write(BESIDE_OURS[:1])
    with inserting(lake.spark) as theirs:
        while not _written(lake, BESIDE_OURS[1:]):
            pass
    lake.agree_on((folded if lake.harness.upsert else log_rows)(*flat(BESIDE_OURS), *theirs))


def _written(lake: DeltaLake, made: Sequence[Commit]) -> bool:
    """Write as a worker does; False if that ended as one of its commits was overwritten, and is to be started again.

    On disk Spark looks whether a version is there and renames its own file to it then: what is put in between is gone
    (Delta's documents ask for a log store of its own where several programs write).
    """
    version = None
    with closing(opened(lake.harness)) as sink:
        for commit in made:
            try:
                version = write_until_acknowledged(sink, batch(*commit)).version or version
                sink.tidy()
            except DestinationChanged:
                assert version is not None
                assert "Spark" in lake.log_entry(version).read_text()
                return False
    return True


@each_kind
def test_commit_that_spark_overwrote_is_noticed_and_written_again(kind: Kind, make: MakeLake) -> None:
    lake = make(kind, "partitioned")
    lake.write(MADE)
    with closing(opened(lake.harness)) as sink:
        version = sink.write(batch(*AFTER[0])).version
        assert version is not None
        lake.log_entry(version).unlink()
        lake.spark.run(insert(901, 1, FOREIGN))
        assert "Spark" in lake.log_entry(version).read_text()
        with pytest.raises(DestinationChanged, match=r"went back.*restart"):
            sink.write(batch(*AFTER[1]))
    assert _written(lake, AFTER)
    lake.agree_on((folded if lake.harness.upsert else log_rows)(*flat([*MADE, *AFTER]), foreign("c", 901, 1, FOREIGN)))


@each_kind
@pytest.mark.parametrize("name", ["delete", "merge"])
def test_spark_that_commits_just_before_us_keeps_its_change(name: str, kind: Kind, make: MakeLake) -> None:
    """Our commit was made for the table without it."""
    operation = OPERATIONS["insert" if kind == "append" and name == "merge" else name]
    lake = make(kind, "partitioned")
    lake.write(MADE)

    def intrude() -> None:
        lake.spark.run(*operation.statements)

    with closing(opened(lake.harness)) as sink:
        with lake.harness.around_next_commit(before=intrude):
            write_until_acknowledged(sink, batch(*AFTER[0]))
        sink.write(batch(*AFTER[1]))
    lake.agree_on(operation.rows(lake.harness.upsert, flat(AFTER)))


MANY = commits(*(f"u{2 * n % 12}.{n % 5} c{20 + 2 * n}.1 | u{2 * n % 10 + 1}.{n % 3}" for n in range(26)))


@each_kind
def test_spark_reads_from_our_checkpoint_when_the_log_before_it_is_gone(kind: Kind, make: MakeLake) -> None:
    lake = make(kind)
    versions = lake.write(MANY)
    checkpoint = _newest_checkpoint(lake)
    assert 15 < checkpoint < versions[-1].id
    _forget(lake, checkpoint)
    clauses = [f"VERSION AS OF {version.id}" for version in versions if version.id in (checkpoint + 1, checkpoint + 3)]
    found = lake.spark.rows_of_each(clauses)
    assert found == [version.rows for version in versions if version.id in (checkpoint + 1, checkpoint + 3)]
    lake.agree(MANY)


@each_kind
def test_we_write_on_from_a_checkpoint_of_spark(kind: Kind, make: MakeLake) -> None:
    """The log before it is gone; the sink that was there goes on, and so does a new one."""
    lake = make(kind, "partitioned")
    lake.write(MADE)
    with closing(opened(lake.harness)) as sink:
        jvm = lake.spark.spark._jvm
        log = jvm.org.apache.spark.sql.delta.DeltaLog.forTable(lake.spark.spark._jsparkSession, str(lake.path))
        log.checkpoint()
        _forget(lake, _newest_checkpoint(lake))
        sink.write(batch(*AFTER[0]))
    with closing(opened(lake.harness)) as sink:
        ends = {TopicPartition(*tp): part.next for part in flat([*MADE, AFTER[0]]) for tp in [part.tp]}
        assert sink.committed(list(ends)) == ends
        sink.write(batch(*AFTER[1]))
    lake.agree([*MADE, *AFTER])


@each_case
def test_table_is_there_in_a_new_session(kind: Kind, layout: str, make: MakeLake) -> None:
    """Nothing of it is in the session that saw it first, or in Spark's memory of logs: another session reads all
    versions, writes, and is read by the first."""
    lake = make(kind, layout)
    versions = lake.write(MADE)
    lake.agree(MADE)
    session = lake.spark.spark.newSession()
    session._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()
    other = DeltaLake(kind, lake.harness, SparkTable(session, lake.spark.name))
    clauses = [f"VERSION AS OF {version.id}" for version in versions[-3:]]
    assert other.spark.rows_of_each(clauses) == [version.rows for version in versions[-3:]]
    other.spark.run(insert(900))
    other.write(AFTER, before=MADE)
    lake.agree_on(OPERATIONS["insert"].rows(lake.harness.upsert, flat(AFTER)))


def _newest_checkpoint(lake: DeltaLake) -> int:
    return max(int(file.name.split(".")[0]) for file in (lake.path / "_delta_log").glob("*.checkpoint.parquet"))


def _forget(lake: DeltaLake, checkpoint: int) -> None:
    """Remove the log's entries before that of a checkpoint, as its retention does."""
    for version in range(checkpoint):
        lake.log_entry(version).unlink()
    lake.spark.spark._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()
