"""Iceberg tables beyond the contract: names of the offsets, what a commit adds, partitions, tables that don't fit."""

from __future__ import annotations

import json
import re
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from contract_base import committed, expected, inserts, opened, write
from contract_events import ORDERS, ORDERS_WITH_NOTE, TOPIC, batch, changes, empty_batch, folded, order
from iceberg_harness import NAME, NAMESPACE, IcebergHarness, around_next_catalog_commit
from iceberg_upkeep import present
from pyiceberg.exceptions import CommitStateUnknownException
from pyiceberg.manifest import DataFileContent, ManifestContent
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import IntegerType, LongType, NestedField, StringType, TimestamptzType

from config.errors import ConfigurationError, DestinationChanged, PipelineStopped, Unavailable, UnsupportedChange
from sources.changes import TableSchema, TopicPartition

TP0, TP1 = TopicPartition(TOPIC, 0), TopicPartition(TOPIC, 1)
KEYS = {name: f"lakeward.{name}.contract.lake" for name in ("offsets", "partitions", "schemas")}


def create(harness: IcebergHarness, schema: Schema, **more: Any) -> Table:
    """A table that somebody else made."""
    catalog = harness.catalog()
    catalog.create_namespace(NAMESPACE)
    return catalog.create_table(f"{NAMESPACE}.{NAME}", schema, **more)


OUR_FIELDS = (
    NestedField(11, "_cdc_topic", StringType()),
    NestedField(12, "_cdc_partition", IntegerType()),
    NestedField(13, "_cdc_offset", LongType()),
    NestedField(14, "_cdc_op", StringType()),
    NestedField(15, "_cdc_ts", TimestamptzType()),
)


@pytest.mark.parametrize("mode", ["append", "upsert"])
def test_offsets_counts_and_schema_ids_have_their_public_names(mode: Any, tmp_path: Path) -> None:
    harness = IcebergHarness(mode, tmp_path)
    with closing(opened(harness)) as sink:
        receipt = sink.write(batch(inserts(0, 3), inserts(5, 2, partition=1), counts={TOPIC: 2}))
    table = present(harness)
    snapshot = table.current_snapshot()
    assert snapshot is not None
    assert snapshot.summary is not None
    assert snapshot.snapshot_id == receipt.version
    for entries in (table.properties, snapshot.summary.additional_properties):
        assert json.loads(entries[KEYS["offsets"]]) == {TOPIC: {"0": 3, "1": 7}}
        assert json.loads(entries[KEYS["partitions"]]) == {TOPIC: 2}
        assert json.loads(entries[KEYS["schemas"]]) == {TOPIC: 1}


def test_each_commit_makes_one_snapshot_whatever_it_carries(tmp_path: Path) -> None:
    harness = IcebergHarness("upsert", tmp_path)
    noted = changes([order("u", 0, note="x")], 9, schema=ORDERS_WITH_NOTE)
    with closing(opened(harness)) as sink:
        for todo in (batch(inserts(0, 3)), empty_batch(3, 9), batch(noted, inserts(0, 2, partition=1))):
            sink.write(todo)
        sink.write(batch(inserts(0, 3)))
    assert len(present(harness).snapshots()) == 3


def test_upsert_adds_position_deletes_and_rewrites_no_file(tmp_path: Path) -> None:
    harness = IcebergHarness("upsert", tmp_path)
    parts = inserts(0, 50), changes([order("u", 10, "new"), order("d", 20)], 50), inserts(0, 4, partition=1)
    with closing(opened(harness)) as sink:
        sink.write(batch(parts[0]))
        before = {task.file.file_path for task in present(harness).scan().plan_files()}
        sink.write(batch(*parts[1:]))
    table = present(harness)
    assert table.format_version == 2
    files = [entry for manifest in _manifests(table) for entry in manifest.fetch_manifest_entry(table.io)]
    data = [entry.data_file for entry in files if entry.data_file.content == DataFileContent.DATA]
    deletes = [entry.data_file for entry in files if entry.data_file.content == DataFileContent.POSITION_DELETES]
    assert len(data) + len(deletes) == len(files)
    assert before < {file.file_path for file in data}
    assert [file.record_count for file in deletes] == [2]
    assert len(data) == 3
    assert all(file.lower_bounds and file.null_value_counts for file in data)
    owners = {re.search(r"/lw-[0-9a-f]{16}-(\d+)-", file.file_path)[1] for file in data}  # type: ignore[index]
    assert owners == {"0", "1"}
    assert {entry.sequence_number for entry in files} == {1, 2}


