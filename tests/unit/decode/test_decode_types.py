"""Types with parts, the policies of columns, and JSON without schema."""

from __future__ import annotations

import base64
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from decode_reference import Record, Schemas, chunk, same, write_avro
from hypothesis import given
from hypothesis import strategies as st
from test_decode_roundtrip import TIME, avro_envelope, decimal, named

from config.columns import ColumnConfig
from config.errors import ConfigurationError, UnsupportedChange
from config.pipeline import PipelineConfig
from sources.changes import DecodedChunk
from sources.debezium.decoder import DebeziumDecoder
from sources.debezium.schemaless import SchemalessTypes
from sources.debezium.source_types import Modes, SourceColumn

TOPIC = "t.s.users"
SPARSE = {
    "type": "record",
    "name": "SparseDoubleVector",
    "namespace": "io.debezium.data",
    "connect.name": "io.debezium.data.SparseDoubleVector",
    "fields": [
        {"name": "dimensions", "type": "int"},
        {
            "name": "vector",
            "type": {
                "type": "array",
                "items": {
                    "type": "record",
                    "name": "MapEntry",
                    "namespace": "io.confluent.connect.avro",
                    "connect.internal.type": "MapEntry",
                    "fields": [{"name": "key", "type": "int"}, {"name": "value", "type": "double"}],
                },
            },
        },
    ],
}


def event(after: dict[str, Any], source: Any = None) -> dict[str, Any]:
    return {"before": None, "after": after, "source": source or {"ts_us": 17}, "op": "c"}


def decode(
    type_: Any, *values: Any, rule: ColumnConfig | None = None, connector: str | None = None, key: bool = False
) -> DecodedChunk:
    """Rows with `id` and a column `v` of these values, as Avro; `connector` names the source's schema."""
    schema = avro_envelope([("id", "int"), ("v", type_)])
    if connector is not None:
        schema["fields"][2]["type"] = schema["fields"][2]["type"] | {
            "connect.name": f"io.debezium.connector.{connector}"
        }
    key_schema = {
        "type": "record",
        "name": "Key",
        "fields": [{"name": "v" if key else "id", "type": type_ if key else "int"}],
    }
    records: list[Record] = [
        (write_avro(key_schema, 2, {"v": v} if key else {"id": i}), write_avro(schema, 3, event({"id": i, "v": v})))
        for i, v in enumerate(values)
    ]
    rules = {} if rule is None else {TOPIC: {"v": rule}}
    return DebeziumDecoder(Schemas({2: key_schema, 3: schema}), rules).decode(chunk(records, TOPIC))


def column(decoded: DecodedChunk) -> pa.ChunkedArray:
    (change,) = decoded.changes
    change.rows.validate(full=True)
    return change.rows["v"]


def test_sparse_vectors_keep_their_dimensions_and_elements() -> None:
    value = {"dimensions": 5, "vector": [{"key": 1, "value": 1.5}, {"key": 4, "value": -2.0}]}
    found = column(decode(["null", SPARSE], value, None, {"dimensions": 0, "vector": []}))
    assert found.type == pa.struct(
        [
            pa.field("dimensions", pa.int32()),
            pa.field("vector", pa.map_(pa.int32(), pa.field("value", pa.float64(), nullable=False))),
        ]
    )
    assert found.to_pylist() == [
        {"dimensions": 5, "vector": [(1, 1.5), (4, -2.0)]},
        None,
        {"dimensions": 0, "vector": []},
    ]


def json_record(type_: dict[str, Any], value: Any) -> Record:
    row = {"type": "struct", "optional": True, "fields": [{"type": "int32", "field": "id"}, type_ | {"field": "v"}]}
    source = {"type": "struct", "fields": [{"type": "int64", "field": "ts_us"}], "field": "source"}
    fields = [row | {"field": "before"}, row | {"field": "after"}, source, {"type": "string", "field": "op"}]
    return None, orjson.dumps({"schema": {"type": "struct", "fields": fields}, "payload": event({"id": 1, "v": value})})


def test_maps_in_json_are_objects_or_arrays_of_pairs() -> None:
    number, text = {"type": "int16"}, {"type": "string", "optional": True}
    maps = {"type": "map", "keys": {"type": "string"}, "values": text, "optional": True}
    pairs = {"type": "map", "keys": number, "values": {"type": "double"}, "optional": True}
    decoder = DebeziumDecoder(Schemas({}))
    decoded = decoder.decode(chunk([json_record(maps, v) for v in ({"a": "1", "é": None}, None, {})]))
    assert column(decoded).to_pylist() == [[("a", "1"), ("é", None)], None, []]
    assert decoded.fallback_rows == 3
    assert column(decoder.decode(chunk([json_record(pairs, [[1, 1.5], [4, -2.0]])]))).to_pylist() == [
        [(1, 1.5), (4, -2.0)]
    ]


