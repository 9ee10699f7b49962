"""Delta tables beyond the contract: names of the offsets, change data feed, partitions, foreign tables, real races."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pytest
from contract_checks import committed, inserts, opened
from contract_events import (
    ORDERS,
    ORDERS_WITH_NOTE,
    TOPIC,
    batch,
    changes,
    empty_batch,
    folded,
    log_rows,
    order,
)
from contract_harness import target
from delta_harness import DeltaHarness, read_delta
from deltalake import DeltaTable

from config.errors import ConfigurationError, DestinationChanged, Unavailable, UnsupportedChange
from config.pipeline import DeltaConfig
from sinks.delta.sink import DeltaSink
from sources.changes import CDC_FIELDS, ChangeBatch, TableSchema, TopicPartition

NAMES = "ABCDEFGHIJKLMNOP"


def test_offsets_counts_and_schema_ids_have_their_public_names(tmp_path: Path) -> None:
    harness = DeltaHarness("append", tmp_path)
    with closing(opened(harness)) as sink:
        receipt = sink.write(batch(inserts(0, 3), inserts(5, 2, partition=1), counts={TOPIC: 2}))
    table = DeltaTable(harness.path)
    names = {
        name: table.transaction_version(f"lakeward/contract/lake/{TOPIC}/{name}")
        for name in ("0", "1", "partitions", "schema")
    }
    assert names == {"0": 3, "1": 7, "partitions": 2, "schema": 1}
    assert receipt.version == table.version()


@pytest.mark.parametrize("write_mode", ["append", "upsert"])
def test_table_that_its_store_shows_at_an_older_version_is_waited_for(
    write_mode: Literal["append", "upsert"], tmp_path: Path
) -> None:
    """Nobody took anything back: the store doesn't show at once what it was given."""
    harness = DeltaHarness(write_mode, tmp_path)
    parts = [inserts(offset, 1) for offset in range(3)]
    with closing(opened(harness)) as sink:
        sink.write(batch(parts[0]))
        version = sink.write(batch(parts[1])).version
        assert version is not None
        newest = harness.path / "_delta_log" / f"{version:020d}.json"
        hidden = newest.rename(tmp_path / "hidden.json")
        for look in (lambda: sink.write(batch(parts[2])), lambda: sink.committed([TopicPartition(TOPIC, 0)])):
            with pytest.raises(Unavailable, match=f"shown up to version {version - 1} only"):
                look()
        hidden.rename(newest)
        sink.write(batch(parts[2]))
    assert sorted(row["id"] for row in harness.rows()) == [0, 10, 20]


def test_change_data_feed_tells_each_row_that_changed(tmp_path: Path) -> None:
    harness = DeltaHarness("upsert", tmp_path)
    with closing(opened(harness)) as sink:
        sink.write(batch(changes([order("c", 1), order("c", 2), order("c", 3)], 0)))
        version = sink.write(batch(changes([order("u", 1, "new"), order("d", 2), order("c", 4)], 3))).version
    feed = pa.table(DeltaTable(harness.path).load_cdf(starting_version=version)).to_pylist()
    assert sorted((row["_change_type"], row["id"], row["name"]) for row in feed) == [
        ("delete", 2, "order 2"),
        ("insert", 4, "order 4"),
        ("update_postimage", 1, "new"),
        ("update_preimage", 1, "order 1"),
    ]


def test_change_data_feed_can_be_left_out(tmp_path: Path) -> None:
    harness = DeltaHarness("upsert", tmp_path, change_data_feed=False)
    with closing(opened(harness)) as sink:
        sink.write(batch(inserts(0, 2)))
        sink.write(batch(changes([order("u", 0, "new")], 2)))
    assert DeltaTable(harness.path).metadata().configuration["delta.enableChangeDataFeed"] == "false"
    assert not (harness.path / "_change_data").exists()


@pytest.mark.parametrize("mode", ["append", "upsert"])
def test_partitioned_table_follows_rows_that_move_to_another_partition(mode: Any, tmp_path: Path) -> None:
    harness = DeltaHarness(mode, tmp_path, partition_by=("name",))
    parts = (
        changes([order("c", 1, "here"), order("c", 2, "it's %/=?"), ("c", {"id": 3})], 0),
        changes([order("u", 1, "there"), order("d", 2), order("u", 3, "here"), ("u", {"id": 4})], 3),
        changes([order("u", 1, "here"), ("u", {"id": 3}), order("d", 4)], 7),
    )
    with closing(opened(harness)) as sink:
        for part in parts:
            sink.write(batch(part))
    assert DeltaTable(harness.path).metadata().partition_columns == ["name"]
    assert harness.rows() == (folded if mode == "upsert" else log_rows)(*parts)