def _manifests(table: Table) -> list[Any]:
    snapshot = table.current_snapshot()
    assert snapshot is not None
    return snapshot.manifests(table.io)


def test_readers_may_skip_files_by_their_bounds(tmp_path: Path) -> None:
    harness = IcebergHarness("append", tmp_path)
    with closing(opened(harness)) as sink:
        for n in range(3):
            sink.write(batch(inserts(4 * n, 4)))
    table = present(harness)
    assert len(list(table.scan("id = 50").plan_files())) == 1
    assert len(list(table.scan("name = 'zebra'").plan_files())) == 0
    assert table.scan("id >= 40 and id < 60").to_arrow().num_rows == 2


@pytest.mark.parametrize("mode", ["append", "upsert"])
def test_manifests_and_old_metadata_stay_few_over_many_commits(mode: Any, tmp_path: Path) -> None:
    harness = IcebergHarness(mode, tmp_path)
    parts = [changes([order("u", n % 7, f"v{n}")], n) for n in range(45)]
    with closing(opened(harness)) as sink:
        for part in parts:
            sink.write(batch(part))
    table = present(harness)
    kinds = [manifest.content for manifest in _manifests(table)]
    assert kinds.count(ManifestContent.DATA) < 25
    assert kinds.count(ManifestContent.DELETES) < 25
    assert len(list((tmp_path / "warehouse").rglob("*.metadata.json"))) <= 25
    assert harness.rows() == expected(harness, *parts)


def test_upsert_table_says_its_key(tmp_path: Path) -> None:
    harness = IcebergHarness("upsert", tmp_path)
    with closing(opened(harness)) as sink:
        sink.write(batch(inserts(0, 1)))
    schema = present(harness).schema()
    assert schema.identifier_field_names() == {"id"}
    assert [field.name for field in schema.fields if field.required] == ["id"]


PARTITIONED = [
    ("name",),
    ("bucket(4, id)",),
    ("truncate(2, name)", "day(at)"),
    ("month(at)",),
    ("year(at)",),
    ("hour(at)", "id"),
]


@pytest.mark.parametrize("partition_by", PARTITIONED, ids=str)
@pytest.mark.parametrize("mode", ["append", "upsert"])
def test_partitioned_table_follows_rows_that_move_to_another_partition(
    mode: Any, partition_by: tuple[str, ...], tmp_path: Path
) -> None:
    harness = IcebergHarness(mode, tmp_path, partition_by=partition_by)
    parts = (
        changes([order("c", 1, "here"), order("c", 2, "it's %/=?"), ("c", {"id": 3})], 0),
        changes([order("u", 1, "there"), order("d", 2), order("u", 3, "here"), ("u", {"id": 4})], 3),
        changes([order("u", 1, "here"), ("u", {"id": 3}), order("d", 4)], 7),
    )
    with closing(opened(harness)) as sink:
        for part in parts:
            sink.write(batch(part))
            sink.write(batch(part))
    assert len(present(harness).spec().fields) == len(partition_by)
    assert harness.rows() == expected(harness, *parts)
    scan = present(harness).scan("name = 'here'").to_arrow().to_pylist()
    assert sorted(row["id"] for row in scan) == sorted(
        row["id"] for row in expected(harness, *parts) if row.get("name") == "here"
    )


