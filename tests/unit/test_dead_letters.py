"""A dead letter says where its record came from and why it is there, twice in the same words."""

from __future__ import annotations

from aiokafka.structs import ConsumerRecord

from config.errors import BadRecord
from sources.changes import Chunk, Rejected
from sources.kafka.chunks import build_chunk
from sources.kafka.dead_letters import MAX_TEXT, letter_headers


def chunk() -> Chunk:
    own = (("trace-id", b"\x00\x01"), ("empty", None))
    records = [
        ConsumerRecord("cdc.public.a", 2, 40 + i, 1_700_000_000_123, 0, b"k", b"\xff", None, 1, 1, own)
        for i in range(2)
    ]
    return build_chunk("cdc.public.a", 2, 1, 40, 42, records)


def rejected(message: str = "no such schema: 7") -> Rejected:
    error = BadRecord(message)
    error.__cause__ = ValueError("the cause")
    return Rejected(1, error)


def test_headers_name_origin_reason_time_and_sinks() -> None:
    headers = dict(letter_headers(chunk(), rejected(), ["lake", "delta"], keep_headers=False))
    assert list(headers) == [
        "dlq.source_topic",
        "dlq.source_partition",
        "dlq.source_offset",
        "dlq.error_type",
        "dlq.error_message",
        "dlq.stacktrace",
        "dlq.timestamp",
        "dlq.sink_id",
    ]
    text = {name: (value or b"").decode() for name, value in headers.items()}
    assert text["dlq.source_topic"] == "cdc.public.a"
    assert (text["dlq.source_partition"], text["dlq.source_offset"]) == ("2", "41")
    assert (text["dlq.error_type"], text["dlq.error_message"]) == ("BadRecord", "no such schema: 7")
    assert "the cause" in text["dlq.stacktrace"]
    assert text["dlq.timestamp"] == "2023-11-14T22:13:20.123+00:00"
    assert text["dlq.sink_id"] == "lake,delta"


def test_the_records_own_headers_are_kept_after_ours_if_wanted() -> None:
    headers = letter_headers(chunk(), rejected(), ["lake"], keep_headers=True)
    assert headers[-2:] == [("trace-id", b"\x00\x01"), ("empty", None)]


def test_a_record_that_is_set_aside_twice_has_equal_headers() -> None:
    letter = rejected()
    once = letter_headers(chunk(), letter, ["lake"], keep_headers=True)
    assert once == letter_headers(chunk(), letter, ["lake"], keep_headers=True)


def test_a_huge_reason_does_not_make_the_letter_too_large() -> None:
    headers = letter_headers(chunk(), rejected("ä" * 1_000_000), ["lake"], keep_headers=False)
    assert sum(len(value or b"") for _, value in headers) < 4 * MAX_TEXT + 1_000
