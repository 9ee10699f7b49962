"""Deletion vectors as bytes, the log's actions, and which tables are fit for them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from delta_table import write_table
from deltalake import DeltaTable, QueryBuilder
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap

from config.errors import ConfigurationError, PipelineStopped
from sinks.delta.actions import DataFile, Snapshot
from sinks.delta.clean import grace_seconds
from sinks.delta.log import ALONE, Stake, commit_info
from sinks.delta.protocol import check, fits, protocol_for
from sinks.delta.vectors import Vector, bitmap_of, positions, staged, vector_owner, z85_decode, z85_encode
from sinks.owners import file_name, owner_id
from sources.changes import TopicPartition

TP = TopicPartition("cdc.public.orders", 3)

rows = st.one_of(
    st.sets(st.integers(0, 200)),
    st.sets(st.integers(0, 2**32 - 1), max_size=50),
    st.tuples(st.integers(0, 2**31), st.integers(1, 200_000)).map(lambda run: set(range(run[0], run[0] + run[1]))),
)


@given(st.lists(rows, min_size=1, max_size=5))
def test_vectors_of_a_commit_come_back_as_they_were(all_rows: list[set[int]]) -> None:
    found = staged([BitMap(each) for each in all_rows], TP)
    assert vector_owner(found.path) == owner_id(TP)
    for vector, each in zip(found.vectors, all_rows, strict=True):
        told = Vector.of_action(json.loads(json.dumps(vector.action())))
        assert told == vector
        assert vector.path == found.path
        assert vector.cardinality == len(each)
        back = vector.rows(lambda _, start, length: found.content[start : start + length])
        assert back == BitMap(each)
        assert bitmap_of(positions(back).astype(np.uint32)) == back
    assert len({vector.id for vector in found.vectors}) == len(all_rows)


@given(st.binary(max_size=60).map(lambda raw: raw + bytes(-len(raw) % 4)))
def test_z85_comes_back(raw: bytes) -> None:
    assert z85_decode(z85_encode(raw)) == raw


def test_z85_is_that_of_its_specification() -> None:
    assert z85_encode(bytes.fromhex("864fd26fb559f75b")) == "HelloWorld"


@given(st.sets(st.integers(0, 5_000), min_size=1, max_size=300), st.integers(0, 10_000))
def test_damaged_vector_is_never_believed(some: set[int], at: int) -> None:
    found = staged([BitMap(some)], TP)
    content = bytearray(found.content)
    place = 1 + at % (len(content) - 1)
    content[place] ^= 0x55
    with pytest.raises(PipelineStopped, match="damaged"):
        found.vectors[0].rows(lambda _, start, length: bytes(content[start : start + length]))


def test_inline_vector_of_another_writer_is_read() -> None:
    content = staged([BitMap([0, 7, 9])], TP)
    body = content.content[5 : 5 + content.vectors[0].size]
    inline = Vector("i", z85_encode(body + bytes(-len(body) % 4)), None, len(body), 3)
    assert inline.path is None
    assert inline.rows(lambda *_: b"") == BitMap([0, 7, 9])


def test_vector_at_an_absolute_path_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"absolute path s3://elsewhere.*upserts: merge"):
        Vector("p", "s3://elsewhere/x.bin", 1, 40, 2).rows(lambda *_: b"")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 300), st.data()), min_size=1, max_size=4))
def test_delta_rs_reads_the_rows_that_are_left(tmp_path_factory: pytest.TempPathFactory, files: Any) -> None:
    folder = tmp_path_factory.mktemp("table")
    adds, left, bitmaps, described = [], [], [], []
    for number, (count, data) in enumerate(files):
        gone = data.draw(st.sets(st.integers(0, count - 1)))
        table = pa.table({"id": pa.array(range(number * 1000, number * 1000 + count), pa.int64())})
        name = file_name("lw", TP)
        pq.write_table(table, folder / name)
        stats = json.dumps({"numRecords": count, "tightBounds": True}, separators=(",", ":"))
        described.append((DataFile.new(name, (folder / name).stat().st_size, {}, stats), count))
        bitmaps.append(BitMap(gone))
        left += [number * 1000 + row for row in range(count) if row not in gone]
    vectors = staged(bitmaps, TP)
    (folder / vectors.path).parent.mkdir(parents=True)
    (folder / vectors.path).write_bytes(vectors.content)
    for (file, count), vector in zip(described, vectors.vectors, strict=True):
        adds.append((file.with_vector(vector, count) if vector.cardinality else file).add(changes=True))
    write_table(folder, pa.schema([("id", pa.int64())]), adds)
    found = QueryBuilder().register("t", DeltaTable(folder)).execute("SELECT id FROM t").read_all()
    assert sorted(pa.table(found).column("id").to_pylist()) == left


# -- the log


def add(path: str, **more: Any) -> dict[str, Any]:
    body = {"path": path, "size": 1, "partitionValues": {}, "modificationTime": 1, "stats": None, **more}
    return {"add": body}


def test_stake_is_lost_to_what_it_rests_on_only() -> None:
    mine, theirs = file_name("lw", TP), file_name("lw", TopicPartition("cdc.public.orders", 4))
    stake = Stake(frozenset({"lakeward/p/s/t/3"}), frozenset({owner_id(TP)}))
    cases: tuple[list[dict[str, Any]], ...] = (
        [{"txn": {"appId": "lakeward/p/s/t/3", "version": 1}}],
        [{"metaData": {}}],
        [{"protocol": {}}],
        [add(f"name=x/{mine}")],
        [{"remove": {"path": mine}}],
        [add("part-0001.parquet")],
    )
    for lost in cases:
        assert stake.is_lost_to([commit_info("X"), *lost])
    beside = [commit_info("MERGE"), {"txn": {"appId": "lakeward/p/s/t/4", "version": 9}}, add(theirs)]
    assert not stake.is_lost_to(beside)
    assert ALONE.is_lost_to(beside)


@pytest.mark.parametrize(
    ("stats", "wide"),
    [
        ('{"numRecords":9,"tightBounds":true,"minValues":{}}', '{"numRecords":9,"tightBounds":false,"minValues":{}}'),
        ('{"numRecords":9,"minValues":{"a":1}}', '{"numRecords":9,"tightBounds":false}'),
        ('{"numRecords":9,"tightBounds":false,"minValues":{}}', '{"numRecords":9,"tightBounds":false,"minValues":{}}'),
        (None, '{"numRecords":9,"tightBounds":false}'),
    ],
)  # fmt: skip
def test_statistics_say_that_they_may_be_wider_than_the_rows_that_are_left(stats: str | None, wide: str) -> None:
    file = DataFile("a", 1, {}, stats, None, 0)
    assert file.with_vector(Vector("u", "x" * 20, 1, 40, 2), 9).stats == wide


def test_vector_of_our_own_commit_leaves_what_others_know_of_a_foreign_file() -> None:
    table = Snapshot(lambda actions: any("txn" in action for action in actions))
    vectors = [staged([BitMap(range(n))], TP).vectors[0].action() for n in (1, 2)]
    table.apply(0, [add("part-1.parquet")])
    before = table.files["part-1.parquet"].identity
    touched = [{"remove": {"path": "part-1.parquet"}}, add("part-1.parquet", deletionVector=vectors[0])]
    table.apply(1, [{"txn": {"appId": "x", "version": 1}}, *touched])
    assert table.files["part-1.parquet"].identity == before
    again = {"remove": {"path": "part-1.parquet", "deletionVector": vectors[0]}}
    table.apply(2, [again, add("part-1.parquet", deletionVector=vectors[1])])
    assert table.files["part-1.parquet"].identity != before


# -- features

METADATA = {"configuration": {}, "schemaString": "{}"}


@pytest.mark.parametrize("reader", [1, 2])
@pytest.mark.parametrize("writer", [2, 3, 4, 5, 6])
def test_old_protocols_keep_all_that_they_stood_for(reader: int, writer: int) -> None:
    old = {"minReaderVersion": reader, "minWriterVersion": writer}
    check("t", old, METADATA)
    raised = protocol_for(pa.schema([("id", pa.int64())]), old)
    assert {"appendOnly", "invariants", "deletionVectors"} <= set(raised["writerFeatures"])
    assert ("changeDataFeed" in raised["writerFeatures"]) == (writer >= 4)
    assert ("columnMapping" in raised["readerFeatures"]) == (reader >= 2 or writer >= 5)
    assert fits(raised, pa.schema([("id", pa.int64())]))
    assert not fits(raised, pa.schema([("at", pa.timestamp("us"))]))
    assert not fits(raised, pa.schema([("s", pa.struct([("at", pa.list_(pa.timestamp("us")))]))]))


@pytest.mark.parametrize(
    ("metadata", "name"),
    [
        ({"configuration": {"delta.appendOnly": "true"}, "schemaString": "{}"}, "appendOnly"),
        ({"configuration": {}, "schemaString": '{"delta.generationExpression":"a+1"}'}, "generatedColumns"),
        ({"configuration": {}, "schemaString": '{"delta.identity.start":1}'}, "identityColumns"),
        ({"configuration": {}, "schemaString": '{"delta.invariants":"a>1"}'}, "invariants"),
    ],
)
def test_feature_that_is_in_use_is_named(metadata: Any, name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        check("t", {"minReaderVersion": 1, "minWriterVersion": 2}, metadata)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("interval 1 hour", 3600), ("interval 7 days", 604800), ("INTERVAL 2 hours 30 minutes", 9000), ("soon", 604800)],
)
def test_grace_time_is_the_tables(text: str, seconds: float) -> None:
    assert grace_seconds({"delta.deletedFileRetentionDuration": text}) == seconds
    assert grace_seconds({}) == 604800