def test_a_broken_record_of_a_table_with_maps_is_set_aside_alone() -> None:
    maps = {"type": "map", "keys": {"type": "string"}, "values": {"type": "string"}}
    good = json_record(maps, {"a": "b"})
    bad = good[0], good[1].replace(b'"b"', b'"b') if good[1] else b""
    decoded = DebeziumDecoder(Schemas({})).decode(chunk([good, bad, good]))
    assert [rejected.index for rejected in decoded.rejected] == [1]
    assert column(decoded).to_pylist() == [[("a", "b")]] * 2


DATE, MICROS = named("int", TIME + "Date"), named("long", TIME + "MicroTimestamp")
ZONED = named("string", TIME + "ZonedTimestamp")
INFINITE_DAYS = (-622_191_234, -625_821_272, 2_146_033_979, -2_147_472_691)
MISFITS = [
    (DATE, 2_932_897, "+10000-01-01"),
    (DATE, int(np.datetime64("-0043-03-15").astype(int)), "-0043-03-15"),
    (MICROS, 2**63 - 1, "infinity"),
    (MICROS, -(2**63), "-infinity"),
    (named("long", TIME + "MicroTime"), 86_400_000_000, "24:00:00.000000"),
    (named("long", TIME + "MicroTime"), -45_296_789_012, "-12:34:56.789012"),
    (named("int", TIME + "Time"), 86_400_000, "24:00:00.000000"),
    (named("long", TIME + "NanoTime"), 1_001, "00:00:00.000001001"),
    (ZONED, "infinity", "infinity"),
    (DATE, -622_191_234, "infinity"),
    (DATE, -2_147_472_691, "-infinity"),
    (named("long", TIME + "Timestamp"), 9_223_372_036_825_200_000, "infinity"),
    (named("string", TIME + "IsoDate"), "+292269055-12-02Z", "-infinity"),
    (named("string", TIME + "IsoDate"), "-0043-03-15Z", "-0043-03-15"),
    (named("string", TIME + "IsoTimestamp"), "+292278994-08-16T23:00:00Z", "infinity"),
    (decimal(50, 2), (10**45).to_bytes(19), "1" + "0" * 43 + ".00"),
    (decimal(4, 2), (123_456).to_bytes(3), "1234.56"),
]


@pytest.mark.parametrize(("type_", "value", "text"), MISFITS)
def test_a_column_whose_misfit_is_text_holds_every_value_as_text(type_: Any, value: Any, text: str) -> None:
    decoded = decode(["null", type_], value, None, rule=ColumnConfig(misfit="text"))
    assert not decoded.rejected
    assert column(decoded).to_pylist() == [text, None]
    assert column(decoded).type == pa.string()


@given(st.integers(-(2**31), 2**31 - 1).filter(lambda day: day not in INFINITE_DAYS))
def test_every_day_is_written_as_numpy_writes_it(day: int) -> None:
    text = str(np.datetime64(day, "D"))
    year = int(text[:-6])
    expected = f"+{text}" if year > 9999 else text if year >= 0 else f"-{-year:04}{text[-6:]}"
    assert column(decode(DATE, day, rule=ColumnConfig(misfit="text"))).to_pylist() == [expected]


@pytest.mark.parametrize(
    ("type_", "value", "text"),
    [
        (DATE, 19_782, "2024-02-29"),
        (MICROS, 1_709_210_096_789_012, "2024-02-29T12:34:56.789012"),
        (named("long", TIME + "Timestamp"), 1_709_210_096_789, "2024-02-29T12:34:56.789000"),
        (named("long", TIME + "NanoTimestamp"), 1_709_210_096_789_012_000, "2024-02-29T12:34:56.789012000"),
        (named("long", TIME + "MicroTime"), 45_296_789_012, "12:34:56.789012"),
        (named("string", TIME + "IsoDate"), "2024-02-29Z", "2024-02-29"),
        (decimal(10, 2), b"\xff", "-0.01"),
    ],
)
def test_values_that_would_fit_are_text_too(type_: Any, value: Any, text: str) -> None:
    assert column(decode(type_, value, rule=ColumnConfig(misfit="text"))).to_pylist() == [text]


@pytest.mark.parametrize(("type_", "value"), [(type_, value) for type_, value, _ in MISFITS if type_ != decimal(50, 2)])
def test_a_misfit_becomes_null_where_that_is_the_policy(type_: Any, value: Any) -> None:
    decoded = decode(type_, value, rule=ColumnConfig(misfit="set_null"))
    assert not decoded.rejected
    assert column(decoded).to_pylist() == [None]


