"""Kafka and the registry, and a load on a topic of its own with the files of a pipeline that writes it five ways."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stack.manager import Endpoint, Endpoints
from stack.testing import StartServices

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2]))

from chaos.load import Load
from chaos.pipeline import ChaosPipeline, StoredPipeline


@pytest.fixture(scope="session")
def streaming(start_services: StartServices) -> Endpoints:
    """Kafka and the schema registry."""
    return start_services("kafka", "registry")


@pytest.fixture
def chaos(streaming: Endpoints, tmp_path: Path) -> Iterator[ChaosPipeline]:
    """A pipeline over a topic of four partitions; its load and its workers end with the test."""
    pipeline = ChaosPipeline(tmp_path, streaming, Load(streaming))
    yield pipeline
    pipeline.close()


@pytest.fixture
def stored(streaming: Endpoints, s3: Endpoint, rest_catalog: Endpoint, tmp_path: Path) -> Iterator[StoredPipeline]:
    """The same with its tables in an object store and a REST catalog that may misbehave."""
    pipeline = StoredPipeline(tmp_path, streaming, Load(streaming), s3, rest_catalog)
    yield pipeline
    pipeline.close()
