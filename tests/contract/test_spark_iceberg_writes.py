"""Spark 3.5 works on Iceberg tables that we write: it maintains them, writes into them at the same time, comes anew in
another session, and follows their schema; and Lakeward writes on, right."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pyarrow as pa
import pytest
from contract_base import opened, write_until_acknowledged
from contract_events import batch, canonical, changes, folded, log_rows
from contract_evolution import row, shape
from iceberg_harness import read_by_pyiceberg
from iceberg_upkeep import needed, on_disk
from spark_history import (
    AFTER,
    BESIDE_OURS,
    FOREIGN,
    HISTORY,
    MADE,
    MORE,
    Commit,
    Row,
    SparkTable,
    Version,
    commits,
    flat,
    foreign,
    insert,
    inserting,
    rows_after,
    selected,
    values,
)
from spark_iceberg import IcebergLake, Mode, disk_lake, known, rest_lake

from sources.changes import ChangeBatch
from stack.manager import Endpoint

MakeLake = Callable[..., IcebergLake]


@pytest.fixture
def make(spark: Any, tmp_path: Path, rest_catalog: Endpoint, s3: Endpoint) -> MakeLake:
    """A table in the object store: `make(mode, layout)`."""

    def made(mode: Mode, layout: str = "plain", **settings: Any) -> IcebergLake:
        return rest_lake(spark, tmp_path, rest_catalog, s3, mode, layout, **settings)

    return made


MERGE = (
    "MERGE INTO {table} t USING (" + selected(900, 5, FOREIGN) + " UNION ALL " + selected(8, 5, FOREIGN) + ") s"
    " ON t.id = s.id WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT *"
)

PROCEDURES = {
    "rewrite_data_files": (
        "CALL {catalog}.system.rewrite_data_files(table => '{plain}',"
        " options => map('rewrite-all', 'true', 'delete-file-threshold', '1'))",
    ),
    "rewrite_data_files, sorted": (
        "CALL {catalog}.system.rewrite_data_files(table => '{plain}', strategy => 'sort',"
        " sort_order => 'id DESC', options => map('rewrite-all', 'true'))",
    ),
    "rewrite_position_delete_files": (
        "CALL {catalog}.system.rewrite_position_delete_files(table => '{plain}',"
        " options => map('rewrite-all', 'true'))",
    ),
    "rewrite_manifests": ("CALL {catalog}.system.rewrite_manifests(table => '{plain}')",),
    "expire_snapshots": (
        "CALL {catalog}.system.expire_snapshots(table => '{plain}',"
        " older_than => TIMESTAMP '2100-01-01 00:00:00', retain_last => 2)",
    ),
    "all of them": (
        "CALL {catalog}.system.rewrite_data_files(table => '{plain}', options => map('rewrite-all', 'true'))",
        "CALL {catalog}.system.rewrite_position_delete_files(table => '{plain}',"
        " options => map('rewrite-all', 'true'))",
        "CALL {catalog}.system.rewrite_manifests(table => '{plain}')",
        "CALL {catalog}.system.expire_snapshots(table => '{plain}',"
        " older_than => TIMESTAMP '2100-01-01 00:00:00', retain_last => 1)",
    ),
}
MAINTAINED = [
    (name, mode, layout)
    for n, name in enumerate(PROCEDURES)
    for mode, layout in (("append", ("identity", "plain")[n % 2]), ("upsert", ("day", "bucket", "identity")[n % 3]))
    if mode == "upsert" or name != "rewrite_position_delete_files"
]


@pytest.mark.parametrize(("name", "mode", "layout"), MAINTAINED)
def test_after_sparks_maintenance_the_rows_are_the_same_and_we_write_on(
    name: str, mode: Mode, layout: str, make: MakeLake
) -> None:
    """By the sink that was there all the time, then by another process. Kept snapshots stay as they were."""
    lake = make(mode, layout)
    versions = lake.write(MADE)
    with closing(opened(lake.harness)) as sink:
        lake.spark.run(*PROCEDURES[name])
        lake.agree(MADE)
        sink.write(batch(*AFTER[0]))
        sink.tidy()
    versions += [Version(id, rows_after(lake.harness.upsert, [*MADE, AFTER[0]])) for id in lake.ids()[-1:]]
    lake.write(AFTER[1:], before=[*MADE, AFTER[0]])
    lake.agree([*MADE, *AFTER])
    kept = [version for version in versions if version.id in lake.ids()]
    assert lake.spark.rows_of_each([f"VERSION AS OF {v.id}" for v in kept[-3:]]) == [v.rows for v in kept[-3:]]


@pytest.mark.parametrize("mode", ["append", "upsert"])
def test_rollback_by_spark_takes_the_offsets_along(mode: Mode, make: MakeLake) -> None:
    lake = make(mode, "identity")
    versions = lake.write(MADE)
    lake.spark.run(f"CALL {{catalog}}.system.rollback_to_snapshot('{{plain}}', {versions[2].id})")
    lake.agree(MADE[:3])
    with closing(opened(lake.harness)) as sink:
        partitions = [MADE[0][0].tp, MADE[0][1].tp]
        assert sink.committed(partitions) == {part.tp: part.next for commit in MADE[:3] for part in commit}
        for commit in (*MADE[3:], *AFTER):
            sink.write(batch(*commit))
    lake.agree([*MADE, *AFTER])


@pytest.mark.parametrize("mode", ["append", "upsert"])
def test_removal_of_orphans_takes_what_no_snapshot_needs_and_nothing_else(
    mode: Mode, spark: Any, tmp_path: Path, small_tiers: None
) -> None:
    """All files are made two days old. Lakeward's own lists of retired files are orphans to Spark."""
    grace = {"lakeward.reader-grace-seconds": "100000"}
    lake = disk_lake(spark, tmp_path, mode, "identity", table_properties=grace)
    begun = commits(*HISTORY, *(f"c{2 * n}.1 | u{2 * n + 1}.1" for n in range(10)))
    for commit in begun:
        with closing(opened(lake.harness)) as sink:
            sink.write(batch(*commit))
            sink.tidy()
    stray = Path(urlparse(lake.table.metadata.location).path) / "data" / "stray.parquet"
    stray.write_bytes(b"of a crash")
    present = on_disk(tmp_path)
    assert len(present) > len(needed(lake.table)) + 1, "nothing is retired"
    old = time.time() - 48 * 3600
    for path in present:
        os.utime(path, (old, old))
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(time.time() - 36 * 3600))
    lake.spark.run(
        f"CALL {{catalog}}.system.remove_orphan_files(table => '{{plain}}', older_than => TIMESTAMP '{since}')"
    )
    assert on_disk(tmp_path) & {str(stray)} == set()
    assert needed(lake.table) <= on_disk(tmp_path)
    lake.agree(begun)
    more = commits(*MORE, *(f"u{2 * n}.2 | d{2 * n + 1}" for n in range(10)), after=begun)
    with closing(opened(lake.harness)) as sink:
        for commit in more:
            sink.write(batch(*commit))
            sink.tidy()
    lake.agree([*begun, *more])