def test_a_timestamp_that_overflowed_in_the_connector_is_no_text_either() -> None:
    decoded = decode(MICROS, -9_223_372_036_853_775_810, 0, rule=ColumnConfig(misfit="text"))
    assert [rejected.index for rejected in decoded.rejected] == [0]
    assert "64 bits" in str(decoded.rejected[0].reason)


def test_a_misfit_of_an_array_nulls_the_array_alone() -> None:
    decoded = decode({"type": "array", "items": DATE}, [0, 2_932_897], [0], rule=ColumnConfig(misfit="set_null"))
    assert column(decoded).to_pylist() == [None, [date(1970, 1, 1)]]


def test_a_misfit_stops_the_pipeline_where_that_is_the_policy() -> None:
    with pytest.raises(UnsupportedChange, match=r"topic t.s.users, partition 0, offset 1, column v: .*source.columns"):
        decode(DATE, 0, 2_932_897, rule=ColumnConfig(misfit="error"))


def test_a_policy_that_makes_no_sense_stops_with_the_way_out() -> None:
    with pytest.raises(UnsupportedChange, match="column v: int32 isn't written as text; take the misfit out"):
        decode("int", 1, rule=ColumnConfig(misfit="text"))
    with pytest.raises(UnsupportedChange, match="column v: it is part of the key"):
        decode(DATE, 1, rule=ColumnConfig(misfit="set_null"), key=True)


def test_records_may_lack_a_column_that_has_a_policy() -> None:
    """Those that were written before the column was added."""
    schema = avro_envelope([("id", "int")])
    decoder = DebeziumDecoder(Schemas({3: schema}), {TOPIC: {"later": ColumnConfig(misfit="text")}})
    decoded = decoder.decode(chunk([(None, write_avro(schema, 3, event({"id": 1})))], TOPIC))
    assert decoded.changes[0].rows["id"].to_pylist() == [1]


ZERO_DATES = [
    (DATE, 0, date(1970, 1, 1)),
    (MICROS, 0, datetime(1970, 1, 1)),  # noqa: DTZ001
    (named("long", TIME + "Timestamp"), 0, datetime(1970, 1, 1)),  # noqa: DTZ001
    (ZONED, "1970-01-01T00:00:00Z", None),
]


@pytest.mark.parametrize("connector", ["mariadb.Source", "mysql.Source"])
@pytest.mark.parametrize(("type_", "epoch", "stored"), ZERO_DATES)
def test_what_may_be_a_zero_date_is_set_aside_unless_the_loss_is_accepted(
    type_: Any, epoch: Any, stored: Any, connector: str
) -> None:
    decoded = decode(type_, epoch, connector=connector)
    assert "zero date" in str(decoded.rejected[0].reason)
    # a TIMESTAMP can't be 1970-01-01 00:00:00, whether it may be null or not
    assert bool(decode(["null", type_], epoch, connector=connector).rejected) == (type_ == ZONED)
    assert not decode(type_, epoch, connector="postgresql.Source").rejected
    accepted = decode(type_, epoch, connector=connector, rule=ColumnConfig(accept_loss=True))
    assert not accepted.rejected
    assert stored is None or column(accepted).to_pylist() == [stored]
    assert column(decode(type_, epoch, connector=connector, rule=ColumnConfig(misfit="set_null"))).to_pylist() == [None]
    assert decode(type_, epoch, connector=connector, rule=ColumnConfig(misfit="text")).rejected
    # midnight is no zero date
    assert not decode(named("long", TIME + "MicroTime"), 0, connector=connector).rejected


SOURCE = {"pipeline_id": "p", "topic_prefix": "t", "source": {"database": "d", "tables": ["s.users"]}}
SINKS = {"sinks": [{"sink_id": "a", "sink_type": "delta", "delta": {"table_uri": "/x"}}]}
CATALOGUE = {
    "s.users": (
        SourceColumn("id", "integer", nullable=False, key=True),
        SourceColumn("n", "numeric(10,2)"),
        SourceColumn("big", "numeric"),
        SourceColumn("at", "timestamp with time zone"),
        SourceColumn("t", "time without time zone"),
        SourceColumn("f", "double precision"),
        SourceColumn("raw", "bytea"),
        SourceColumn("ids", "integer[]"),
        SourceColumn("h", "hstore"),
    )
}
ROW = {
    "id": 1,
    "n": base64.b64encode((-150).to_bytes(2, signed=True)).decode(),
    "big": {"scale": 1, "value": "DA=="},
    "at": "2024-02-29T12:00:00Z",
    "t": 45_296_789_012,
    "f": "NaN",
    "raw": "AP8=",
    "ids": [1, None],
    "h": '{"a":"1"}',
}
STORED = {
    "id": 1,
    "n": Decimal("-1.50"),
    "big": "1.2",
    "t": time(12, 34, 56, 789_012),
    "f": float("nan"),
    "raw": b"\0\xff",
    "ids": [1, None],
    "h": '{"a":"1"}',
}


