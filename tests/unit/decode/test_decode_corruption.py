"""A record that can't be read is set aside by itself: no neighbour is lost, moved or altered."""

from __future__ import annotations

import random
from typing import Any

import pytest
from decode_reference import Record, Schemas, avro_samples, chunk, expected_row, json_samples, same
from hypothesis import given, settings
from hypothesis import strategies as st

from config.errors import BadRecord
from sources.changes import DecodedChunk
from sources.debezium.decoder import DebeziumDecoder

SCHEMAS, TOPICS = avro_samples("pga")
USERS = [r for r in TOPICS["pga.shop.users"] if r[1] is not None and r[1][:5] == b"\0\0\0\0\x05" and len(r[1]) < 999]
JSON_USERS = [r for r in json_samples()["pgs.shop.users"] if r[1] and b'"op":"c"' in r[1] and b'"added"' not in r[1]]


def rows_by_offset(decoded: DecodedChunk) -> dict[int, dict[str, Any]]:
    return {row.pop("_cdc_offset"): row for change in decoded.changes for row in change.rows.to_pylist()}


def check_neighbours(records: list[Record], bad: set[int], sound: Record) -> DecodedChunk:
    """All records but the `bad` ones are there as they were; a bad one is set aside or read as fastavro reads it."""
    decoded = DebeziumDecoder(SCHEMAS).decode(chunk(records))
    rows = rows_by_offset(decoded)
    rejected = {r.index for r in decoded.rejected}
    expected = expected_row(SCHEMAS, sound)
    for i in range(len(records)):
        if i not in bad:
            assert i not in rejected, decoded.rejected
            assert same(rows[i], expected)
        else:
            assert (i in rejected) != (i in rows), "each record is a row or set aside, not both, not neither"
    assert all(isinstance(r.reason, BadRecord) and f"offset {r.index}" in str(r.reason) for r in decoded.rejected)
    return decoded


@given(cuts=st.dictionaries(st.integers(0, 9), st.integers(5, 210), min_size=1))
@settings(max_examples=150, deadline=None)
def test_truncated_records_are_set_aside_alone(cuts: dict[int, int]) -> None:
    key, value = USERS[0]
    assert value is not None
    records: list[Record] = [(key, value[: min(cuts[i], len(value) - 1)] if i in cuts else value) for i in range(10)]
    decoded = check_neighbours(records, set(cuts), USERS[0])
    assert {r.index for r in decoded.rejected} == set(cuts), "no prefix of a record is a record"


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_flipped_bits_never_reach_a_neighbour_and_mean_what_fastavro_says(data: st.DataObject) -> None:
    key, value = USERS[0]
    assert value is not None
    body = bytearray(value)
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(5, len(body) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    records: list[Record] = [(key, value), (key, bytes(body)), (key, value), (key, bytes(body)), (key, value)]
    decoded = check_neighbours(records, {1, 3}, USERS[0])
    rows = rows_by_offset(decoded)
    if 1 in rows:
        try:
            expected = expected_row(SCHEMAS, (key, bytes(body)))
        except UnicodeDecodeError as error:
            # a text of `source`, which isn't read at all; the texts of the row are checked
            assert body.index(error.object) > value.index(b"3.7.0.Final") - 2
            return
        assert expected is not None
        assert same(
            {k: rows[1][k] for k in expected if k != "_cdc_ts"}, {k: v for k, v in expected.items() if k != "_cdc_ts"}
        )


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=5), st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_garbage_behind_a_sound_schema_id_is_set_aside_alone(garbage: list[bytes], order: random.Random) -> None:
    marked = [(USERS[0], False)] * 5 + [((USERS[0][0], b"\0\0\0\0\x05" + g), True) for g in garbage]
    order.shuffle(marked)
    check_neighbours([r for r, _ in marked], {i for i, (_, bad) in enumerate(marked) if bad}, USERS[0])