def test_partitioned_table_waits_for_its_first_change(tmp_path: Path) -> None:
    harness = DeltaHarness("append", tmp_path, partition_by=("name",))
    with closing(opened(harness)) as sink:
        receipt = sink.write(empty_batch(0, 5))
        assert (receipt.version, receipt.next_offsets) == (None, {TopicPartition(TOPIC, 0): 5})
        sink.write(batch(inserts(5, 2)))
    assert harness.rows() == log_rows(inserts(5, 2))


def test_partition_column_that_the_source_lacks_is_named(tmp_path: Path) -> None:
    harness = DeltaHarness("append", tmp_path, partition_by=("nam",))
    with closing(opened(harness)) as sink, pytest.raises(ConfigurationError, match=r"partition_by names nam, .*amount"):
        sink.write(batch(inserts(0, 1)))
    assert not harness.path.exists()


def test_missing_table_is_named_where_none_may_be_made(tmp_path: Path) -> None:
    sink = DeltaHarness("append", tmp_path, auto_create_table=False).new_sink()
    with pytest.raises(ConfigurationError, match=r"orders doesn't exist and auto_create_table is false"):
        sink.open()


def test_foreign_table_without_our_columns_is_refused_at_open_by_column(tmp_path: Path) -> None:
    harness = DeltaHarness("append", tmp_path)
    fields = [pa.field("id", pa.int64(), nullable=False), *CDC_FIELDS[1:3], pa.field("_cdc_op", pa.int32())]
    DeltaTable.create(harness.path, pa.schema(fields), partition_by=["id"])
    with pytest.raises(ConfigurationError) as error:
        harness.new_sink().open()
    for part in ("_cdc_topic is missing", "_cdc_op is int32, not string", "_cdc_ts", "NOT NULL", r"by ['id']"):
        assert part in str(error.value)


def test_table_made_by_hand_that_fits_is_taken(tmp_path: Path) -> None:
    harness = DeltaHarness("upsert", tmp_path, auto_create_table=False)
    columns = [field.with_nullable(True) for field in (*ORDERS.columns, *CDC_FIELDS)]
    DeltaTable.create(harness.path, pa.schema(reversed(columns)))
    part = changes([order("c", 1), order("u", 1, "again"), order("c", 2)], 10)
    with closing(opened(harness)) as sink:
        assert sink.committed([TopicPartition(TOPIC, 0)]) == {}
        sink.write(batch(part))
    assert harness.rows() == folded(part)


def test_table_of_the_other_write_mode_is_refused(tmp_path: Path) -> None:
    with closing(opened(DeltaHarness("append", tmp_path))) as sink:
        sink.write(batch(inserts(0, 2)))
    with pytest.raises(ConfigurationError, match="written in append mode, not upsert"):
        DeltaHarness("upsert", tmp_path).new_sink().open()


def test_table_whose_offsets_would_expire_is_refused(tmp_path: Path) -> None:
    harness = DeltaHarness("append", tmp_path)
    with closing(opened(harness)) as sink:
        sink.write(batch(inserts(0, 2)))
    retention = {"delta.setTransactionRetentionDuration": "interval 1 day"}
    DeltaTable(harness.path).alter.set_table_properties(retention, raise_if_not_exists=False)
    with pytest.raises(ConfigurationError, match="let the offsets expire"):
        harness.new_sink().open()


def test_changed_primary_key_stops_even_after_a_restart(tmp_path: Path) -> None:
    harness = DeltaHarness("upsert", tmp_path)
    with closing(opened(harness)) as sink:
        sink.write(batch(inserts(0, 2)))
    rekeyed = changes([order("u", 1)], 2, schema=TableSchema(ORDERS.columns, ("id", "name"), 5))
    with closing(opened(harness)) as sink, pytest.raises(UnsupportedChange, match=r"primary key is \(id, name\)"):
        sink.write(batch(rekeyed))
    assert committed(harness) == {TopicPartition(TOPIC, 0): 2}


def test_offsets_that_go_back_are_noticed(tmp_path: Path) -> None:
    """A commit of another writer has overwritten ours, as Spark's can on disk."""
    harness = DeltaHarness("append", tmp_path)
    with closing(opened(harness)) as sink:
        sink.write(batch(inserts(0, 2)))
        sink.write(batch(inserts(2, 2)))
        newest = max((harness.path / "_delta_log").glob("*.json"))
        (info,) = (line for line in newest.read_text().splitlines() if "commitInfo" in line)
        newest.write_text(info)
        with pytest.raises(DestinationChanged, match=r"went back from 4 to 2"):
            sink.write(batch(inserts(4, 2)))


