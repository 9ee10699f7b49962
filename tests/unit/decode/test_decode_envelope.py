"""What Debezium's events mean: operations, keys, ranges of offsets, and what stops the pipeline."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, ClassVar

import pytest
from decode_reference import Record, Schemas, avro_samples, chunk, json_samples, write_avro

from config.errors import BadRecord, Unavailable, UnsupportedChange
from sources.changes import DecodedChunk
from sources.debezium.decoder import DebeziumDecoder
from sources.debezium.schemas import RegistrySchemas

SCHEMAS, TOPICS = avro_samples("pga")
USERS = TOPICS["pga.shop.users"]
SOURCE = {
    "type": "record",
    "name": "Source",
    "namespace": "io.debezium.connector.postgresql",
    "fields": [{"name": "connector", "type": "string"}, {"name": "ts_ms", "type": "long"}],
    "connect.name": "io.debezium.connector.postgresql.Source",
}
KEY = {"type": "record", "name": "Key", "fields": [{"name": "id", "type": "int"}]}


def envelope(**columns: Any) -> dict[str, Any]:
    """The writer schema of a table with these columns."""
    fields = [{"name": name, "type": type_} for name, type_ in columns.items()]
    value = {"type": "record", "name": "Value", "fields": fields}
    return {
        "type": "record",
        "name": "Envelope",
        "fields": [
            {"name": "before", "type": ["null", value]},
            {"name": "after", "type": ["null", "Value"]},
            {"name": "source", "type": SOURCE},
            {"name": "op", "type": "string"},
        ],
    }


def event(schema: dict[str, Any], op: str, after: Any = None, before: Any = None) -> bytes:
    source = {"connector": "postgresql", "ts_ms": 1_700_000_000_123}
    return write_avro(schema, 2, {"before": before, "after": after, "source": source, "op": op})


def decode_table(schema: dict[str, Any], *events: bytes, key: int | None = 1) -> DecodedChunk:
    schemas = Schemas({1: KEY, 2: schema})
    records = [(None if key is None else write_avro(KEY, 1, {"id": key}), e) for e in events]
    return DebeziumDecoder(schemas).decode(chunk(records, "t.s.users"))


def test_batches_are_cut_where_the_writer_schema_changes_and_cover_the_chunk() -> None:
    holes = [3 * i + 7 for i in range(len(USERS))]
    part = chunk(USERS, offsets=holes)
    part.next = holes[-1] + 5
    changes = DebeziumDecoder(SCHEMAS).decode(part).changes
    assert [c.schema.id for c in changes] == [5, 14, 16, 18, 20, 22, 20, 26, 31]
    assert (changes[0].first, changes[-1].next) == (0, holes[-1] + 5)
    assert [c.next for c in changes[:-1]] == [c.first for c in changes[1:]]
    for change in changes:
        offsets = change.rows["_cdc_offset"].to_pylist()
        assert offsets == sorted(set(offsets))
        assert change.first <= offsets[0]
        assert offsets[-1] < change.next
    assert "nick" in changes[1].schema.columns.names
    assert changes[4].schema is changes[6].schema


def test_a_chunk_of_tombstones_has_no_change() -> None:
    decoded = DebeziumDecoder(SCHEMAS).decode(chunk([(USERS[0][0], None)] * 3))
    assert (decoded.changes, dict(decoded.skipped)) == ((), {"tombstone": 3})
    assert DebeziumDecoder(SCHEMAS).decode(chunk([])).changes == ()


def test_a_delete_has_its_key_columns_from_the_kafka_key_and_nothing_else() -> None:
    schema = envelope(id="int", name="string")
    rows = decode_table(
        schema,
        event(schema, "c", after={"id": 1, "name": "a"}),
        event(schema, "d", before={"id": 999, "name": "made up"}),
        event(schema, "u", after={"id": 1, "name": "b"}),
    )
    (change,) = rows.changes
    assert change.schema.key == ("id",)
    assert change.rows.select(["id", "name", "_cdc_op"]).to_pylist() == [
        {"id": 1, "name": "a", "_cdc_op": "c"},
        {"id": 1, "name": None, "_cdc_op": "d"},
        {"id": 1, "name": "b", "_cdc_op": "u"},
    ]
    assert not change.schema.columns.field("name").nullable
    assert change.rows["_cdc_ts"][0].as_py().isoformat() == "2023-11-14T22:13:20.123000+00:00"


def test_a_new_primary_key_cuts_the_batch_though_the_row_schema_stays() -> None:
    schema = envelope(id="int", name="string")
    wider = {"type": "record", "name": "Key", "fields": [*KEY["fields"], {"name": "name", "type": "string"}]}
    schemas = Schemas({1: KEY, 2: schema, 3: wider})
    row = {"id": 1, "name": "a"}
    records = [
        (write_avro(KEY, 1, {"id": 1}), event(schema, "c", after=row)),
        (write_avro(wider, 3, row), event(schema, "d", before=row)),
    ]
    changes = DebeziumDecoder(schemas).decode(chunk(records)).changes
    assert [(c.first, c.next, c.schema.key) for c in changes] == [(0, 1, ("id",)), (1, 2, ("id", "name"))]
    assert changes[1].rows["name"].to_pylist() == ["a"]


def test_a_delete_of_a_table_without_key_has_all_columns_of_before() -> None:
    schema = envelope(id="int", tags={"type": "array", "items": "string"})
    before = {"id": 7, "tags": ["x", "y"]}
    made = decode_table(
        schema, event(schema, "c", after={"id": 1, "tags": []}), event(schema, "d", before=before), key=None
    )
    (change,) = made.changes
    assert change.schema.key == ()
    assert [row["tags"] for row in change.rows.to_pylist()] == [[], ["x", "y"]]
    assert change.rows["id"].to_pylist() == [1, 7]


@pytest.mark.parametrize(
    ("op", "after", "reason"),
    [("x", {"id": 1}, "none of Debezium's"), ("", {"id": 1}, "none of Debezium's"), ("c", None, "after is null")],
)
def test_an_event_that_makes_no_sense_is_set_aside(op: str, after: Any, reason: str) -> None:
    schema = envelope(id="int")
    good = event(schema, "c", after={"id": 1})
    decoded = decode_table(schema, good, event(schema, op, after=after), good)
    assert [r.index for r in decoded.rejected] == [1]
    assert reason in str(decoded.rejected[0].reason)
    assert decoded.changes[0].rows["_cdc_offset"].to_pylist() == [0, 2]


def test_a_truncate_is_a_row_of_nulls() -> None:
    records = json_samples()["pgs.shop.nopk_full"]
    decoded = DebeziumDecoder(Schemas({})).decode(chunk(records))
    rows = {row["_cdc_offset"]: row for change in decoded.changes for row in change.rows.to_pylist()}
    assert rows[5]["_cdc_op"] == "t"
    assert {name for name, value in rows[5].items() if value is not None} == {"_cdc_offset", "_cdc_op", "_cdc_ts"}
    assert not decoded.rejected


def test_a_truncate_of_a_table_with_key_is_a_batch_of_its_own_and_one_with_a_key_is_set_aside() -> None:
    schema = envelope(id="int")
    good, emptied = event(schema, "c", after={"id": 1}), event(schema, "t")
    key = write_avro(KEY, 1, {"id": 1})
    records = [(key, good), (None, emptied), (key, emptied), (key, good)]
    decoded = DebeziumDecoder(Schemas({1: KEY, 2: schema})).decode(chunk(records, "t.s.users"))
    assert [change.truncates_only for change in decoded.changes] == [False, True, False]
    assert [change.schema.key for change in decoded.changes] == [("id",), (), ("id",)]
    assert [change.rows.num_rows for change in decoded.changes] == [1, 1, 1]
    assert [(bad.index, "never gives it" in str(bad.reason)) for bad in decoded.rejected] == [(2, True)]


def test_an_unchanged_toast_value_is_null_and_named() -> None:
    records = json_samples()["pgs.shop.users"]
    decoded = DebeziumDecoder(Schemas({})).decode(chunk(records))
    rows = {row["_cdc_offset"]: row for change in decoded.changes for row in change.rows.to_pylist()}
    assert rows[10]["_cdc_unchanged"] == ["big_toast"]
    assert rows[10]["big_toast"] is None
    assert {offset for offset, row in rows.items() if row.get("_cdc_unchanged")} == {10}


@pytest.mark.parametrize(
    ("type_", "value", "other"),
    [
        ("string", "__debezium_unavailable_value", "x"),
        ("bytes", b"__debezium_unavailable_value", b""),
        ({"type": "array", "items": "string"}, ["__debezium_unavailable_value"], []),
        ({"type": "array", "items": "int"}, list(b"__debezium_unavailable_value"), [1, 2]),
        (
            {"type": "array", "items": {"type": "string", "connect.name": "io.debezium.time.ZonedTimestamp"}},
            ["__debezium_unavailable_value"],
            ["2026-01-01T00:00:00Z"],
        ),
        (
            {"type": "map", "values": "string"},
            {"__debezium_unavailable_value": "__debezium_unavailable_value"},
            {"a": "b"},
        ),
    ],
)
def test_the_toast_placeholder_is_known_in_all_its_shapes(type_: Any, value: Any, other: Any) -> None:
    """In updates alone: what a snapshot reads or an insert brings is a value that looks so."""
    schema = envelope(id="int", big=type_, more=["null", "string"])
    events = [("u", other), ("u", value), ("d", None), ("u", other), ("c", "same"), ("r", "same")]
    bodies = [
        event(schema, op, after=None if op == "d" else {"id": 1, "big": value if big == "same" else big, "more": None})
        for op, big in events
        if "Zoned" not in str(type_) or big != "same"
    ]
    decoded = decode_table(schema, *bodies)
    assert not decoded.rejected
    rows = decoded.changes[0].rows
    assert rows["_cdc_unchanged"].to_pylist()[:4] == [None, ["big"], None, None]
    assert rows["_cdc_unchanged"].to_pylist()[4:] == [None] * (len(bodies) - 4)
    assert [big is None for big in rows["big"].to_pylist()] == [False, True, True, *[False] * (len(bodies) - 3)]


def test_what_stands_for_a_value_that_was_not_sent_can_be_chosen() -> None:
    schema = envelope(id="int", big="string")
    values = ["__debezium_unavailable_value", "not sent: 7d1f0a"]
    key = write_avro(KEY, 1, {"id": 1})
    part = chunk([(key, event(schema, "u", after={"id": 1, "big": value})) for value in values], "t.s.users")
    rows = DebeziumDecoder(Schemas({1: KEY, 2: schema}), placeholder=values[1]).decode(part).changes[0].rows
    assert rows["big"].to_pylist() == [values[0], None]


def test_a_row_under_a_new_key_may_lack_values() -> None:
    schema = envelope(id="int", big="string")
    placeholder = {"id": 1, "big": "__debezium_unavailable_value"}
    key = write_avro(KEY, 1, {"id": 1})
    part = chunk([(key, event(schema, "c", after=placeholder))] * 2, "t.s.users")
    part.headers = [(), (("__debezium.oldkey", b"{}"),)]
    rows = DebeziumDecoder(Schemas({1: KEY, 2: schema})).decode(part).changes[0].rows
    assert rows["big"].to_pylist() == ["__debezium_unavailable_value", None]
    assert rows["_cdc_unchanged"].to_pylist() == [None, ["big"]]


@pytest.mark.parametrize(
    ("type_", "named"),
    [
        ({"type": "string", "connect.name": "org.example.Secret"}, "org.example.Secret"),
        ({"type": "map", "values": "string", "connect.name": "org.example.Map"}, "org.example.Map"),
        (["null", "int", "string"], "union"),
        ({"type": "enum", "name": "E", "symbols": ["a"]}, "E"),
        (
            {
                "type": "bytes",
                "logicalType": "decimal",
                "precision": 50,
                "scale": 2,
                "connect.name": "org.apache.kafka.connect.data.Decimal",
            },
            r"decimal\(50, 2\)",
        ),
    ],
)
def test_a_type_that_cannot_be_stored_stops_with_topic_column_and_name(type_: Any, named: str) -> None:
    schema = envelope(id="int", odd=type_)
    good = {"id": 1, "odd": None if isinstance(type_, list) else {"map": {}, "enum": "a"}.get(type_["type"])}
    body = event(envelope(id="int"), "c", after={"id": 1}) if good["odd"] is None else event(schema, "c", after=good)
    with pytest.raises(UnsupportedChange, match=f"topic t.s.users, column odd: .*{named}"):
        decode_table(schema, body)


def test_a_source_column_may_not_have_the_name_of_ours() -> None:
    schema = envelope(id="int", _cdc_op="string")
    with pytest.raises(UnsupportedChange, match=r"column _cdc_op: .*rename"):
        decode_table(schema, event(schema, "c", after={"id": 1, "_cdc_op": "x"}))


def test_json_without_schema_stops_with_the_way_out() -> None:
    with pytest.raises(UnsupportedChange, match=r"topic t.s.users, partition 0.*connector.converter"):
        DebeziumDecoder(Schemas({})).decode(chunk([(None, b'{"before":null,"after":{"a":1},"op":"c"}')]))


def test_heartbeats_are_skipped_and_counted() -> None:
    name = "io.debezium.connector.common.Heartbeat"
    schema = {
        "type": "record",
        "name": "Heartbeat",
        "fields": [{"name": "ts_ms", "type": "long"}],
        "connect.name": name,
    }
    decoded = decode_table(schema, write_avro(schema, 2, {"ts_ms": 1}))
    assert (decoded.changes, dict(decoded.skipped), decoded.rejected) == ((), {"heartbeat": 1}, ())


def test_columns_that_nobody_wants_may_be_of_any_type() -> None:
    schema = envelope(id="int")
    odd = {
        "type": "array",
        "items": [
            {"type": "map", "values": ["null", "double"]},
            {"type": "enum", "name": "E", "symbols": ["a", "b"]},
            "int",
        ],
    }
    schema["fields"].insert(2, {"name": "odd", "type": odd})
    schema["fields"].insert(0, {"name": "f", "type": {"type": "fixed", "name": "F", "size": 3}})
    source = {"connector": "postgresql", "ts_ms": 5}
    values = [
        {"f": b"abc", "odd": odd_value, "before": None, "after": {"id": i}, "source": source, "op": "c"}
        for i, odd_value in enumerate([[], [{"a": 1.5, "b": None}, "b", 7], ["a"] * 200, [{}] * 70 + [300] * 70])
    ]
    decoded = decode_table(schema, *[write_avro(schema, 2, value) for value in values])
    assert decoded.changes[0].rows["id"].to_pylist() == [0, 1, 2, 3]


def test_one_decoder_serves_several_threads() -> None:
    decoder = DebeziumDecoder(SCHEMAS)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: decoder.decode(chunk(USERS * 20)), range(16)))
    first = results[0]
    assert all(a.rows.equals(b.rows) for r in results for a, b in zip(r.changes, first.changes, strict=True))


class _Registry(BaseHTTPRequestHandler):
    answers: ClassVar[list[tuple[int, Any]]] = []

    def do_GET(self) -> None:
        code, body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_args: Any) -> None:
        """Quiet."""


@pytest.fixture
def registry() -> Iterator[str]:
    """A registry that gives the answers of `_Registry.answers` in turn."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Registry)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def schemas_at(url: str) -> RegistrySchemas:
    return RegistrySchemas(url, wait=lambda _state: 0.0)


def test_a_registry_that_comes_back_is_asked_again_and_an_id_only_once(registry: str) -> None:
    _Registry.answers = [(503, {}), (200, {"schema": json.dumps(KEY)}), (500, {})]
    source = schemas_at(registry)
    assert source.writer_schema(3)["fields"] == KEY["fields"]
    assert source.writer_schema(3)["fields"] == KEY["fields"]


def test_a_registry_that_stays_away_is_unavailable(registry: str) -> None:
    _Registry.answers = [(503, {})]
    records: list[Record] = [(None, b"\0\0\0\0\x07x")]
    with pytest.raises(Unavailable, match="503"):
        DebeziumDecoder(schemas_at(registry)).decode(chunk(records))
    with pytest.raises(Unavailable, match=r"schema registry http://127\.0\.0\.1:1"):
        schemas_at("http://127.0.0.1:1").writer_schema(7)


@pytest.mark.parametrize("answer", [(404, {"error_code": 40403}), (200, {"schema": '{"type": "nonsense"}'})])
def test_an_id_without_avro_schema_is_the_records_fault(registry: str, answer: tuple[int, Any]) -> None:
    _Registry.answers = [answer]
    with pytest.raises(BadRecord, match="id 7"):
        schemas_at(registry).writer_schema(7)
