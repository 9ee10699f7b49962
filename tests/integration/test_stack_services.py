"""What the services of the stack are good for: the settings and guarantees that the pipeline rests on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncpg
import boto3
import httpx
import pyarrow as pa
import pymysql
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import UnknownTopicOrPartitionError
from botocore.config import Config
from botocore.exceptions import ClientError
from pyiceberg.catalog.rest import RestCatalog

from stack import supervisors
from stack.manager import Endpoint
from stack.supervisor import SERVICES
from stack.testing import StartServices

GIB = 1 << 30


def test_the_whole_stack_stays_below_4_gib(start_services: StartServices, stack_state: Path) -> None:
    endpoints = start_services(*SERVICES)
    assert endpoints.keys() == SERVICES.keys()
    processes = [p for s in supervisors.living(stack_state) for p in (s, *s.children(recursive=True))]
    assert sum(process.memory_info().rss for process in processes) < 4 * GIB


async def test_postgres_lets_the_pipelines_user_decode_its_log(postgres: Endpoint) -> None:
    connection = await asyncpg.connect(postgres.url)
    try:
        assert await connection.fetchval("SHOW wal_level") == "logical"
        slot = "SELECT slot_name FROM pg_create_logical_replication_slot('probe', 'pgoutput', true)"
        assert await connection.fetchval(slot) == "probe"
    finally:
        await connection.close()
    assert (postgres.user, postgres.password, postgres.more["database"]) == ("cdc_user", "cdc_password", "cdc_demo")


def test_mariadb_writes_whole_rows_to_its_binlog_and_lets_the_pipelines_user_read_it(mariadb: Endpoint) -> None:
    login: dict[str, Any] = {"user": mariadb.user, "password": mariadb.password, "database": mariadb.more["database"]}
    with pymysql.connect(host=mariadb.host, port=mariadb.port, **login) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT @@log_bin, @@binlog_format, @@binlog_row_image, @@version")
        (log_bin, log_format, row_image, version), *_ = cursor.fetchall()
        cursor.execute("SHOW BINARY LOGS")
        assert cursor.fetchall()
    assert (log_bin, log_format, row_image) == (1, "ROW", "FULL")
    assert version.startswith("10.11.")


def test_the_registry_refuses_an_incompatible_schema_unless_told_otherwise(registry: Endpoint) -> None:
    def schema(kind: str) -> dict[str, str]:
        return {"schema": f'{{"type": "record", "name": "Row", "fields": [{{"name": "id", "type": "{kind}"}}]}}'}

    versions = f"{registry.url}/subjects/incompatible-value/versions"
    assert httpx.get(f"{registry.url}/config").json() == {"compatibilityLevel": "BACKWARD"}
    assert httpx.post(versions, json=schema("string")).status_code == httpx.codes.OK
    assert httpx.post(versions, json=schema("long")).status_code == httpx.codes.CONFLICT


def test_connect_offers_the_debezium_connectors_and_the_avro_converter(connect: Endpoint) -> None:
    plugins = httpx.get(f"{connect.url}/connector-plugins", params={"connectorsOnly": "false"}).json()
    assert {
        "io.debezium.connector.postgresql.PostgresConnector",
        "io.debezium.connector.mariadb.MariaDbConnector",
        "io.apicurio.registry.utils.converter.AvroConverter",
    } <= {plugin["class"] for plugin in plugins}


async def test_kafka_makes_no_topic_that_nobody_deployed(kafka: Endpoint) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=kafka.address, request_timeout_ms=2000)
    await producer.start()
    try:
        with pytest.raises(UnknownTopicOrPartitionError):
            await producer.send_and_wait("nobody-deployed-me", b"value")
    finally:
        await producer.stop()
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka.address)
    await consumer.start()
    topics = await consumer.topics()
    await consumer.stop()
    assert "nobody-deployed-me" not in topics


def test_a_conditional_write_into_the_object_store_has_exactly_one_winner(s3: Endpoint) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=s3.url,
        aws_access_key_id=s3.user,
        aws_secret_access_key=s3.password,
        region_name=s3.more["region"],
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}, max_pool_connections=8),
    )

    def write(race: int, writer: int) -> bool:
        try:
            client.put_object(Bucket=s3.more["bucket"], Key=f"race-{race}", Body=f"{writer}", IfNoneMatch="*")
        except ClientError as error:
            assert error.response["Error"]["Code"] in {"PreconditionFailed", "ConditionalRequestConflict"}
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        for race in range(30):
            wins = list(pool.map(write, [race] * 8, range(8)))
            body = client.get_object(Bucket=s3.more["bucket"], Key=f"race-{race}")["Body"].read()
            assert [str(writer).encode() for writer, won in enumerate(wins) if won] == [body]


def test_the_catalog_keeps_its_warehouse_in_the_object_store(rest_catalog: Endpoint, s3: Endpoint) -> None:
    catalog = RestCatalog(
        "stack",
        uri=rest_catalog.url,
        **{
            "s3.endpoint": s3.url,
            "s3.access-key-id": s3.user or "",
            "s3.secret-access-key": s3.password or "",
            "s3.region": s3.more["region"],
        },
    )
    catalog.create_namespace("stack_check")
    rows = pa.table({"id": [1, 2, 3]})
    table = catalog.create_table("stack_check.rows", rows.schema)
    table.append(rows)
    assert table.location().startswith(rest_catalog.more["warehouse"])
    assert catalog.load_table("stack_check.rows").scan().to_arrow().equals(rows)
