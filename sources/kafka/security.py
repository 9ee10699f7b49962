"""How brokers are talked to: `KafkaConfig` as the arguments of aiokafka's clients and as Faust's credentials."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiokafka.helpers import create_ssl_context

from config.errors import ConfigurationError
from config.platform import KafkaConfig

if TYPE_CHECKING:
    from faust.auth import Credentials


def client_arguments(kafka: KafkaConfig) -> dict[str, Any]:
    """Arguments that every aiokafka client takes: brokers, protocol, login, certificates."""
    arguments: dict[str, Any] = {
        "bootstrap_servers": kafka.bootstrap_servers,
        "security_protocol": kafka.security_protocol,
    }
    if "SSL" in kafka.security_protocol:
        arguments["ssl_context"] = _ssl_context(kafka)
    if kafka.security_protocol.startswith("SASL"):
        arguments |= {
            "sasl_mechanism": kafka.sasl_mechanism,
            "sasl_plain_username": kafka.sasl_plain_username,
            "sasl_plain_password": _secret(kafka, "sasl_plain_password"),
        }
    return arguments


def faust_credentials(kafka: KafkaConfig) -> Credentials | None:
    """Faust's `broker_credentials`; None for plain text without a login."""
    from faust.auth import SASLCredentials, SSLCredentials  # commands that never start a worker don't pay for Faust

    context = _ssl_context(kafka) if "SSL" in kafka.security_protocol else None
    if kafka.security_protocol.startswith("SASL"):
        return SASLCredentials(
            username=kafka.sasl_plain_username,
            password=_secret(kafka, "sasl_plain_password"),
            ssl_context=context,
            mechanism=kafka.sasl_mechanism,
        )
    return SSLCredentials(context) if context is not None else None


def _ssl_context(kafka: KafkaConfig) -> ssl.SSLContext:
    """The context of the configured files, the system's authorities where none is named."""
    for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile"):
        path = getattr(kafka, name)
        if path is not None and not Path(path).is_file():
            raise ConfigurationError(f"kafka.{name}: there is no file {path}")
    try:
        context: ssl.SSLContext = create_ssl_context(
            cafile=kafka.ssl_cafile,
            certfile=kafka.ssl_certfile,
            keyfile=kafka.ssl_keyfile,
            # An empty one: OpenSSL would ask at the terminal for the password of an encrypted key otherwise.
            password=_secret(kafka, "ssl_password") or "",
        )
    except ssl.SSLError as error:
        raise ConfigurationError(
            f"kafka.ssl_cafile, ssl_certfile, ssl_keyfile or ssl_password can't be used: {error}"
        ) from error
    return context


def _secret(kafka: KafkaConfig, name: str) -> str | None:
    secret = getattr(kafka, name)
    return None if secret is None else str(secret.get_secret_value())
