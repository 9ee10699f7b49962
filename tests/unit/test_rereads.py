"""Rows that are read again: which are asked for at once, and what isn't asked for by a condition that wouldn't hold."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from config.columns import ColumnConfig
from config.errors import PipelineStopped
from config.pipeline import PipelineConfig
from config.platform import PlatformConfig
from sinks.base import Batch, OffsetRange
from sinks.unchanged import keys_of
from sources.changes import CDC_OFFSET, ChangeBatch, TableSchema, TopicPartition
from sources.debezium.source_types import SourceColumn
from sources.debezium.type_matrix import modes_with
from verify.columns import column_in
from verify.rereads import Rereads, _check_keys
from verify.signals import ROWS_AT_ONCE
from verify.source import SourceTable

SCHEMA = TableSchema(
    pa.schema([("region", pa.string()), ("id", pa.int64()), ("name", pa.string())]), ("region", "id"), 1
)


def change(partition: int, keys: list[tuple[str, int]], first: int = 0) -> ChangeBatch:
    rows = {
        "region": [region for region, _ in keys],
        "id": [number for _, number in keys],
        "name": pa.nulls(len(keys), pa.string()),
        CDC_OFFSET: pa.array(range(first, first + len(keys)), pa.int64()),
    }
    return ChangeBatch("shop.public.t", partition, first, first + len(keys), SCHEMA, pa.table(rows))


def test_the_different_keys_of_records_are_those_that_are_asked_for() -> None:
    changes = [change(0, [("n", 1), ("n", 2), ("n", 1)]), change(0, [("n", 1)], 3), change(1, [("s", 3), ("s", 4)])]
    ranges = {TopicPartition("shop.public.t", n): OffsetRange(0, 4) for n in (0, 1)}
    records = [("shop.public.t", 0, 0), ("shop.public.t", 0, 2), ("shop.public.t", 0, 3), ("shop.public.t", 1, 1)]
    found = keys_of(Batch(ranges, changes), records)
    assert list(found) == ["shop.public.t"]
    assert sorted(map(tuple, (row.values() for row in found["shop.public.t"].to_pylist()))) == [("n", 1), ("s", 4)]


async def test_more_rows_than_a_connector_can_be_asked_for_stop_the_worker_with_the_way_out() -> None:
    source = {"database": "db", "tables": ["public.t"], "signal_table": "public.s", "unknown_values": "read_again"}
    sink = {"sink_id": "d", "sink_type": "delta", "delta": {"table_uri": "file:///tmp/t"}}
    pipeline = {"pipeline_id": "p", "topic_prefix": "shop", "source": source, "sinks": [sink]}
    rereads = Rereads(PipelineConfig.model_validate(pipeline), PlatformConfig())
    keys = pa.table({"id": range(ROWS_AT_ONCE + 1)})
    with pytest.raises(PipelineStopped, match=r"20,001 rows .*source.unknown_values: dead_letter, .*public\.t"):
        await rereads.ask("shop.public.t", keys)


def table(kind: str, **rule: Any) -> SourceTable:
    source = SourceColumn("k", kind, nullable=False, key=True)
    column = column_in(source, ColumnConfig.model_validate(rule), "postgres", modes_with("postgres"))
    return SourceTable("public.t", (column,), ("k",), 0)


@pytest.mark.parametrize(
    ("described", "keys"),
    [
        (table("bigint"), {"k": [1, 2]}),
        (table("uuid"), {"k": ["00000000-0000-0000-0000-000000000001"]}),
        (table("date", misfit="text"), {"k": ["2024-02-29"]}),
    ],
)
def test_keys_that_a_condition_finds_are_asked_for(described: SourceTable, keys: dict[str, list[Any]]) -> None:
    _check_keys(described, pa.table(keys))


@pytest.mark.parametrize(
    ("described", "keys", "why"),
    [
        (table("text"), {"k": [1]}, r"no column k \(int64\) now"),
        (table("bigint"), {"id": [1]}, r"no column id \(int64\) now"),
        (table("double precision"), {"k": [0.1]}, "no exact literals"),
        (table("date", misfit="text"), {"k": ["2024-02-29", "infinity"]}, "no exact literals"),
    ],
)
def test_keys_that_a_condition_would_not_find_stop_the_worker(
    described: SourceTable, keys: dict[str, list[Any]], why: str
) -> None:
    with pytest.raises(PipelineStopped, match=rf"{why}.* or set source.unknown_values: dead_letter"):
        _check_keys(described, pa.table(keys))
