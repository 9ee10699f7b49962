"""Failures of Kafka in Lakeward's terms: which broker, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from aiokafka.errors import KafkaError

from config.errors import ConfigurationError, Unavailable
from config.platform import KafkaConfig


@contextmanager
def reaching(kafka: KafkaConfig, purpose: str) -> Iterator[None]:
    """Turns aiokafka's errors into `Unavailable` (may pass) or `ConfigurationError` (won't), naming the brokers.

    `purpose` completes "couldn't …", such as `create topics`.
    """
    try:
        yield
    except (KafkaError, OSError, TimeoutError) as error:
        reason = str(error) or type(error).__name__
        message = f"Kafka at {kafka.bootstrap_servers}: couldn't {purpose}: {reason}"
        if isinstance(error, KafkaError) and not error.retriable:
            raise ConfigurationError(message) from error
        raise Unavailable(message) from error
