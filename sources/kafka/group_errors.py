"""What an error of a consumer group's coordination asks for."""

from __future__ import annotations

from collections.abc import Iterator

from aiokafka.errors import (
    GroupAuthorizationFailedError,
    InconsistentGroupProtocolError,
    InvalidGroupIdError,
    InvalidSessionTimeoutError,
    KafkaError,
    TopicAuthorizationFailedError,
)

from config.errors import ConfigurationError, Unavailable

REFUSALS = (
    GroupAuthorizationFailedError,
    InconsistentGroupProtocolError,
    InvalidGroupIdError,
    InvalidSessionTimeoutError,
    TopicAuthorizationFailedError,
)
"""Answers that stay the same however often a worker asks."""


def group_error(group: str, error: Exception) -> Exception:
    """The error to end a worker with, whose membership broke off with `error`.

    aiokafka ends a membership with any answer that it doesn't expect. FENCED_INSTANCE_ID is one (it doesn't know the
    code, 82, and says UnknownError): a broker that was frozen answers a static member's earlier request after its later
    one. A worker that starts again joins again. What isn't an answer of the brokers is a defect, returned as it is.
    """
    causes = list(_causes(error))
    if any(isinstance(cause, REFUSALS) for cause in causes):
        return ConfigurationError(
            f"group {group} doesn't take this worker: {error}. Are other programs members of the group, or are rights"
            " for it missing (ACLs: READ and DESCRIBE)?"
        )
    if all(isinstance(cause, KafkaError) for cause in causes):
        return Unavailable(
            f"group {group} let go of this worker: {error}. Started again, it joins again; if that happens over and"
            " over, the brokers' log says why"
        )
    return error


def _causes(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__