def test_partition_column_that_the_source_lacks_is_named(tmp_path: Path) -> None:
    harness = IcebergHarness("append", tmp_path, partition_by=("day(att)",))
    with closing(opened(harness)) as sink, pytest.raises(ConfigurationError, match=r"partition_by names att.*amount"):
        sink.write(batch(inserts(0, 1)))
    assert harness.table() is None


def test_partition_transform_that_the_type_forbids_is_named(tmp_path: Path) -> None:
    harness = IcebergHarness("append", tmp_path, partition_by=("day(name)",))
    with closing(opened(harness)) as sink, pytest.raises(ConfigurationError, match=r"day\(name\).*string"):
        sink.write(batch(inserts(0, 1)))


def test_column_with_two_transforms_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    harness = IcebergHarness("append", tmp_path, partition_by=("year(at)", "hour(at)"))
    with closing(opened(harness)) as sink, pytest.raises(ConfigurationError, match="names at more than once"):
        sink.write(batch(inserts(0, 1)))
    assert harness.table() is None


def test_missing_table_is_named_where_none_may_be_made(tmp_path: Path) -> None:
    sink = IcebergHarness("append", tmp_path, auto_create_table=False).new_sink()
    with closing(sink), pytest.raises(ConfigurationError, match=r"lake\.orders doesn't exist and auto_create_table"):
        sink.open()


def test_table_properties_of_the_configuration_win(tmp_path: Path) -> None:
    harness = IcebergHarness(
        "append", tmp_path, table_properties={"write.metadata.previous-versions-max": "3", "a": "b"}
    )
    with closing(opened(harness)) as sink:
        sink.write(batch(inserts(0, 1)))
    properties = present(harness).properties
    assert (properties["write.metadata.previous-versions-max"], properties["a"]) == ("3", "b")


def test_foreign_table_without_our_columns_is_refused_at_open_by_column(tmp_path: Path) -> None:
    harness = IcebergHarness("upsert", tmp_path)
    fields = NestedField(1, "id", LongType()), NestedField(2, "_cdc_op", IntegerType())
    spec = PartitionSpec(PartitionField(1, 1000, IdentityTransform(), "id"))
    create(harness, Schema(*fields), partition_spec=spec)
    with closing(harness.new_sink()) as sink, pytest.raises(ConfigurationError) as error:
        sink.open()
    for part in ("_cdc_topic", "_cdc_partition", "_cdc_offset", "_cdc_op is int", "_cdc_ts", "identifier", "identity"):
        assert part in str(error.value)


def test_table_of_format_1_is_refused(tmp_path: Path) -> None:
    harness = IcebergHarness("append", tmp_path)
    create(harness, Schema(NestedField(1, "id", LongType()), *OUR_FIELDS), properties={"format-version": "1"})
    with closing(harness.new_sink()) as sink, pytest.raises(ConfigurationError, match="format version is 1"):
        sink.open()


def test_table_made_by_hand_that_fits_is_taken(tmp_path: Path) -> None:
    harness = IcebergHarness("upsert", tmp_path, auto_create_table=False)
    with closing(opened(IcebergHarness("upsert", tmp_path / "model"))) as model:
        model.write(batch(inserts(0, 1)))
    made = present(IcebergHarness("upsert", tmp_path / "model")).schema()
    create(harness, made)
    part = changes([order("c", 1), order("u", 1, "again"), order("c", 2)], 10)
    with closing(opened(harness)) as sink:
        assert sink.committed([TP0]) == {}
        sink.write(batch(part))
    assert harness.rows() == folded(part)


def test_table_of_the_other_write_mode_is_refused(tmp_path: Path) -> None:
    with closing(opened(IcebergHarness("append", tmp_path))) as sink:
        sink.write(batch(inserts(0, 2)))
    with (
        closing(IcebergHarness("upsert", tmp_path).new_sink()) as sink,
        pytest.raises(ConfigurationError, match="ident"),
    ):
        sink.open()


