"""Any value that a type can hold comes out as it went in; one that the lake's type can't hold sets its row aside."""

from __future__ import annotations

import base64
from datetime import UTC, date, datetime, time, timedelta
from decimal import Context, Decimal
from typing import Any

import orjson
import pyarrow as pa
import pytest
from decode_reference import Schemas, chunk, same, to_python, write_avro
from hypothesis import given, settings
from hypothesis import strategies as st

from sources.changes import DecodedChunk
from sources.debezium.decoder import DebeziumDecoder

SOURCE = {"type": "record", "name": "Source", "fields": [{"name": "ts_us", "type": ["null", "long"]}]}
CONNECT = "org.apache.kafka.connect.data."
TIME = "io.debezium.time."
DAY_US = 86_400_000_000
FIRST, LAST = -719_162, 2_932_896


def named(kind: str, name: str, **parameters: str) -> dict[str, Any]:
    return {"type": kind, "connect.name": name, "connect.parameters": parameters}


def decimal(precision: int, scale: int) -> dict[str, Any]:
    return named("bytes", CONNECT + "Decimal", scale=str(scale), **{"connect.decimal.precision": str(precision)})


def unscaled(bound: int) -> st.SearchStrategy[bytes]:
    return st.integers(-bound, bound).map(
        lambda i: i.to_bytes((i if i >= 0 else ~i).bit_length() // 8 + 1, signed=True)
    )


def variable_decimals() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"scale": st.integers(-3, 60), "value": unscaled(10**60)})


