"""Kafka's security settings reach aiokafka and Faust alike, and a wrong file is said by its option's name."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from aiokafka import AIOKafkaClient
from faust.auth import SASLCredentials, SSLCredentials
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth

from config.errors import ConfigurationError
from config.platform import KafkaConfig
from sources.kafka.security import client_arguments, faust_credentials

LOGIN = {"sasl_plain_username": "u", "sasl_plain_password": "geheim"}


def test_plain_text_needs_no_credentials() -> None:
    assert client_arguments(KafkaConfig()) == {
        "bootstrap_servers": "localhost:9092",
        "security_protocol": "PLAINTEXT",
    }
    assert faust_credentials(KafkaConfig()) is None


@pytest.mark.parametrize("protocol", ["SSL", "SASL_PLAINTEXT", "SASL_SSL"])
async def test_faust_logs_in_as_every_other_client_does(protocol: str) -> None:
    kafka = KafkaConfig.model_validate({"security_protocol": protocol, "sasl_mechanism": "SCRAM-SHA-512", **LOGIN})
    ours = client_arguments(kafka)
    assert AIOKafkaClient(**ours)  # every name is one that aiokafka knows
    credentials = faust_credentials(kafka)
    assert isinstance(credentials, SSLCredentials if protocol == "SSL" else SASLCredentials)
    theirs = dict(credentials_to_aiokafka_auth(credentials))
    assert isinstance(theirs.pop("ssl_context"), ssl.SSLContext if "SSL" in protocol[-3:] else type(None))
    assert theirs == {name: ours[name] for name in theirs}


def test_a_missing_certificate_is_named(tmp_path: Path) -> None:
    kafka = KafkaConfig(security_protocol="SSL", ssl_cafile=str(tmp_path / "ca.pem"))
    with pytest.raises(ConfigurationError, match=r"kafka\.ssl_cafile: there is no file .*ca\.pem"):
        client_arguments(kafka)


def test_a_broken_certificate_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate")
    kafka = KafkaConfig(security_protocol="SSL", ssl_cafile=str(tmp_path / "ca.pem"))
    with pytest.raises(ConfigurationError, match="can't be used"):
        client_arguments(kafka)
