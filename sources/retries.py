"""Waiting for a service that is away: exponential backoff with jitter, and a log line that says what and where."""

from __future__ import annotations

import structlog
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    stop_never,
    wait_exponential,
    wait_random,
)

from config.errors import Unavailable

log = structlog.get_logger("lakeward.retries")


def retrying(service: str, attempts: int | None, initial_wait: float, max_wait: float = 60.0) -> AsyncRetrying:
    """Calls again on `Unavailable`, up to `attempts` times in all (None: for ever), then lets the last error through.

    `service` names what is waited for and its address. Waits are in seconds and double each time.
    """

    def say(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        log.warning(
            "service.waiting",
            service=service,
            attempt=state.attempt_number,
            of=attempts,
            retry_in=round(state.upcoming_sleep, 1),
            error=str(error),
        )

    return AsyncRetrying(
        retry=retry_if_exception_type(Unavailable),
        stop=stop_never if attempts is None else stop_after_attempt(attempts),
        wait=wait_exponential(multiplier=initial_wait, max=max_wait) + wait_random(0, initial_wait / 2),
        before_sleep=say,
        reraise=True,
    )
