"""Spark 3.5 reads what we write to Iceberg, in a REST catalog with its warehouse in an S3 store: the rows, at each
snapshot, what came between two of them, and what the table consists of. One table per write mode and layout."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from contract_events import TOPIC, canonical, log_rows
from iceberg_harness import read_by_pyiceberg
from spark_history import MADE, SPARK_TYPES, Row, Version, grouped, offsets, rows_after, values
from spark_iceberg import CASE_IDS, CASES, IcebergLake, rest_lake

from stack.manager import Endpoint


@dataclass(frozen=True)
class Written(IcebergLake):
    """A table whose history is complete: it is read only."""

    versions: list[Version]


@pytest.fixture(scope="module")
def lake(
    request: pytest.FixtureRequest,
    spark: Any,
    tmp_path_factory: pytest.TempPathFactory,
    rest_catalog: Endpoint,
    s3: Endpoint,
) -> Written:
    mode, layout = request.param
    made = rest_lake(spark, tmp_path_factory.mktemp("lake"), rest_catalog, s3, mode, layout)
    return Written(made.harness, made.spark, made.write(MADE))


each_lake = pytest.mark.parametrize("lake", CASES, ids=CASE_IDS, indirect=True)
each_log = pytest.mark.parametrize("lake", CASES[:4], ids=CASE_IDS[:4], indirect=True)
each_upsert = pytest.mark.parametrize("lake", CASES[4:], ids=CASE_IDS[4:], indirect=True)


@each_lake
def test_spark_pyiceberg_and_duckdb_read_the_rows_that_the_changes_make(lake: Written) -> None:
    lake.agree(MADE)


@each_lake
def test_columns_have_the_types_of_the_source(lake: Written) -> None:
    assert lake.spark.types() == SPARK_TYPES


@each_lake
def test_each_snapshot_holds_the_rows_of_its_commit(lake: Written) -> None:
    assert len(lake.versions) == len(MADE)
    found = lake.spark.rows_of_each([f"VERSION AS OF {version.id}" for version in lake.versions])
    for version, rows in zip(lake.versions, found, strict=True):
        assert rows == version.rows
        assert read_by_pyiceberg(lake.table, version.id) == version.rows


@each_lake
def test_at_each_time_the_table_is_as_its_last_commit_left_it(lake: Written) -> None:
    """In the millisecond of a commit, and up to the one before the next."""
    times = [snapshot.timestamp_ms for snapshot in lake.table.snapshots()]
    moments = [times[0], *(after - 1 for after in times[1:]), times[-1]]
    found = lake.spark.rows_of_each([f"TIMESTAMP AS OF '{_time(moment)}'" for moment in moments])
    assert found == [version.rows for version in (lake.versions[0], *lake.versions)]


FILTERS: dict[str, Callable[[Row], Any]] = {
    "id >= 4 AND id < 9": lambda row: 4 <= row["id"] < 9,
    "region = 'it\\'s %/='": lambda row: row.get("region") == "it's %/=",
    "region IS NULL": lambda row: "region" not in row,
    "region IS NOT NULL AND NOT paid": lambda row: "region" in row and row["paid"] is False,
    "at >= TIMESTAMP '2026-01-02 00:00:00'": lambda row: "at" in row and row["at"].day >= 2,
    "amount BETWEEN 1.02 AND 6.03": lambda row: "amount" in row and 102 <= 100 * row["amount"] <= 603,
    "name LIKE 'item 1%'": lambda row: row.get("name", "").startswith("item 1"),
    "raw = X'010000FF'": lambda row: row.get("raw") == b"\x01\x00\x00\xff",
}


@each_lake
def test_filters_that_skip_files_find_the_rows_that_meet_them(lake: Written) -> None:
    want = rows_after(lake.harness.upsert, MADE)
    found = lake.spark.rows_of_each([f"WHERE {text}" for text in FILTERS])
    for (text, holds), rows in zip(FILTERS.items(), found, strict=True):
        assert rows == [row for row in want if holds(row)], text


@pytest.mark.parametrize("lake", [CASES[1], CASES[5]], ids=[CASE_IDS[1], CASE_IDS[5]], indirect=True)
def test_filters_on_partitions_are_met_by_the_scan_alone(lake: Written) -> None:
    frame = lake.spark.sql("SELECT * FROM {table} WHERE region = 'north'")
    plan = frame._jdf.queryExecution().executedPlan().toString()
    assert "filters=region IS NOT NULL, region = 'north'" in plan
    assert "Filter" not in plan.replace("RuntimeFilters", "")
    rows = canonical(values(frame))
    assert rows == [row for row in rows_after(lake.harness.upsert, MADE) if row.get("region") == "north"]


@each_lake
def test_counts_minima_and_maxima_are_those_of_the_rows(lake: Written) -> None:
    want = rows_after(lake.harness.upsert, MADE)
    what = "count(*), count(region), count(DISTINCT id), min(id), max(id), min(amount), max(at), sum(size)"
    found = [tuple(row.values()) for row in lake.spark.run(f"SELECT {what} FROM {{table}}")]
    columns = {name: [row[name] for row in want if name in row] for name in ("id", "region", "amount", "at", "size")}
    ids, amounts = columns["id"], columns["amount"]
    some = len(columns["region"]), len(set(ids)), min(ids), max(ids), min(amounts)
    assert found == [(len(want), *some, max(columns["at"]), sum(columns["size"]))]


@each_lake
def test_snapshots_carry_the_offsets_up_to_which_their_rows_go(lake: Written) -> None:
    found = lake.spark.run("SELECT snapshot_id, parent_id, summary FROM {table}.snapshots ORDER BY committed_at")
    ids = [version.id for version in lake.versions]
    assert [(row["snapshot_id"], row["parent_id"]) for row in found] == list(zip(ids, [None, *ids], strict=False))
    for n, row in enumerate(found, 1):
        carried = json.loads(row["summary"]["lakeward.offsets.contract.lake"])
        assert {(TOPIC, int(partition)): at for partition, at in carried[TOPIC].items()} == offsets(MADE[:n])
    history = lake.spark.run("SELECT snapshot_id, is_current_ancestor FROM {table}.history ORDER BY made_current_at")
    assert [tuple(row.values()) for row in history] == [(id, True) for id in ids]


@each_lake
def test_files_and_manifests_count_the_rows_that_are_there(lake: Written) -> None:
    """All rows that were ever written are in data files; what was replaced or deleted is told by position."""
    files = lake.spark.run("SELECT content, sum(record_count) AS n, count(*) AS files FROM {table}.files GROUP BY 1")
    rows = {row["content"]: row["n"] for row in files}
    assert rows.pop(0) - rows.pop(1, 0) == len(rows_after(lake.harness.upsert, MADE))
    assert not rows, "equality deletes"
    manifests = lake.spark.run(
        "SELECT content, sum(added_data_files_count + existing_data_files_count) AS data,"
        " sum(added_delete_files_count + existing_delete_files_count) AS deletes FROM {table}.manifests GROUP BY 1"
    )
    listed = {row["content"]: row["deletes" if row["content"] else "data"] for row in manifests}
    assert listed == {row["content"]: row["files"] for row in files}


@pytest.mark.parametrize("lake", [CASES[1], CASES[5]], ids=[CASE_IDS[1], CASE_IDS[5]], indirect=True)
def test_partitions_count_the_rows_of_their_values(lake: Written) -> None:
    found = lake.spark.run(
        "SELECT partition.region AS region, record_count - position_delete_record_count AS n FROM {table}.partitions"
    )
    want = Counter(row.get("region") for row in rows_after(lake.harness.upsert, MADE))
    assert {row["region"]: row["n"] for row in found if row["n"]} == dict(want)


@each_log
def test_incremental_read_brings_what_came_between_two_snapshots(lake: Written) -> None:
    """Between neighbours, over several commits, and from the first snapshot to the last."""
    spans = [(n, n + 1) for n in range(len(MADE) - 1)] + [(0, 3), (1, 4), (0, len(MADE) - 1)]
    frame = None
    for number, (start, end) in enumerate(spans):
        reader = lake.spark.spark.read.option("start-snapshot-id", lake.versions[start].id)
        part = reader.option("end-snapshot-id", lake.versions[end].id).table(lake.spark.name)
        part = part.selectExpr(f"{number} AS _n", "*")
        frame = part if frame is None else frame.unionAll(part)
    found = grouped(values(frame), range(len(spans)))
    for (start, end), rows in zip(spans, found, strict=True):
        assert rows == log_rows(*(part for commit in MADE[start + 1 : end + 1] for part in commit))


@each_log
def test_changelog_view_tells_each_row_as_an_insert_of_its_snapshot(lake: Written) -> None:
    view = f"changes_{id(lake)}"
    first = lake.versions[1].id
    lake.spark.run(
        "CALL {catalog}.system.create_changelog_view(table => '{plain}',"
        f" options => map('start-snapshot-id', '{first}'), changelog_view => '{view}')"
    )
    found = values(lake.spark.spark.table(view))
    ids = [version.id for version in lake.versions]
    by_snapshot: dict[int, list[Row]] = {snapshot: [] for snapshot in ids[2:]}
    for row in found:
        assert row.pop("_change_type") == "INSERT"
        assert ids[row.pop("_change_ordinal") + 2] == row["_commit_snapshot_id"]
        by_snapshot[row.pop("_commit_snapshot_id")].append(row)
    assert [canonical(rows) for rows in by_snapshot.values()] == [log_rows(*commit) for commit in MADE[2:]]


@each_upsert
def test_upserts_delete_by_position_and_rewrite_nothing(lake: Written) -> None:
    """What snapshots added and deleted, as Spark tells it, is what each commit changed."""
    found = lake.spark.run("SELECT snapshot_id, summary FROM {table}.snapshots ORDER BY committed_at")
    before: set[int] = set()
    for version, row in zip(lake.versions, found, strict=True):
        after = {r["id"] for r in version.rows}
        touched = {r["id"] for part in version.brought for r in part.rows.to_pylist()}
        summary = row["summary"]
        assert int(summary.get("added-records", 0)) == len(touched & after)
        assert int(summary.get("added-position-deletes", 0)) == len(touched & before)
        assert int(summary.get("deleted-data-files", 0)) == 0
        before = after


def _time(milliseconds: int) -> str:
    return f"{datetime.fromtimestamp(milliseconds // 1000, UTC):%Y-%m-%d %H:%M:%S}.{milliseconds % 1000:03}"