def pipeline(**source: Any) -> PipelineConfig:
    return PipelineConfig.model_validate({**SOURCE, **SINKS, "source": {**SOURCE["source"], **source}})  # type: ignore[dict-item]


def schemaless(after: dict[str, Any] | None, op: str = "c", key: dict[str, Any] | None = None) -> Record:
    """As JsonConverter writes it with schemas.enable=false, with all that Debezium's envelope has."""
    source = {"version": "3", "connector": "postgresql", "ts_us": 17, "ts_ms": 0, "sequence": '["1","2"]', "xmin": None}
    value = {"before": None, "after": after, "source": source, "transaction": None, "op": op, "ts_ms": 5}
    return orjson.dumps(key or {"id": 1}), orjson.dumps(value)


def types(catalogue: Any = None, **source: Any) -> SchemalessTypes:
    return SchemalessTypes.of(
        pipeline(**source), Modes(time="adaptive_time_microseconds"), catalogue or {}, needed=True
    )


def test_json_without_schema_has_the_types_of_the_sources_catalogue() -> None:
    decoder = DebeziumDecoder(Schemas({}), schemaless=types(CATALOGUE))
    nothing = {"id": 2} | {name: None for name in ROW if name != "id"}
    records = [schemaless(ROW), schemaless(nothing, key={"id": 2}), schemaless(None, "d"), (b'{"id":1}', None)]
    decoded = decoder.decode(chunk(records, TOPIC))
    assert not decoded.rejected, decoded.rejected
    assert decoded.fallback_rows == 0
    (change,) = decoded.changes
    assert change.schema.key == ("id",)
    first, second, third = change.rows.to_pylist()
    assert same({name: first[name] for name in STORED}, STORED)
    assert [second[name] for name in nothing] == [2] + [None] * (len(nothing) - 1)
    assert (third["_cdc_op"], third["id"], third["n"]) == ("d", 1, None)
    assert change.rows.schema.field("n").type == pa.decimal128(10, 2)


def test_json_without_schema_has_declared_types_without_a_catalogue() -> None:
    columns = {column.name: {"type": column.type} for column in CATALOGUE["s.users"]}
    decoded = DebeziumDecoder(Schemas({}), schemaless=types(columns={"s.users": columns})).decode(
        chunk([schemaless(ROW)], TOPIC)
    )
    (row,) = decoded.changes[0].rows.to_pylist()
    assert same({name: row[name] for name in STORED}, STORED)


def test_json_without_schema_nor_types_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"s.users: declare .*source.columns.s.users.<column>.type"):
        types()


def test_a_column_that_nobody_knows_stops_wherever_in_the_chunk_it_is() -> None:
    decoder = DebeziumDecoder(Schemas({}), schemaless=types(CATALOGUE))
    records = [schemaless(ROW)] * 3 + [schemaless({**ROW, "new": 1})] + [schemaless(ROW)] * 3
    with pytest.raises(UnsupportedChange, match=r"have the column new, .*; known are id, n, .*Restart"):
        decoder.decode(chunk(records, TOPIC))
    with pytest.raises(UnsupportedChange, match="have the column other"):
        decoder.decode(chunk([schemaless(ROW, key={"other": 1})], TOPIC))


def test_a_value_of_another_type_sets_its_record_aside() -> None:
    decoder = DebeziumDecoder(Schemas({}), schemaless=types(CATALOGUE))
    records = [schemaless(ROW), schemaless({**ROW, "ids": "x"}), (b'{"id":1}', b'{"before":'), schemaless(ROW)]
    decoded = decoder.decode(chunk(records, TOPIC))
    assert [rejected.index for rejected in decoded.rejected] == [1, 2]
    assert decoded.changes[0].rows["id"].to_pylist() == [1, 1]


def test_records_with_and_without_schema_lie_in_one_topic() -> None:
    decoder = DebeziumDecoder(
        Schemas({}),
        schemaless=types({"s.users": (SourceColumn("id", "integer", False, True), SourceColumn("v", "text"))}),
    )
    with_schema = json_record({"type": "string", "optional": True}, "a")
    records = [with_schema, schemaless({"id": 2, "v": "b"}), with_schema, schemaless({"id": 3, "v": "c"})]
    decoded = decoder.decode(chunk(records, TOPIC))
    assert [v for change in decoded.changes for v in change.rows["v"].to_pylist()] == ["a", "b", "a", "c"]