INTRUSIONS: dict[str, tuple[str, list[ChangeBatch]]] = {
    "insert": (insert(900), [foreign("c", 900)]),
    "merge": (MERGE, [foreign("d", 8), foreign("c", 900)]),
    "delete": ("DELETE FROM {table} WHERE id = 8", [foreign("d", 8)]),
}


@pytest.mark.parametrize("layout", ["plain", "identity"])
@pytest.mark.parametrize("name", INTRUSIONS)
def test_spark_that_commits_just_before_our_upsert_keeps_its_change(name: str, layout: str, make: MakeLake) -> None:
    """Our commit was made for the table without it. Both land; the foreign row stays as others write on."""
    statement, effect = INTRUSIONS[name]
    lake = make("upsert", layout)
    lake.write(MADE)
    with (
        closing(opened(lake.harness)) as sink,
        lake.harness.around_next_commit(before=lambda: _ignore(lake.spark.run(statement))),
    ):
        write_until_acknowledged(sink, batch(*AFTER[0]))
    lake.agree_on(folded(*flat(MADE), *effect, *AFTER[0]))
    lake.write(AFTER[1:], before=[*MADE, AFTER[0]])
    lake.agree_on(folded(*flat(MADE), *effect, *flat(AFTER)))


@pytest.mark.parametrize("layout", ["plain", "day"])
def test_spark_that_inserts_just_before_our_append_keeps_its_row(layout: str, make: MakeLake) -> None:
    lake = make("append", layout)
    lake.write(MADE)
    with (
        closing(opened(lake.harness)) as sink,
        lake.harness.around_next_commit(before=lambda: _ignore(lake.spark.run(insert(900)))),
    ):
        write_until_acknowledged(sink, batch(*AFTER[0]))
    lake.agree_on(log_rows(*flat(MADE), *AFTER[0], foreign("c", 900)))


