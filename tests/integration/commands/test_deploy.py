"""`cdc deploy` and `cdc undeploy` against a real Connect, Kafka, PostgreSQL and MariaDB: idempotent, and readable."""

from __future__ import annotations

import asyncio
from typing import Any

import pymysql
import pytest
from deployments import login, mariadb_source
from workbench import Workbench

from sources.kafka.provisioner import KafkaProvisioner
from sources.protocols import TopicSpec
from stack.manager import Endpoint


def topics(bench: Workbench) -> dict[str, int]:
    """The pipeline's topics with their partitions."""
    existing = asyncio.run(KafkaProvisioner(bench.platform_config().kafka).existing())
    return {topic: count for topic, count in existing.items() if bench.pipeline_id in topic}


def slots_and_publications(bench: Workbench) -> tuple[int, int]:
    name = bench.pipeline_id
    [(slots,)] = bench.query(f"SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{name}'")
    [(publications,)] = bench.query(f"SELECT count(*) FROM pg_publication WHERE pubname = '{name}'")
    return slots, publications


def test_deploying_twice_is_deploying_once(bench: Workbench) -> None:
    bench.platform["kafka"]["topic_num_partitions"] = 3
    first = bench.cdc("deploy")
    assert first.code == 0, first.err
    assert topics(bench) == {
        bench.topic("customers"): 3,
        bench.topic("customers.dlq"): 3,
        bench.topic("orders"): 3,
        bench.topic("orders.dlq"): 3,
        f"__debezium-heartbeat.{bench.pipeline_id}": 1,
    }
    assert f"connector {bench.pipeline_id}: created" in first.out
    assert "1 task(s) RUNNING" in first.out
    second = bench.cdc("deploy")
    assert second.code == 0, second.err
    assert "created" not in second.out
    assert "updated" not in second.out
    assert "RUNNING" in second.out
    assert len(bench.cdc("consume", "--limit", "3", "--format", "json").json_lines) == 3


def test_undeploying_leaves_nothing_at_the_source_and_asks_before_topics_go(bench: Workbench) -> None:
    assert bench.cdc("deploy").code == 0
    assert slots_and_publications(bench) == (1, 1)
    undeployed = bench.cdc("undeploy")  # without a terminal there is nobody to ask
    assert undeployed.code == 0, undeployed.err
    assert slots_and_publications(bench) == (0, 0)
    assert bench.topic("orders") in topics(bench)
    assert "5 kept" in undeployed.out
    again = bench.cdc("undeploy", "--delete-topics")
    assert again.code == 0, again.err
    assert f"connector {bench.pipeline_id}: not there" in again.out
    assert topics(bench) == {}
    once_more = bench.cdc("undeploy", "--yes")
    assert (once_more.code, "none left" in once_more.out) == (0, True)


def test_what_happened_while_undeployed_is_read_by_the_next_snapshot(bench: Workbench) -> None:
    assert bench.cdc("deploy").code == 0
    assert bench.cdc("undeploy", "--keep-topics").code == 0
    bench.sql("INSERT INTO customers VALUES (3, 'Joan', 1)")
    assert bench.cdc("deploy").code == 0
    events = bench.cdc("consume", "--table", "public.customers", "--limit", "5", "--format", "json").json_lines
    assert [event["columns"]["id"] for event in events] == [1, 2, 1, 2, 3]


def test_a_topic_with_another_number_of_partitions_is_kept_and_said(bench: Workbench) -> None:
    provisioner = KafkaProvisioner(bench.platform_config().kafka)
    asyncio.run(provisioner.ensure([TopicSpec(bench.topic("orders"), 2, 1)]))
    deployed = bench.cdc("deploy")
    assert deployed.code == 0, deployed.err
    assert f"topic {bench.topic('orders')}: exists with 2 partition(s), kept" in deployed.err
    assert topics(bench)[bench.topic("orders")] == 2


