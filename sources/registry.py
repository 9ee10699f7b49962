"""The one place that chooses a transport: `transport_mode` of the platform's configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from config.errors import ConfigurationError
from config.platform import PlatformConfig
from sources.protocols import ErrorRouter, EventSource, Provisioner, SourceMonitor


@dataclass(frozen=True)
class Transport:
    """The parts of a transport; each is made when it is called for, and connects when it is used."""

    provisioner: Callable[[], Provisioner]
    error_router: Callable[[], ErrorRouter]
    monitor: Callable[[], SourceMonitor]
    event_source: Callable[[], EventSource]


def transport_for(platform: PlatformConfig) -> Transport:
    """The transport that the platform names. Raises ConfigurationError for one that isn't built."""
    if platform.transport_mode == "kafka":
        return _kafka(platform)
    raise ConfigurationError(f"transport_mode {platform.transport_mode} isn't built; this version has: kafka")


def _kafka(platform: PlatformConfig) -> Transport:
    from sources.kafka.dead_letters import DeadLetters
    from sources.kafka.lag import KafkaMonitor
    from sources.kafka.provisioner import KafkaProvisioner
    from sources.kafka.reader import KafkaReader

    return Transport(
        provisioner=lambda: KafkaProvisioner(platform.kafka),
        error_router=lambda: DeadLetters(platform),
        monitor=lambda: KafkaMonitor(platform.kafka),
        event_source=lambda: KafkaReader(platform.kafka, platform.retry),
    )
