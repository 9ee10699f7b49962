"""Another engine in our upsert table: Spark 3.5 compacts, deletes, appends, expires, rolls back; Lakeward goes on.

Spark reads and writes the same table over the same catalog, before a commit of ours, and between the rewriting of files
and its commit. Afterwards PyIceberg, DuckDB and Spark read the rows that the changes make.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from contract_base import commit, inserts, opened, updates
from contract_events import batch, changes, folded, order
from iceberg_harness import IcebergHarness
from iceberg_upkeep import between_rewrite_and_commit, counts, present
from test_iceberg_tidy import make

from sinks.base import Sink
from sources.changes import ChangeBatch
from stack.readers import SparkCatalog, add_catalog

pytestmark = pytest.mark.usefixtures("small_tiers")

KEY = 4
"""A key that the changes touch, too."""


@dataclass
class Lake:
    """A table of ours that Spark knows as `name`."""

    harness: IcebergHarness
    spark: Any
    name: str

    def run(self, *statements: str) -> None:
        """Spark SQL; `{table}`, `{catalog}` and `{plain}` (without the catalog) are filled in."""
        catalog, plain = self.name.split(".", 1)
        for statement in statements:
            self.spark.sql(statement.format(table=self.name, catalog=catalog, plain=plain)).collect()

    def rows(self) -> list[tuple[int, str, int]]:
        """Id, name and offset of all rows, by Spark."""
        found = self.spark.sql(f"SELECT id, name, _cdc_offset FROM {self.name} ORDER BY id").collect()
        return [tuple(row) for row in found]


@pytest.fixture
def lake(spark: Any, tmp_path: Path, request: pytest.FixtureRequest) -> Lake:
    catalog = f"c{uuid4().hex[:8]}"
    partition_by = getattr(request, "param", ())
    harness = make(tmp_path, catalog_name=catalog, partition_by=list(partition_by))
    add_catalog(spark, SparkCatalog(catalog, harness.config.catalog_uri, harness.config.warehouse))
    return Lake(harness, spark, f"{catalog}.lake.orders")


@dataclass(frozen=True)
class Foreign:
    """What Spark does, and the change of rows that it means, if any."""

    statements: tuple[str, ...]
    change: tuple[str, int] | None = None

    def effect(self) -> list[ChangeBatch]:
        """As a batch that is folded in at its place."""
        if self.change is None:
            return []
        op, key = self.change
        return [changes([order(op, key, "by spark")], 1_000_000)]


INSERT = (
    "INSERT INTO {table} (id, name, amount, at, _cdc_topic, _cdc_partition, _cdc_offset, _cdc_op, _cdc_ts)"
    " SELECT 904, 'by spark', CAST(904.01 AS DECIMAL(12, 2)), TIMESTAMP '2026-01-01 00:15:04', 'cdc.public.orders', 0,"
    " 1000000L, 'c', TIMESTAMP '2026-01-01 00:16:40'"
)
FOREIGN = {
    "rewrite_data_files": Foreign(
        (
            "CALL {catalog}.system.rewrite_data_files(table => '{plain}',"
            " options => map('rewrite-all', 'true', 'delete-file-threshold', '1'))",
        )
    ),
    "rewrite_data_files sorted": Foreign(
        (
            "CALL {catalog}.system.rewrite_data_files(table => '{plain}', strategy => 'sort', sort_order => 'name',"
            " options => map('rewrite-all', 'true'))",
        )
    ),
    "rewrite_position_delete_files": Foreign(
        (
            "CALL {catalog}.system.rewrite_position_delete_files(table => '{plain}',"
            " options => map('rewrite-all', 'true'))",
        )
    ),
    "rewrite_manifests": Foreign(("CALL {catalog}.system.rewrite_manifests(table => '{plain}')",)),
    "expire_snapshots": Foreign(
        (
            "CALL {catalog}.system.expire_snapshots(table => '{plain}', older_than => TIMESTAMP '2100-01-01 00:00:00',"
            " retain_last => 1)",
        )
    ),
    "delete by position": Foreign(
        (
            "ALTER TABLE {table} SET TBLPROPERTIES ('write.delete.mode' = 'merge-on-read')",
            "DELETE FROM {table} WHERE id = 4",
        ),
        ("d", KEY),
    ),
    "delete by rewriting": Foreign(("DELETE FROM {table} WHERE id = 4",), ("d", KEY)),
    "append": Foreign((INSERT,), ("c", 904)),
}


def check(lake: Lake, parts: list[ChangeBatch]) -> None:
    want = folded(*parts)
    assert lake.harness.rows() == want
    assert lake.rows() == [(row["id"], row["name"], row["_cdc_offset"]) for row in sorted(want, key=lambda r: r["id"])]


@pytest.mark.parametrize("lake", [(), ("bucket(3, id)",)], indirect=True, ids=["plain", "bucketed"])
@pytest.mark.parametrize("name", FOREIGN)
def test_rows_are_right_after_a_foreign_operation_between_commits(name: str, lake: Lake) -> None:
    foreign = FOREIGN[name]
    before = [inserts(0, 12), *updates(30, start=12)]
    after = updates(30, seed=9, start=before[-1].next)
    with closing(opened(lake.harness)) as sink:
        commit(sink, *before)
        check(lake, before)
        lake.run(*foreign.statements)
        commit(sink, after[0])
        check(lake, [*before, *foreign.effect(), after[0]])
        commit(sink, *after[1:], changes([order("u", 904, "later")], after[-1].next))
    check(lake, [*before, *foreign.effect(), *after, changes([order("u", 904, "later")], after[-1].next)])
    assert counts(present(lake.harness))[0] < 24


@pytest.mark.parametrize("name", FOREIGN)
def test_rows_are_right_after_a_foreign_operation_in_the_middle_of_tidying(name: str, lake: Lake) -> None:
    foreign = FOREIGN[name]
    before = [inserts(0, 12), *updates(20, start=12)]
    after = updates(30, seed=9, start=before[-1].next)
    log = list(before)
    with closing(opened(lake.harness)) as sink:
        commit(sink, *before)
        intruded = False
        for part in after:
            sink.write(batch(part))
            log.append(part)
            if intruded:
                sink.tidy()
                continue
            intruded = _tidy_with_intruder(sink, lambda: lake.run(*foreign.statements))
            if intruded:
                log += foreign.effect()
                check(lake, log)
    assert intruded
    check(lake, log)


def _tidy_with_intruder(sink: Sink, action: Callable[[], object]) -> bool:
    with between_rewrite_and_commit(sink, action) as happened:
        sink.tidy()
    return bool(happened)


def test_rollback_by_spark_is_written_again_from_where_it_leads(lake: Lake) -> None:
    parts = [inserts(0, 12), *updates(20, start=12)]
    with closing(opened(lake.harness)) as sink:
        commit(sink, *parts)
        table = present(lake.harness)
        old = table.metadata.snapshot_log[-3].snapshot_id
        lake.run(f"CALL {{catalog}}.system.rollback_to_snapshot('{{plain}}', {old})")
    with closing(opened(lake.harness)) as sink:
        at = sink.committed([parts[0].tp]).get(parts[0].tp, 0)
        assert at < parts[-1].next
        for part in parts:
            if part.first >= at:
                commit(sink, part)
    check(lake, parts)
