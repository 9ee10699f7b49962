"""Spark 3.5 with Delta 3.3 reads what we write to Delta: the rows, at each version and time, and the change data feed,
version by version. One table per way of writing and layout; its log tells known times."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from contract_events import EPOCH, canonical, changes
from contract_evolution import row, shape
from deltalake import DeltaTable, QueryBuilder
from iceberg_upkeep import small_sizes
from spark_delta import (
    CASE_IDS,
    CASES,
    FEED_TYPES,
    KINDS,
    DeltaLake,
    Kind,
    delta_lake,
    expected_feed,
    told_by_delta_rs,
    told_by_spark,
)
from spark_history import MADE, SPARK_TYPES, Commit, Row, Version, rows_after, values


@dataclass(frozen=True)
class Written(DeltaLake):
    """A table whose history is complete: it is read only."""

    versions: list[Version]

    @property
    def tidied(self) -> bool:
        return len([version for version in self.versions if not version.brought]) > 1


@pytest.fixture(scope="module")
def lake(request: pytest.FixtureRequest, spark: Any, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Tidied as it was written; its versions are an hour apart."""
    kind, layout = request.param
    made = delta_lake(spark, tmp_path_factory.mktemp("lake"), kind, layout)
    with small_sizes():
        versions = made.write(MADE)
    for version in versions:
        at = (EPOCH + timedelta(hours=version.id)).timestamp()
        os.utime(made.log_entry(version.id), (at, at))
    return Written(made.kind, made.harness, made.spark, versions)


each_lake = pytest.mark.parametrize("lake", CASES, ids=CASE_IDS, indirect=True)
each_plain = pytest.mark.parametrize("lake", CASES[::2], ids=CASE_IDS[::2], indirect=True)
each_partitioned = pytest.mark.parametrize("lake", CASES[1::2], ids=CASE_IDS[1::2], indirect=True)


@each_lake
def test_spark_delta_rs_and_duckdb_read_the_rows_that_the_changes_make(lake: Written) -> None:
    lake.agree(MADE)
    assert lake.spark.types() == SPARK_TYPES


@each_lake
def test_each_version_holds_the_rows_of_its_commit(lake: Written) -> None:
    assert lake.tidied == (lake.kind == "vectors")
    found = lake.spark.rows_of_each([f"VERSION AS OF {version.id}" for version in lake.versions])
    assert found == [version.rows for version in lake.versions]
    for version in lake.versions:
        assert _by_delta_rs(lake.path, version.id) == version.rows


@each_plain
def test_at_each_time_the_table_is_as_the_last_version_left_it(lake: Written) -> None:
    """At the second of a version, and half an hour later."""
    moments = [EPOCH + timedelta(hours=v.id, minutes=30 * (n % 2)) for n, v in enumerate(lake.versions[:-1])]
    found = lake.spark.rows_of_each([f"TIMESTAMP AS OF '{moment:%Y-%m-%d %H:%M:%S}'" for moment in moments])
    assert found == [version.rows for version in lake.versions[:-1]]


FILTERS: dict[str, Callable[[Row], Any]] = {
    "id >= 4 AND id < 9": lambda row: 4 <= row["id"] < 9,
    "region = 'it\\'s %/='": lambda row: row.get("region") == "it's %/=",
    "region IS NULL": lambda row: "region" not in row,
    "at >= TIMESTAMP '2026-01-02 00:00:00'": lambda row: "at" in row and row["at"].day >= 2,
    "amount BETWEEN 1.02 AND 6.03": lambda row: "amount" in row and 102 <= 100 * row["amount"] <= 603,
    "name LIKE 'item 1%'": lambda row: row.get("name", "").startswith("item 1"),
}


@each_lake
def test_filters_that_skip_files_find_the_rows_that_meet_them(lake: Written) -> None:
    want = rows_after(lake.harness.upsert, MADE)
    found = lake.spark.rows_of_each([f"WHERE {text}" for text in FILTERS])
    for (text, holds), rows in zip(FILTERS.items(), found, strict=True):
        assert rows == [row for row in want if holds(row)], text


@each_lake
def test_counts_minima_and_maxima_are_those_of_the_rows(lake: Written) -> None:
    """As Spark takes them from the log's statistics where it can."""
    want = rows_after(lake.harness.upsert, MADE)
    ids, sizes = [row["id"] for row in want], [row["size"] for row in want if "size" in row]
    [found] = lake.spark.run("SELECT count(*), min(id), max(id), min(size), max(size) FROM {table}")
    assert tuple(found.values()) == (len(want), min(ids), max(ids), min(sizes), max(sizes))


@each_lake
def test_change_data_feed_tells_what_each_commit_changed_at_the_source(lake: Written) -> None:
    """Inserts, deletes, and updates with the row before and after; all columns, at their types."""
    frame = lake.feed(startingVersion=0)
    assert {field.name: field.dataType.simpleString() for field in frame.schema} == {**SPARK_TYPES, **FEED_TYPES}
    ids = [version.id for version in lake.versions]
    assert told_by_spark(frame, ids) == expected_feed(lake.kind, lake.versions)