def test_crash_between_added_column_and_rows_is_taken_up_by_an_older_partition(tmp_path: Path) -> None:
    harness = DeltaHarness("upsert", tmp_path)
    noted = changes([order("c", 3, note="new")], 2, schema=ORDERS_WITH_NOTE)

    def crash() -> None:
        raise SystemExit

    with closing(opened(harness)) as sink:
        sink.write(batch(inserts(0, 2)))
        with pytest.raises(SystemExit), harness.around_next_commit(after=crash):
            sink.write(batch(noted))
    assert "note" in pa.schema(DeltaTable(harness.path).schema().to_arrow()).names
    late = inserts(0, 2, partition=1)
    with closing(opened(harness)) as sink:
        sink.write(batch(late))
        sink.write(batch(noted))
    assert harness.rows() == folded(inserts(0, 2), late, noted)


def test_time_of_day_is_text_and_timestamps_keep_their_zone_or_lack_of_it(tmp_path: Path) -> None:
    schema = TableSchema(
        pa.schema([("id", pa.int64()), ("t", pa.time64("us")), ("local", pa.timestamp("ms")), ("small", pa.uint16())]),
        ("id",),
        1,
    )
    row = {"id": 1, "t": time(23, 59, 59, 7), "local": datetime(1969, 7, 20, 20, 17, 40, 1000), "small": 65535}  # noqa: DTZ001 -- a timestamp without zone
    harness = DeltaHarness("upsert", tmp_path)
    with closing(opened(harness)) as sink:
        sink.write(batch(changes([("c", row)], 0, schema=schema)))
        sink.write(batch(changes([("u", row)], 1, schema=schema)))
    [stored] = read_delta(harness.path)
    assert {name: stored[name] for name in row} == {**row, "t": "23:59:59.000007"}
    assert stored["_cdc_ts"] == datetime(2026, 1, 1, 0, 0, 0, 1000, tzinfo=UTC)


def test_long_text_keys_with_one_prefix_are_found_in_every_file(tmp_path: Path) -> None:
    """Statistics cut long texts short; a file left out by them would leave its row behind twice."""
    schema = TableSchema(pa.schema([("k", pa.string()), ("v", pa.int64())]), ("k",), 1)
    keys = [("é" * 80 + c) for c in NAMES] + [("x" * 80 + c) for c in NAMES]
    parts: list[ChangeBatch] = []
    harness = DeltaHarness("upsert", tmp_path)
    with closing(opened(harness)) as sink:
        for n in range(0, len(keys), 4):
            parts.append(changes([("c", {"k": k, "v": 0}) for k in keys[n : n + 4]], n, schema=schema))
            sink.write(batch(parts[-1]))
        for n, key in enumerate(keys[::5], len(keys)):
            parts.append(changes([("u", {"k": key, "v": 1})], n, schema=schema))
            sink.write(batch(parts[-1]))
    assert harness.rows() == folded(*parts)


def test_checkpoints_keep_the_log_short_to_read(tmp_path: Path) -> None:
    harness = DeltaHarness("append", tmp_path)
    with closing(opened(harness)) as sink:
        for n in range(25):
            sink.write(batch(inserts(n, 1)))
    checkpoints = [file.name for file in (harness.path / "_delta_log").glob("*.checkpoint.parquet")]
    assert checkpoints == ["00000000000000000019.checkpoint.parquet"]
    assert harness.rows() == log_rows(inserts(0, 25))
    assert committed(harness) == {TopicPartition(TOPIC, 0): 25}


def test_store_that_is_away_is_unavailable(tmp_path: Path) -> None:
    options = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "not-shown",
        "AWS_REGION": "us-east-1",
        "retry_timeout": "1s",
    }
    uri = "s3://lake/orders"
    sink = DeltaSink(DeltaConfig(table_uri=uri, storage_options=options), target((TOPIC,), uri))
    with pytest.raises(Unavailable, match=r"s3://lake/orders: the store can't be reached") as error:
        sink.open()
    assert "not-shown" not in str(error.value)


def test_location_that_is_no_folder_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "orders").write_text("a file where a table should be")
    harness = DeltaHarness("append", tmp_path)
    with pytest.raises(ConfigurationError, match="orders"):
        harness.new_sink().write(batch(inserts(0, 1)))