def test_a_text_that_claims_its_neighbours_bytes_does_not_get_them() -> None:
    key, value = USERS[0]
    assert value is not None
    at = value.index(b"user2") - 1
    swallowing = value[:at] + b"\xd2\x0d" + value[at + 1 :]  # the name is 873 bytes long, it says
    records: list[Record] = [(key, value), (key, swallowing), *[(key, value)] * 8]
    decoded = check_neighbours(records, {1}, USERS[0])
    assert [r.index for r in decoded.rejected] == [1]


def test_bytes_behind_the_last_field_are_no_part_of_a_record() -> None:
    key, value = USERS[0]
    assert value is not None
    decoded = check_neighbours([(key, value), (key, value + b"\0"), (key, value)], {1}, USERS[0])
    assert "1 bytes are left over" in str(decoded.rejected[0].reason)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"\x01\0\0\0\x05whatever", "neither Avro"),
        (b"", "neither Avro"),
        (b"\0\0\0", "neither Avro"),
        (b"\0\0\0\x03\xe7" + bytes(50), "no schema has the id 999"),
        (b"{", "as Connect's JsonConverter writes it"),
        (b'{"schema":{"type":"struct"},"payload":', "as Connect's JsonConverter writes it"),
        (b"\0\0\0\0\x04\x02", "no Debezium change event"),
    ],
)
def test_a_foreign_record_is_set_aside_with_its_reason(value: bytes, reason: str) -> None:
    decoded = check_neighbours([USERS[0], (USERS[0][0], value), USERS[0]], {1}, USERS[0])
    assert reason in str(decoded.rejected[0].reason)
    assert decoded.changes[0].first == 0
    assert decoded.changes[-1].next == 3


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_damaged_json_record_is_set_aside_alone_and_the_rest_is_read_together(data: st.DataObject) -> None:
    key, value = JSON_USERS[0]
    assert value is not None
    start = value.index(b'"payload":') + 10
    body = bytearray(value)
    if data.draw(st.booleans()):
        del body[data.draw(st.integers(start, len(body) - 1)) :]
    else:
        body[data.draw(st.integers(start, len(body) - 1))] = data.draw(st.sampled_from(b'{}[]",:x\n0\\\xff'))
    damaged: Record = (key, bytes(body))
    records: list[Record] = [JSON_USERS[0], damaged, JSON_USERS[0], JSON_USERS[0], damaged]
    check_neighbours(records, {1, 4}, JSON_USERS[0])


@pytest.mark.parametrize(
    "payload",
    [
        b'{"op":"c"}{"op":"c"}',
        b'{"op":"c"},"x":{}',
        b'{"op":"c","op":"c"}',
        b'{"op":1}',
        b'{"after":{"id":1.5}}',
        b"{}",
    ],
)
def test_json_that_is_not_one_value_of_its_schema_is_set_aside(payload: bytes) -> None:
    key, value = JSON_USERS[0]
    assert value is not None
    bad = value[: value.index(b'"payload":') + 10] + payload + b"}"
    decoded = check_neighbours([JSON_USERS[0], (key, bad), JSON_USERS[0]], {1}, JSON_USERS[0])
    assert [r.index for r in decoded.rejected] == [1]


def test_a_chunk_may_mix_both_formats() -> None:
    records = [USERS[0], JSON_USERS[0], USERS[1], JSON_USERS[0]]
    decoded = DebeziumDecoder(SCHEMAS).decode(chunk(records))
    rows = rows_by_offset(decoded)
    assert all(same(rows[i], expected_row(SCHEMAS, record)) for i, record in enumerate(records))
    assert [c.schema.id for c in decoded.changes] == [5, None, 5, None]


def test_a_broken_key_of_a_delete_is_set_aside() -> None:
    deletes = [r for r in TOPICS["pga.shop.users"] if r[1] and expected_row(SCHEMAS, r)["_cdc_op"] == "d"]  # type: ignore[index] # not a tombstone
    (key, value) = deletes[0]
    assert key is not None
    decoded = DebeziumDecoder(Schemas(SCHEMAS.schemas)).decode(chunk([(key, value), (key[:5], value), (key, value)]))
    assert [r.index for r in decoded.rejected] == [1]
    assert "the key of a delete can't be read" in str(decoded.rejected[0].reason)
    assert list(rows_by_offset(decoded)) == [0, 2]
