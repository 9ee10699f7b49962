"""One pipeline per test, over a PostgreSQL database, a user and topics of its own, run through the real `cdc`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from uuid import uuid4

import pytest

from stack.manager import Endpoints
from stack.testing import StartServices

sys.path.insert(0, str(Path(__file__).parent))

from workbench import TABLES, Workbench, execute


@pytest.fixture(scope="session")
def services(start_services: StartServices) -> Endpoints:
    """Kafka, registry, Connect and PostgreSQL."""
    return start_services("connect", "postgres")


@pytest.fixture
def bench(services: Endpoints, tmp_path: Path) -> Iterator[Workbench]:
    """A pipeline that nothing of is deployed; what a test deploys is gone after it."""
    name = f"t{uuid4().hex[:10]}"
    server = services["postgres"]
    admin = {"host": server.host, "port": server.port, "user": server.user, "password": server.password}
    maintenance = {**admin, "database": server.more["database"]}
    role = f"CREATE ROLE {name} LOGIN REPLICATION CREATEROLE PASSWORD 'geheim'"
    asyncio.run(execute(maintenance, f"{role}; CREATE DATABASE {name} OWNER {name}"))
    workbench = Workbench(
        tmp_path,
        server,
        name,
        source={
            "host": server.host,
            "port": server.port,
            "database": name,
            "username": name,
            "password": "geheim",
            "tables": ["public.customers", "public.orders"],
            "slot_name": name,
            "publication_name": name,
        },
        platform={
            "kafka": {"bootstrap_servers": services["kafka"].address, "schema_registry_url": services["registry"].url},
            "connector": {
                "connect_url": services["connect"].url,
                "converter": "avro-apicurio",
                "registry_url": services["registry"].more["converter_url"],
                "retry_wait_seconds": 0.2,
            },
            "retry": {"max_attempts": 2, "initial_wait_seconds": 0.2},
        },
        sinks=[
            {
                "sink_id": "lake",
                "sink_type": "iceberg",
                "iceberg": {"catalog_uri": f"sqlite:///{tmp_path}/catalog.db", "warehouse": f"file://{tmp_path}/lake"},
            }
        ],
    )
    workbench.sql(TABLES)
    platform, source = deepcopy(workbench.platform), deepcopy(workbench.source)
    yield workbench
    workbench.platform, workbench.source = platform, source
    undeployed = workbench.cdc("undeploy", "--delete-topics")
    assert undeployed.code == 0, undeployed.err
    asyncio.run(execute(maintenance, f"DROP DATABASE {name} WITH (FORCE); DROP ROLE {name}"))