def test_changed_primary_key_stops_even_after_a_restart(tmp_path: Path) -> None:
    harness = IcebergHarness("upsert", tmp_path)
    with closing(opened(harness)) as sink:
        sink.write(batch(inserts(0, 2)))
    rekeyed = changes([order("u", 1)], 2, schema=TableSchema(ORDERS.columns, ("id", "name"), 5))
    with closing(opened(harness)) as sink, pytest.raises(UnsupportedChange, match=r"is \(id, name\), but .* by \(id\)"):
        sink.write(batch(rekeyed))
    assert committed(harness) == {TP0: 2}


@pytest.mark.parametrize("mode", ["append", "upsert"])
def test_unknown_state_of_a_commit_is_looked_up(mode: Any, tmp_path: Path) -> None:
    """The catalog answered 5xx: the commit may have landed or not, and another one may have come on top."""
    harness = IcebergHarness(mode, tmp_path)

    def lost() -> None:
        raise CommitStateUnknownException("502 Bad Gateway")

    parts = [inserts(0, 2), inserts(2, 2), changes([order("u", 0, "new")], 4), inserts(5, 1)]
    other = inserts(0, 2, partition=1)
    with closing(opened(harness)) as sink, closing(opened(harness)) as second:
        sink.write(batch(parts[0]))
        with around_next_catalog_commit(after=lost), pytest.raises(Unavailable):
            sink.write(batch(parts[1]))
        assert sink.write(batch(parts[1])).next_offsets == {TP0: 4}
        with around_next_catalog_commit(before=lost), pytest.raises(Unavailable):
            sink.write(batch(parts[2]))
        sink.write(batch(parts[2]))
        with around_next_catalog_commit(after=lost), pytest.raises(Unavailable):
            sink.write(batch(parts[3]))
        second.write(batch(other))
        sink.write(batch(parts[3], changes([order("d", 50)], 6)))
    assert harness.rows() == expected(harness, *parts, changes([order("d", 50)], 6), other)


def test_lost_offsets_are_noticed(tmp_path: Path) -> None:
    harness = IcebergHarness("append", tmp_path)
    with closing(opened(harness)) as sink:
        sink.write(batch(inserts(0, 2)))
        foreign = present(harness)
        with foreign.transaction() as transaction:
            transaction.remove_properties(KEYS["offsets"])
        foreign.overwrite(foreign.scan().to_arrow())
        foreign.maintenance.expire_snapshots().by_id(foreign.snapshots()[0].snapshot_id).commit()
        with pytest.raises((DestinationChanged, PipelineStopped)):
            sink.committed([TP0])


def test_offsets_outlive_the_snapshots_that_carried_them(tmp_path: Path) -> None:
    harness = IcebergHarness("append", tmp_path)
    with closing(opened(harness)) as sink:
        sink.write(batch(inserts(0, 2)))
    foreign = present(harness)
    foreign.overwrite(foreign.scan().to_arrow())
    keep = foreign.metadata.current_snapshot_id
    for snapshot in [snapshot for snapshot in foreign.snapshots() if snapshot.snapshot_id != keep]:
        foreign.maintenance.expire_snapshots().by_id(snapshot.snapshot_id).commit()
    assert committed(harness) == {TP0: 2}


def test_files_of_a_lost_race_are_used_again_or_removed(tmp_path: Path) -> None:
    harness = IcebergHarness("append", tmp_path)
    parts = [inserts(0, 2), inserts(2, 2), inserts(0, 2, partition=1)]
    with closing(opened(harness)) as sink, closing(opened(harness)) as other:
        sink.write(batch(parts[0]))
        with harness.around_next_commit(before=partial(write, other, batch(parts[2]))):
            sink.write(batch(parts[1]))
    listed = {task.file.file_path.removeprefix("file://") for task in present(harness).scan().plan_files()}
    assert {str(path) for path in (tmp_path / "warehouse").rglob("*.parquet")} == listed