@pytest.mark.parametrize("partition_by", [(), ("paid",)], ids=["plain", "partitioned"])
@pytest.mark.parametrize("kind", KINDS)
def test_delta_rs_tells_the_same_feed(
    kind: Kind, partition_by: tuple[str, ...], tmp_path: Path, small_tiers: None
) -> None:
    """(Where names of partitions need encoding, it doesn't find its own files: it encodes them twice.)"""
    lake = delta_lake(None, tmp_path, kind, partition_by=partition_by)
    versions = lake.write(MADE)
    ids = [version.id for version in versions]
    assert told_by_delta_rs(lake.path, ids) == expected_feed(kind, versions)


@each_partitioned
def test_feed_between_two_versions_or_times_is_a_part_of_the_whole(lake: Written) -> None:
    ids = [version.id for version in lake.versions]
    want = expected_feed(lake.kind, lake.versions)
    middle = len(ids) // 2
    some = lake.feed(startingVersion=ids[2], endingVersion=ids[middle])
    assert told_by_spark(some, ids[2 : middle + 1]) == want[2 : middle + 1]
    times = [f"{EPOCH + timedelta(hours=id):%Y-%m-%d %H:%M:%S}" for id in (ids[middle], ids[-2])]
    later = lake.feed(startingTimestamp=times[0], endingTimestamp=times[1])
    assert told_by_spark(later, ids[middle:-1]) == want[middle:-1]
    stamps = {(r["_commit_version"], r["_commit_timestamp"]) for r in values(later)}
    assert stamps == {(id, EPOCH + timedelta(hours=id)) for id, told in zip(ids, want, strict=True) if told
                      and ids[middle] <= id <= ids[-2]}  # fmt: skip


@each_plain
def test_history_tells_each_version_and_its_time(lake: Written) -> None:
    found = lake.spark.run("DESCRIBE HISTORY {table}")
    stamps = {row["version"]: row["timestamp"] for row in found}
    assert stamps == {version.id: EPOCH + timedelta(hours=version.id) for version in lake.versions}


SHAPES = [
    shape(1, name=pa.string(), region=pa.string(), size=pa.int32()),
    shape(2, name=pa.string(), region=pa.string(), size=pa.int32(), note=pa.string()),
    shape(3, title=pa.string(), region=pa.string(), size=pa.int32(), note=pa.string()),
    shape(4, title=pa.string(), region=pa.string(), big=pa.int64()),
]
"""A table; a column is added; one has another name; two are gone and one is new."""
ADDED = {1: {"name": "string", "region": "string", "size": "int"}, 2: {"note": "string"}, 3: {"title": "string"},
         4: {"big": "bigint"}}  # fmt: skip


def evolved() -> list[Commit]:
    made: list[Commit] = []
    for n, schema in enumerate(SHAPES):
        texts = {f.name: f"{f.name} {n}" for f in schema.columns if f.type == pa.string() and f.name != "region"}
        numbers = {f.name: n - 7 for f in schema.columns if f.name in ("size", "big")}
        rows = [row("u", key, **texts, **numbers, region="ns"[key % 2]) for key in (n, n + 1, 3 * n + 2)]
        made.append((changes([*rows, row("d", n)], 4 * n, schema=schema),))
    return made


@pytest.mark.parametrize("layout", ["plain", "partitioned"])
@pytest.mark.parametrize("kind", KINDS)
def test_old_and_new_versions_are_read_by_the_schema_that_they_had(
    kind: Kind, layout: str, spark: Any, tmp_path: Path
) -> None:
    """Added, renamed (both names stay) and dropped (it stays, and is null) columns; the feed goes across."""
    made = evolved()
    lake = delta_lake(spark, tmp_path, kind, layout)
    versions = lake.write(made)
    lake.agree(made)
    types = {"id": "bigint"}
    for version in (v for v in versions if v.brought):
        frame = lake.spark.sql(f"SELECT * FROM {{table}} VERSION AS OF {version.id}")
        types |= ADDED[version.brought[0].schema.id or 0]
        found = {field.name: field.dataType.simpleString() for field in frame.schema}
        assert {name: kind for name, kind in found.items() if not name.startswith("_cdc")} == types
        assert canonical(values(frame)) == version.rows
    ids = [version.id for version in versions]
    assert told_by_spark(lake.feed(startingVersion=0), ids) == expected_feed(kind, versions)


def _by_delta_rs(path: Path, version: int) -> list[Row]:
    table = DeltaTable(path, version=version)
    found = pa.table(QueryBuilder().register("t", table).execute("SELECT * FROM t").read_all())
    return canonical(found.to_pylist())
