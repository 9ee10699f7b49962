"""Real records of Debezium connectors: each comes out as a reader per record would have it."""

from __future__ import annotations

from typing import Any

import pytest
from decode_reference import Record, Schemas, avro_samples, chunk, expected_row, json_samples, same

from sources.changes import Chunk, DecodedChunk
from sources.debezium.decoder import DebeziumDecoder

ROWS = 100_000
CHUNK = 5_000


def shapes() -> list[Any]:
    """Each topic's sound records that make rows, and their registry."""
    cases = []
    for registry in ("pga", "pgb"):
        schemas, topics = avro_samples(registry)
        cases += [pytest.param(schemas, t, r, id=f"avro-{t}") for t, r in topics.items()]
    cases += [pytest.param(Schemas({}), t, r, id=f"json-{t}") for t, r in json_samples().items() if "message" not in t]
    return cases


def carried(records: list[Record]) -> list[Record]:
    """Without unchanged TOAST values, which stop the pipeline and are tested elsewhere."""
    return [(k, v) for k, v in records if v is None or b"__debezium_unavailable_value" not in v]


def rows_by_offset(decoded: DecodedChunk) -> dict[int, dict[str, Any]]:
    return {row.pop("_cdc_offset"): row for change in decoded.changes for row in change.rows.to_pylist()}


@pytest.mark.parametrize(("schemas", "topic", "records"), shapes())
def test_every_sample_is_decoded_as_a_reader_per_record_would(
    schemas: Schemas, topic: str, records: list[Record]
) -> None:
    records = carried(records)
    decoded = DebeziumDecoder(schemas).decode(chunk(records, topic))
    rows = rows_by_offset(decoded)
    rejected = {bad.index for bad in decoded.rejected}
    for i, record in enumerate(records):
        if record[1] is not None and b"special" in record[1]:
            assert i in rejected, "an infinite date can't become a date"
            continue
        assert i not in rejected, decoded.rejected
        expected = expected_row(schemas, record)
        assert (expected is None) == (i not in rows)
        if expected is not None:
            wrong = {k: (rows[i].get(k), v) for k, v in expected.items() if not same(rows[i].get(k), v)}
            assert not wrong
            assert rows[i].keys() == expected.keys()


@pytest.mark.parametrize(("schemas", "topic", "records"), shapes())
def test_no_sound_record_of_100_000_takes_a_path_per_record(
    schemas: Schemas, topic: str, records: list[Record]
) -> None:
    sound = [r for r in carried(records) if r[1] is None or b"special" not in r[1]]
    # values of 16 kB (TOAST) are tested above; here they would only take time
    sound = [r for r in sound if r[1] is None or b"c4ca4238a0b9" not in r[1]]
    repeated = [record for record in sound for _ in range(CHUNK // len(sound) + 1)][:CHUNK]
    decoder = DebeziumDecoder(schemas)
    done = 0
    while done < ROWS:
        part: Chunk = chunk(repeated, topic)
        decoded = decoder.decode(part)
        assert decoded.fallback_rows == 0
        assert not decoded.rejected
        rows = sum(change.rows.num_rows for change in decoded.changes)
        assert rows + sum(decoded.skipped.values()) == CHUNK
        done += CHUNK


def test_not_a_number_and_infinite_floats_stay_what_they_are_without_a_path_per_record() -> None:
    records = [r for r in json_samples()["pgs.shop.types_default"] if r[1] and b"special" in r[1]]
    sound = [
        (k, v.replace(b"-622191234", b"null").replace(b"9223372036854775807", b"null").replace(b'"-infinity"', b"null"))
        for k, v in records
        if v is not None
    ]
    many = [
        (k, v.replace(b'"NaN"', special)) for k, v in sound for special in (b'"NaN"', b'"-Infinity"', b'"Infinity"')
    ]
    decoded = DebeziumDecoder(Schemas({})).decode(chunk(many))
    assert [str(row["d"]) for row in rows_by_offset(decoded).values()] == ["nan", "-inf", "inf"]
    assert decoded.fallback_rows == 0
    assert not decoded.rejected


def test_logical_messages_are_skipped_and_counted() -> None:
    decoded = DebeziumDecoder(Schemas({})).decode(chunk(json_samples()["pgs.message"], "pgs.message"))
    assert (decoded.changes, decoded.rejected, dict(decoded.skipped)) == ((), (), {"message": 1})