def test_a_table_added_later_is_captured_and_its_present_rows_are_warned_about(bench: Workbench) -> None:
    bench.source["tables"] = ["public.customers"]
    assert bench.cdc("deploy").code == 0
    bench.source["tables"] = ["public.customers", "public.orders"]
    updated = bench.cdc("deploy")
    assert updated.code == 0, updated.err
    assert "updated (table.include.list)" in updated.out
    assert "public.orders will be captured from now on, without the rows that are there" in updated.err
    bench.sql("INSERT INTO orders VALUES (2, 1, NULL)")
    [event] = bench.cdc("consume", "--table", "public.orders", "--limit", "1", "--format", "json").json_lines
    assert (event["op"], event["columns"]["id"]) == ("c", 2)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"tables": ["public.customers", "public.nowhere"]}, "there is no table public.nowhere"),
        ({"signal_table": "public.signals"}, "source.signal_table: there is no table public.signals"),
        ({"username": "stranger", "password": "hush"}, 'role "stranger" does not exist'),
        ({"database": "nowhere"}, 'database "nowhere" does not exist'),
    ],
)
def test_a_source_that_cannot_be_captured_is_said_before_anything_is_made(
    bench: Workbench, wrong: dict[str, Any], said: str
) -> None:
    bench.source |= wrong
    deployed = bench.cdc("deploy")
    assert deployed.code == 1
    assert said in deployed.err
    assert "Traceback" not in deployed.err
    assert "hush" not in deployed.err
    assert topics(bench) == {}


def test_all_that_the_source_lacks_is_said_at_once(bench: Workbench) -> None:
    name = bench.pipeline_id
    bench.sql(f'CREATE ROLE {name}_weak LOGIN; ALTER TABLE orders ADD COLUMN "ship-to" text')
    bench.source["username"] = f"{name}_weak"
    deployed = bench.cdc("deploy")
    bench.source["username"] = name
    bench.sql(f"DROP ROLE {name}_weak")
    assert deployed.code == 1
    assert "column 'ship-to' can't have its own name in Avro" in deployed.err
    assert f'ALTER ROLE "{name}_weak" REPLICATION' in deployed.err
    assert "GRANT SELECT ON public.orders" in deployed.err
    assert topics(bench) == {}


def test_what_connect_objects_to_is_said_in_its_own_words(bench: Workbench) -> None:
    bench.platform["connector"]["extra_config"] = {"snapshot.mode": "sometimes"}
    refused = bench.cdc("deploy")
    assert refused.code == 1
    assert "The 'snapshot.mode' value is invalid" in refused.err
    bench.platform["connector"]["extra_config"] = {"publication.autocreate.mode": "disabled"}
    failed = bench.cdc("deploy")
    assert failed.code == 1
    assert f"task 0 of connector {bench.pipeline_id} failed" in failed.err
    assert "Publication autocreation is disabled" in failed.err
    assert "Traceback" not in failed.err
    del bench.platform["connector"]["extra_config"]
    repaired = bench.cdc("deploy")
    assert repaired.code == 0, repaired.err


@pytest.mark.parametrize("service", ["kafka", "connect"])
def test_a_service_that_is_away_is_named_with_its_address(bench: Workbench, service: str) -> None:
    address = "127.0.0.1:9"
    if service == "kafka":
        bench.platform["kafka"]["bootstrap_servers"] = address
    else:
        bench.platform["connector"] |= {"connect_url": f"http://{address}", "retry_max_attempts": 2}
    deployed = bench.cdc("deploy")
    assert deployed.code == 1
    last = deployed.err.splitlines()[-1]
    assert address in last
    assert service.capitalize() in last
    assert "service.waiting" in deployed.err  # said while it waited


def test_two_pipelines_cannot_share_a_slot(bench: Workbench) -> None:
    assert bench.cdc("deploy").code == 0
    first, bench.pipeline_id = bench.pipeline_id, f"{bench.pipeline_id}-2"
    refused = bench.cdc("deploy")
    bench.pipeline_id = first
    assert refused.code == 1
    assert f"replication slot {first} is in use by process" in refused.err


def test_mariadb_is_deployed_and_undeployed_likewise(bench: Workbench, mariadb: Endpoint) -> None:
    server, name = mariadb, bench.pipeline_id
    postgres = dict(bench.source)
    bench.source = mariadb_source(server, name, "orders")
    with pymysql.connect(**login(server), autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
        try:
            missing = bench.cdc("deploy")
            assert (missing.code, f"there is no table {name}.orders" in missing.err) == (1, True)
            cursor.execute(f"CREATE TABLE {name}.orders (id BIGINT UNSIGNED PRIMARY KEY, note VARCHAR(20))")
            cursor.execute(f"INSERT INTO {name}.orders VALUES (18446744073709551615, 'largest')")
            deployed = bench.cdc("deploy")
            assert deployed.code == 0, deployed.err
            [event] = bench.cdc("consume", "--limit", "1", "--format", "json").json_lines
            assert event["columns"] == {"id": "18446744073709551615", "note": "largest"}
            undeployed = bench.cdc("undeploy", "--delete-topics")
            assert undeployed.code == 0, undeployed.err
            assert f"topic schema-history.{name}: deleted" in undeployed.out
        finally:
            cursor.execute(f"DROP DATABASE {name}")
    bench.source = postgres