VARIABLE = {
    "type": "record",
    "name": "VariableScaleDecimal",
    "namespace": "io.debezium.data",
    "fields": [{"name": "scale", "type": "int"}, {"name": "value", "type": "bytes"}],
    "connect.name": "io.debezium.data.VariableScaleDecimal",
}
ZONED = named("string", TIME + "ZonedTimestamp")
INT, LONG = st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1)
INSTANTS = st.datetimes(timezones=st.just(UTC)).map(lambda t: t.isoformat().replace("+00:00", "Z"))
TEXTS = st.text(st.characters(codec="utf-8"), max_size=9)
MAPS = st.dictionaries(TEXTS, st.none() | TEXTS, max_size=5)
TYPES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    ("int", INT),
    ("long", LONG),
    ("float", st.floats(width=32)),
    ("double", st.floats()),
    ("boolean", st.booleans()),
    ("string", st.text(st.characters(codec="utf-8"), max_size=200)),
    ("bytes", st.binary(max_size=200)),
    (named("string", "io.debezium.data.Json"), st.text(st.characters(codec="utf-8"), max_size=9)),
    (named("bytes", "io.debezium.data.Bits", length="9"), st.binary(min_size=2, max_size=2)),
    (named("int", TIME + "Date"), st.integers(FIRST, LAST)),
    (named("int", TIME + "Time"), st.integers(0, 86_399_999)),
    (named("int", TIME + "Year"), INT),
    (named("int", CONNECT + "Date"), st.integers(FIRST, LAST)),
    (named("long", TIME + "MicroTime"), st.integers(0, DAY_US - 1)),
    (named("long", TIME + "MicroDuration"), LONG),
    (named("long", TIME + "Timestamp"), st.integers(FIRST * DAY_US // 1000, LAST * DAY_US // 1000)),
    (named("long", TIME + "MicroTimestamp"), st.integers(FIRST * DAY_US, LAST * DAY_US)),
    (ZONED, INSTANTS),
    (named("long", TIME + "NanoTime"), st.integers(0, DAY_US - 1).map(lambda us: us * 1000)),
    (named("long", TIME + "NanoTimestamp"), st.integers(-(2**63) // 1000 + 1, 2**63 // 1000).map(lambda us: us * 1000)),
    (named("long", TIME + "NanoDuration"), LONG),
    (named("string", TIME + "IsoDate"), st.dates().map(lambda d: f"{d.isoformat()}Z")),
    (named("string", TIME + "IsoTime"), st.times().map(lambda t: f"{t.isoformat()}Z")),
    (named("string", TIME + "IsoTimestamp"), st.datetimes().map(lambda t: f"{t.isoformat()}Z")),
    ({"type": "map", "values": ["null", "string"]}, MAPS),
    ({"type": "map", "values": decimal(10, 2)}, st.dictionaries(st.text(max_size=3), unscaled(10**10 - 1), max_size=3)),
    (decimal(10, 2), unscaled(10**10 - 1)),
    (decimal(18, 0), unscaled(10**18 - 1)),
    (decimal(19, 5), unscaled(10**19 - 1)),
    (decimal(38, 38), unscaled(10**38 - 1)),
    (VARIABLE, variable_decimals()),
]


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[tuple[str, Any]], list[dict[str, Any]]]:
    """Columns of a table, and rows of it."""
    columns: list[tuple[str, Any]] = []
    values: dict[str, st.SearchStrategy[Any]] = {}
    variable_used = False
    for i in range(draw(st.integers(1, 7))):
        type_, strategy = draw(st.sampled_from(TYPES))
        if type_ is VARIABLE and variable_used:
            type_ = "io.debezium.data.VariableScaleDecimal"
        variable_used |= strategy is TYPES[-1][1]
        shape = draw(st.sampled_from(["plain", "nullable", "default", "list", "nulls in list"]))
        if shape == "nullable" or shape == "default":
            type_ = ["null", type_] if shape == "nullable" else [type_, "null"]
            strategy = st.none() | strategy
        elif "list" in shape and not (type_ is VARIABLE or (isinstance(type_, str) and "." in type_)):
            nulls = "nulls" in shape
            type_ = {"type": "array", "items": ["null", type_] if nulls else type_}
            size = draw(st.sampled_from([3, 150]))
            strategy = st.lists(st.none() | strategy if nulls else strategy, max_size=size)
        columns.append((f"c{i}", type_))
        values[f"c{i}"] = strategy
    return columns, draw(st.lists(st.fixed_dictionaries(values), min_size=1, max_size=12))


def avro_envelope(columns: list[tuple[str, Any]]) -> dict[str, Any]:
    row = {"type": "record", "name": "Value", "fields": [{"name": n, "type": t} for n, t in columns]}
    return {
        "type": "record",
        "name": "Envelope",
        "fields": [
            {"name": "before", "type": ["null", row]},
            {"name": "after", "type": ["null", "Value"]},
            {"name": "source", "type": SOURCE},
            {"name": "op", "type": "string"},
        ],
    }


def as_event(row: dict[str, Any], full: bool) -> dict[str, Any]:
    return {"before": row if full else None, "after": row, "source": {"ts_us": 17}, "op": "u" if full else "c"}


def resolved(type_: Any) -> Any:
    """With the one named type that is referred to put in."""
    if isinstance(type_, list):
        return [resolved(t) for t in type_]
    return VARIABLE if type_ == "io.debezium.data.VariableScaleDecimal" else type_


def check(decoded: DecodedChunk, columns: list[tuple[str, Any]], rows: list[dict[str, Any]]) -> None:
    assert not decoded.rejected, decoded.rejected
    (change,) = decoded.changes
    change.rows.validate(full=True)
    for name, type_ in columns:
        expected = [to_python(resolved(type_), row[name]) for row in rows]
        assert same(change.rows[name].to_pylist(), expected), name


@given(tables(), st.booleans())
@settings(max_examples=400, deadline=None)
def test_generated_tables_survive_avro(table: tuple[list[tuple[str, Any]], list[dict[str, Any]]], full: bool) -> None:
    columns, rows = table
    schema = avro_envelope(columns)
    records = [(None, write_avro(schema, 3, as_event(row, full))) for row in rows]
    decoded = DebeziumDecoder(Schemas({3: schema})).decode(chunk(records))
    assert decoded.fallback_rows == 0
    check(decoded, columns, rows)


@given(tables())
@settings(max_examples=200, deadline=None)
def test_generated_tables_survive_json(table: tuple[list[tuple[str, Any]], list[dict[str, Any]]]) -> None:
    columns, rows = table
    fields = [connect_schema(type_) | {"field": name} for name, type_ in columns]
    row = {"type": "struct", "fields": fields, "optional": True}
    source = {"type": "struct", "fields": [{"type": "int64", "field": "ts_us"}], "field": "source"}
    envelope = {
        "type": "struct",
        "fields": [row | {"field": "before"}, row | {"field": "after"}, source, {"type": "string", "field": "op"}],
    }
    values = [(None, orjson.dumps({"schema": envelope, "payload": as_event(as_json(r), False)})) for r in rows]
    decoded = DebeziumDecoder(Schemas({})).decode(chunk(values))
    check(decoded, columns, rows)


def connect_schema(type_: Any) -> dict[str, Any]:
    """A Connect schema, as JsonConverter writes it, for an Avro type of `TYPES`."""
    type_ = resolved(type_)
    if isinstance(type_, list):
        return connect_schema(next(t for t in type_ if t != "null")) | {"optional": True}
    kind = type_ if isinstance(type_, str) else type_["type"]
    if kind == "array":
        return {"type": "array", "items": connect_schema(type_["items"]), "optional": False}
    if kind == "map":
        keys = {"type": "string", "optional": False}
        return {"type": "map", "keys": keys, "values": connect_schema(type_["values"]), "optional": False}
    if kind == "record":
        fields = [connect_schema(f["type"]) | {"field": f["name"]} for f in type_["fields"]]
        return {"type": "struct", "fields": fields, "name": type_["connect.name"], "optional": False}
    kind = {"int": "int32", "long": "int64"}.get(kind, kind)
    schema: dict[str, Any] = {"type": kind, "optional": False}
    if isinstance(type_, dict):
        schema |= {"name": type_["connect.name"], "parameters": type_["connect.parameters"]}
    return schema


def as_json(value: Any) -> Any:
    """A value as JsonConverter writes it."""
    if isinstance(value, dict):
        return {k: as_json(v) for k, v in value.items()}
    if isinstance(value, list):
        return [as_json(v) for v in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float) and value - value != 0:
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    return value


@pytest.mark.parametrize(
    ("type_", "bad", "good", "stored"),
    [
        (named("int", TIME + "Date"), -622_191_234, 0, date(1970, 1, 1)),
        (named("int", TIME + "Date"), LAST + 1, LAST, date(9999, 12, 31)),
        (named("long", TIME + "MicroTimestamp"), 2**63 - 1, 1, datetime(1970, 1, 1, 0, 0, 0, 1)),  # noqa: DTZ001
        (named("long", TIME + "Timestamp"), -(2**63), -1, datetime(1969, 12, 31, 23, 59, 59, 999000)),  # noqa: DTZ001
        (named("long", TIME + "MicroTime"), -45_296_000_000, 1, time(0, 0, 0, 1)),
        (named("int", TIME + "Time"), 86_400_000, 1, time(0, 0, 0, 1000)),
        (
            ZONED,
            "infinity",
            "2024-02-29T12:00:00Z",
            datetime(2024, 2, 29, 12, tzinfo=UTC),
        ),
        (
            ZONED,
            "-infinity",
            "2024-02-29T12:00:00+02:00",
            datetime(2024, 2, 29, 10, tzinfo=UTC),
        ),
        (
            ZONED,
            "2024-02-30T00:00:00Z",
            "0001-01-01T00:00:00Z",
            datetime(1, 1, 1, tzinfo=UTC),
        ),
        (
            ZONED,
            "0000-12-31T00:00:00Z",
            "0001-01-01T00:00:00Z",
            datetime(1, 1, 1, tzinfo=UTC),
        ),
        (
            ZONED,
            "2024-01-01T00:00:00.1234567Z",
            "2024-01-01T00:00:00.5Z",
            datetime(2024, 1, 1, microsecond=500_000, tzinfo=UTC),
        ),
        (named("long", TIME + "NanoTime"), 1_001, 1_000, time(0, 0, 0, 1)),
        (named("long", TIME + "NanoTimestamp"), 1_999, -1_000, datetime(1969, 12, 31, 23, 59, 59, 999_999)),  # noqa: DTZ001
        (named("string", TIME + "IsoDate"), "+10000-01-01Z", "2024-02-29Z", date(2024, 2, 29)),
        (named("string", TIME + "IsoDate"), "2024-02-29", "0001-01-01Z", date(1, 1, 1)),
        (named("string", TIME + "IsoTime"), "24:00:00Z", "23:59:59.5Z", time(23, 59, 59, 500_000)),
        (named("string", TIME + "IsoTimestamp"), "infinity", "2024-02-29T01:02:03Z", datetime(2024, 2, 29, 1, 2, 3)),  # noqa: DTZ001
        (named("string", TIME + "IsoTimestamp"), "0000-01-01T00:00:00Z", "0001-01-01T00:00:00Z", datetime(1, 1, 1)),  # noqa: DTZ001
        (decimal(4, 2), (10_000).to_bytes(2), (-9999).to_bytes(2, signed=True), Decimal("-99.99")),
        (decimal(4, 2), b"", b"\0", Decimal("0.00")),
        (decimal(38, 0), (10**38).to_bytes(17), (10**38 - 1).to_bytes(16), Decimal(10**38 - 1)),
        (decimal(20, 0), b"\x01" * 30, (-(10**20) + 1).to_bytes(9, signed=True), Decimal(-(10**20) + 1)),
        (["null", "string"], b"\xff\xfe".decode("latin1"), "é", "é"),
    ],
)
def test_a_value_that_the_type_cannot_hold_sets_its_row_aside(type_: Any, bad: Any, good: Any, stored: Any) -> None:
    columns = [("id", "int"), ("v", type_)]
    schema = avro_envelope(columns)
    values = [write_avro(schema, 3, as_event({"id": i, "v": v}, False)) for i, v in enumerate([good, bad, good])]
    if bad == "ÿþ":
        values[1] = values[1].replace("ÿþ".encode(), b"\xff\xfe\xfd\xfc")
    decoded = DebeziumDecoder(Schemas({3: schema})).decode(chunk([(None, v) for v in values]))
    assert [r.index for r in decoded.rejected] == [1]
    assert "column v" in str(decoded.rejected[0].reason)
    assert same(decoded.changes[0].rows["v"].to_pylist(), [stored, stored])
    assert decoded.changes[0].rows["id"].to_pylist() == [0, 2]


def test_money_and_other_decimals_without_precision_get_38_digits() -> None:
    money = {"type": "bytes", "logicalType": "decimal", "precision": 64, "scale": 2}
    money |= {"connect.parameters": {"scale": "2"}, "connect.name": CONNECT + "Decimal"}
    columns = [("v", money)]
    schema = avro_envelope(columns)
    value = Decimal(10**38 - 1).scaleb(-2, Context(prec=50))
    record = write_avro(schema, 3, as_event({"v": value}, False))
    (change,) = DebeziumDecoder(Schemas({3: schema})).decode(chunk([(None, record)])).changes
    assert change.rows.schema.field("v").type == pa.decimal128(38, 2)
    assert change.rows["v"].to_pylist() == [value]


MARIADB: list[tuple[str, Any, Any, Any]] = [
    # what the MariaDB connector makes of one row of each type, and what is stored
    ("ti1", {"type": "int", "connect.type": "int16"}, 1, 1),
    ("si", "int", 65_535, 65_535),
    ("i", "long", 4_294_967_295, 4_294_967_295),
    ("bi", "long", -1, -1),
    ("n", decimal(12, 3), b"\x01\xe2\x40", Decimal("123.456")),
    ("bin5", "bytes", b"\0\xff\0\0\0", b"\0\xff\0\0\0"),
    ("dt", named("int", TIME + "Date"), 19_782, date(2024, 2, 29)),
    ("tm6", named("long", TIME + "MicroTime"), 45_296_789_012, time(12, 34, 56, 789_012)),
    ("dttm", named("long", TIME + "Timestamp"), 1_709_210_096_000, datetime(2024, 2, 29, 12, 34, 56)),  # noqa: DTZ001
    (
        "ts",
        ZONED,
        "2024-02-29T12:34:56Z",
        datetime(2024, 2, 29, 12, 34, 56, tzinfo=UTC),
    ),
    ("y", named("int", TIME + "Year"), 2024, 2024),
    ("e", named("string", "io.debezium.data.Enum", allowed="a,b,c"), "b", "b"),
    ("s", named("string", "io.debezium.data.EnumSet", allowed="x,y,z"), "x,z", "x,z"),
    ("js", named("string", "io.debezium.data.Json"), '{"a": 1}', '{"a": 1}'),
    ("b9", named("bytes", "io.debezium.data.Bits", length="9"), b"\x01\x01", b"\x01\x01"),
    (
        "g",
        {
            "type": "record",
            "name": "Geometry",
            "namespace": "io.debezium.data.geometry",
            "fields": [{"name": "wkb", "type": "bytes"}, {"name": "srid", "type": ["null", "int"]}],
            "connect.name": "io.debezium.data.geometry.Geometry",
        },
        {"wkb": b"\x01\x01", "srid": None},
        {"wkb": b"\x01\x01", "srid": None},
    ),
]


def test_mariadb_types_are_stored_exactly() -> None:
    columns = [(name, ["null", type_]) for name, type_, _, _ in MARIADB]
    schema = avro_envelope(columns)
    full, empty = {n: v for n, _, v, _ in MARIADB}, {n: None for n, _, _, _ in MARIADB}
    records = [(None, write_avro(schema, 3, as_event(row, False))) for row in (full, empty, full)]
    (change,) = DebeziumDecoder(Schemas({3: schema})).decode(chunk(records)).changes
    stored = {n: v for n, _, _, v in MARIADB}
    assert same([{n: row[n] for n in stored} for row in change.rows.to_pylist()], [stored, empty, stored])
    assert change.rows["_cdc_ts"][0].as_py() == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=17)
