"""Spark with Delta's own library beside us: it reads what we write, and writes what we take up.

(Spark's UPDATE can't be resolved with Iceberg's extension in the same session, so MERGE stands for it.)
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from contract_base import commit, opened, updates
from contract_events import batch, canonical, changes, folded, order
from delta_harness import DeltaHarness, vector_harness
from deltalake import DeltaTable

from sources.changes import ChangeBatch

pytestmark = pytest.mark.usefixtures("small_tiers")


def read_by_spark(spark: Any, harness: DeltaHarness) -> list[dict[str, Any]]:
    """All rows, the names of whose columns are those of the orders table."""
    found = spark.read.format("delta").load(str(harness.path))
    times = [f"unix_micros({name}) AS {name}" for name in ("at", "_cdc_ts") if name in found.columns]
    others = [f"`{name}`" for name in found.columns if name not in ("at", "_cdc_ts")]
    return [row.asDict() for row in found.selectExpr(*others, *times).collect()]


def simplified(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with their times in microseconds since 1970."""
    simple = []
    for row in canonical(rows):
        times: dict[str, Any] = {name: row[name] for name in ("at", "_cdc_ts") if name in row}
        micros = {n: v if isinstance(v, int) else round(v.timestamp() * 1_000_000) for n, v in times.items()}
        simple.append({**row, **micros})
    return simple


def agree(spark: Any, harness: DeltaHarness, want: list[dict[str, Any]]) -> None:
    """Spark, DuckDB and delta-rs read these rows; so do their counts, and filters that may skip files."""
    assert harness.rows() == want
    assert simplified(read_by_spark(spark, harness)) == simplified(want)
    table = f"delta.`{harness.path}`"
    ids = sorted(row["id"] for row in want)
    middle = ids[len(ids) // 2]
    assert spark.sql(f"SELECT count(*) FROM {table} WHERE id >= {middle}").collect()[0][0] == sum(
        i >= middle for i in ids
    )
    by_statistics = spark.sql(f"SELECT count(*), min(id), max(id) FROM {table}").collect()[0]
    assert tuple(by_statistics) == (len(want), ids[0], ids[-1])


@pytest.mark.parametrize("partition_by", [(), ("name",)], ids=["plain", "partitioned"])
def test_spark_reads_our_commits_and_we_take_up_its(partition_by: tuple[str, ...], spark: Any, tmp_path: Path) -> None:
    harness = vector_harness(tmp_path, partition_by=partition_by)
    table = f"delta.`{harness.path}`"
    names = ["on hold", "it's %/=?", "plain"]
    log: list[ChangeBatch] = []
    theirs = updates(6, partition=1, seed=5)

    def write(sink: Any, count: int) -> None:
        for _ in range(count):
            n = log[-1].next if log else 0
            rows = [order("u", (3 * n + k) % 40 * 2, names[(n + k) % 3]) for k in range(4)]
            log.append(changes([*rows, order("d", n % 20 * 2)], n))
            commit(sink, log[-1])

    def gone(condition: Any) -> None:
        """Another engine deleted these rows: as if the log had said so, without moving the offset."""
        kept = [row for row in folded(*log) if condition(row["id"])]
        deleted.update(row["id"] for row in kept)

    deleted: set[int] = set()

    def want() -> list[dict[str, Any]]:
        return [row for row in folded(*log, *theirs) if row["id"] not in deleted]

    with closing(opened(harness)) as sink, closing(opened(harness)) as other:
        for part in theirs:
            other.write(batch(part))
        write(sink, 12)
        agree(spark, harness, want())
        spark.sql(f"DELETE FROM {table} WHERE id % 8 = 4 AND id % 2 = 0")
        gone(lambda key: key % 8 == 4)
        agree(spark, harness, want())
        spark.sql(f"OPTIMIZE {table}")
        agree(spark, harness, want())
        before = len(log)
        write(sink, 6)
        deleted -= {row["id"] for part in log[before:] for row in part.rows.to_pylist() if row["_cdc_op"] != "d"}
        agree(spark, harness, want())
        spark.sql(
            f"MERGE INTO {table} AS t USING (SELECT explode(array(0, 2, 6, 8)) AS id) AS s ON t.id = s.id"
            " WHEN MATCHED AND s.id = 6 THEN DELETE WHEN MATCHED THEN UPDATE SET amount = 42"
        )
        gone(lambda key: key == 6)
        merged = {row["id"]: row for row in harness.rows()}
        assert all(merged[key]["amount"] == 42 for key in (0, 2, 8) if key in merged)
        before = len(log)
        log.append(changes([order("u", key, "after the merge") for key in (0, 2, 6, 8)], log[-1].next))
        deleted.discard(6)
        commit(sink, log[-1])
        write(sink, 3)
        deleted -= {row["id"] for part in log[before:] for row in part.rows.to_pylist() if row["_cdc_op"] != "d"}
        agree(spark, harness, want())
        spark.sql(f"REORG TABLE {table} APPLY (PURGE)")
        agree(spark, harness, want())
        before = len(log)
        write(sink, 3)
        deleted -= {row["id"] for part in log[before:] for row in part.rows.to_pylist() if row["_cdc_op"] != "d"}
        agree(spark, harness, want())


def test_spark_replays_the_feed_to_the_same_rows(spark: Any, tmp_path: Path) -> None:
    harness = vector_harness(tmp_path)
    parts = updates(25)
    with closing(opened(harness)) as sink:
        commit(sink, *parts)
    last = DeltaTable(harness.path).version()
    reader = spark.read.format("delta").option("readChangeFeed", "true").option("startingVersion", 1)
    found = reader.option("endingVersion", last).load(str(harness.path))
    rows: dict[int, str] = {}
    feed = [(r["_commit_version"], r["_change_type"] != "delete", r["id"], r["name"]) for r in found.collect()]
    for _, comes, key, name in sorted(feed):
        if comes:
            assert rows.setdefault(key, name) == name
        else:
            assert rows.pop(key) == name
    assert rows == {row["id"]: row["name"] for row in folded(*parts)}


def test_vacuum_of_spark_and_delta_rs_leave_vectors_in_use_alone(spark: Any, tmp_path: Path) -> None:
    harness = vector_harness(tmp_path)
    parts = updates(14)
    with closing(opened(harness)) as sink:
        commit(sink, *parts)
        spark.conf.set("spark.databricks.delta.retentionDurationCheck.enabled", "false")
        spark.sql(f"VACUUM delta.`{harness.path}` RETAIN 0 HOURS")
        agree(spark, harness, folded(*parts))
        DeltaTable(harness.path).vacuum(0, dry_run=False, enforce_retention_duration=False, full=True)
        agree(spark, harness, folded(*parts))
        more = updates(6, seed=3, start=parts[-1].next)
        commit(sink, *more)
    agree(spark, harness, folded(*parts, *more))


def test_polars_reads_tables_whose_paths_need_no_encoding(tmp_path: Path) -> None:
    """Elsewhere it ignores vectors without a word: see the design page."""
    harness = vector_harness(tmp_path, partition_by=("name",))
    parts = [changes([order("u", n % 9, ("plain", "other", None)[n % 3]), order("d", n % 5)], 2 * n) for n in range(12)]
    with closing(opened(harness)) as sink:
        commit(sink, *parts)
    assert canonical(pl.read_delta(str(harness.path)).to_dicts()) == folded(*parts)
