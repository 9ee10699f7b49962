"""Which errors of a group's coordination a new start gets over."""

from __future__ import annotations

import pytest
from aiokafka import errors

from config.errors import ConfigurationError, Unavailable
from sources.kafka.group_errors import group_error

UNEXPECTED = "Unexpected error during coordination"


def wrapped(cause: Exception) -> errors.KafkaError:
    """As aiokafka hands it on."""
    error = errors.KafkaError(f"{UNEXPECTED} {cause!r}")
    error.__cause__ = cause
    return error


def test_an_answer_that_aiokafka_does_not_know_is_got_over() -> None:
    fenced = errors.for_code(82)()  # FENCED_INSTANCE_ID
    found = group_error("shop", wrapped(errors.KafkaError(repr(fenced))))
    assert isinstance(found, Unavailable)
    assert "group shop let go of this worker" in str(found)


@pytest.mark.parametrize("refusal", [errors.InconsistentGroupProtocolError(), errors.InvalidSessionTimeoutError()])
def test_a_refusal_has_to_be_seen_to(refusal: errors.KafkaError) -> None:
    assert isinstance(group_error("shop", wrapped(refusal)), ConfigurationError)
    assert isinstance(group_error("shop", refusal), ConfigurationError)


def test_a_defect_stays_one() -> None:
    error = wrapped(AssertionError("of the assignor"))
    assert group_error("shop", error) is error