@pytest.mark.parametrize(("mode", "layout"), [("append", "identity"), ("upsert", "plain"), ("upsert", "bucket")])
def test_spark_and_the_sink_that_write_at_the_same_time_lose_nothing(mode: Mode, layout: str, make: MakeLake) -> None:
    """Each as fast as it can; a lost race is tried again by either."""
    lake = make(mode, layout, table_properties={"commit.retry.num-retries": "50", "commit.retry.min-wait-ms": "10"})
    lake.write(BESIDE_OURS[:1])
    with closing(opened(lake.harness)) as sink, inserting(lake.spark) as theirs:
        for commit in BESIDE_OURS[1:]:
            write_until_acknowledged(sink, batch(*commit))
            sink.tidy()
    lake.agree_on((folded if lake.harness.upsert else log_rows)(*flat(BESIDE_OURS), *theirs))


@pytest.mark.parametrize(("mode", "layout"), [("append", "day"), ("upsert", "identity")])
def test_table_is_there_in_a_new_session_and_for_a_new_catalog(mode: Mode, layout: str, make: MakeLake) -> None:
    """Nothing of it is in the session that saw it first: another one reads all snapshots, writes, and is read."""
    lake = make(mode, layout)
    versions = lake.write(MADE)
    lake.agree(MADE)
    session = lake.spark.spark.newSession()
    other = IcebergLake(lake.harness, SparkTable(session, known(session, lake.harness)))
    assert other.spark.rows_of_each([f"VERSION AS OF {v.id}" for v in versions]) == [v.rows for v in versions]
    other.spark.run(insert(900))
    other.write(AFTER, before=MADE)
    effect = [*flat(MADE), foreign("c", 900), *flat(AFTER)]
    lake.agree_on((folded if lake.harness.upsert else log_rows)(*effect))


SMALL = {"name": pa.string(), "size": pa.int32(), "price": pa.decimal128(6, 2), "region": pa.string()}
SHAPES = [
    shape(1, **SMALL),
    shape(2, **SMALL, note=pa.string()),
    shape(3, **{**SMALL, "size": pa.int64(), "price": pa.decimal128(20, 2)}, note=pa.string()),
    shape(4, **{name: SMALL[name] for name in ("size", "price", "region")}, title=pa.string(), note=pa.string()),
    shape(5, size=pa.int64(), title=pa.string(), region=pa.string()),
]
"""A table; a column is added; two are wider; one has another name; two are gone."""
VALUES: dict[str, Callable[[int, pa.DataType], Any]] = {
    "name": lambda n, _: f"name {n}",
    "title": lambda n, _: f"title {n}",
    "note": lambda n, _: f"note {n}",
    "region": lambda n, _: "north" if n % 2 else "south",
    "size": lambda n, kind: n + (1 << 40 if kind == pa.int64() else 0),
    "price": lambda n, kind: Decimal(10) ** (15 if kind.precision == 20 else 1) + n,
}


def evolved() -> list[Commit]:
    """A commit by each schema."""
    made: list[Commit] = []
    for n, schema in enumerate(SHAPES):
        kinds = {field.name: field.type for field in schema.columns if field.name != "id"}
        rows = [
            row("u", key, **{name: VALUES[name](3 * n + key, kind) for name, kind in kinds.items()})
            for key in (n, n + 1, 3 * n + 2)
        ]
        made.append((changes([*rows, row("d", n)], 4 * n, schema=schema),))
    return made


COLUMNS = {
    2: {"note": "string"},
    3: {"size": "bigint", "price": "decimal(20,2)"},
    4: {"title": "string"},
    5: {},
}


@pytest.mark.parametrize("layout", ["plain", "identity", "bucket"])
@pytest.mark.parametrize("mode", ["append", "upsert"])
def test_old_and_new_snapshots_are_read_by_the_schema_that_they_had(mode: Mode, layout: str, make: MakeLake) -> None:
    """Added, widened, renamed (both names stay) and dropped (it stays, and is null) columns."""
    made = evolved()
    lake = make(mode, layout)
    versions = lake.write(made)
    types = {"id": "bigint", "name": "string", "size": "int", "price": "decimal(6,2)", "region": "string"}
    for version in versions:
        frame = lake.spark.sql(f"SELECT * FROM {{table}} VERSION AS OF {version.id}")
        types |= COLUMNS.get(version.brought[0].schema.id or 0, {})
        found = {field.name: field.dataType.simpleString() for field in frame.schema}
        assert {name: kind for name, kind in found.items() if not name.startswith("_cdc")} == types
        assert canonical(values(frame)) == version.rows
        assert read_by_pyiceberg(lake.table, version.id) == version.rows
    lake.agree(made)
    lake.spark.run(*PROCEDURES["rewrite_data_files"])
    lake.agree(made)


def _ignore(_: list[Row]) -> None:
    """For a hook, which returns nothing."""
