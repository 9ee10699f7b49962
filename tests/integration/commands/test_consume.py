"""`cdc consume` prints what the topics hold, decoded exactly, and disturbs nobody."""

from __future__ import annotations

import subprocess
import threading
from typing import Any

from workbench import CDC, Workbench


def test_every_kind_of_change_is_printed_with_key_and_columns(bench: Workbench) -> None:
    assert bench.cdc("deploy").code == 0
    bench.sql(
        "INSERT INTO customers VALUES (3, 'Jöan', 0.01);"
        "UPDATE customers SET credit = 99.99 WHERE id = 3;"
        "UPDATE customers SET id = 4 WHERE id = 3;"
        "DELETE FROM customers WHERE id = 4"
    )
    table = ("--table", "public.customers")
    events = bench.cdc("consume", *table, "--limit", "7", "--format", "json").json_lines
    assert [(event["op"], event["key"]["id"]) for event in events] == [
        ("r", 1),
        ("r", 2),
        ("c", 3),
        ("u", 3),
        ("d", 3),
        ("c", 4),
        ("d", 4),
    ]
    assert {event["topic"] for event in events} == {bench.topic("customers")}
    assert events[0]["columns"] == {"id": 1, "name": "Ada", "credit": "10.50"}
    assert events[2]["columns"] == {"id": 3, "name": "Jöan", "credit": "0.01"}
    assert events[4]["columns"] == {"id": 3}  # the other columns of a delete are made up by Debezium
    offsets = [event["offset"] for event in events]
    assert offsets == sorted(offsets)

    from_third = bench.cdc("consume", *table, "--from", "2", "--limit", "1", "--format", "json").json_lines
    assert [event["offset"] for event in from_third] == [2]

    printed = bench.cdc("consume", *table, "--limit", "3").out.splitlines()
    assert printed[2].startswith(f"{bench.topic('customers')}/0@2  c  ")
    assert printed[2].endswith('key {"id": 3}  {"id": 3, "name": "Jöan", "credit": "0.01"}')


def test_latest_prints_what_happens_from_now_on(bench: Workbench) -> None:
    assert bench.cdc("deploy").code == 0
    assert len(bench.cdc("consume", "--limit", "3").out.splitlines()) == 3  # the snapshot is in the topics
    command: list[Any] = [CDC, "consume", *bench.write(), "--from", "latest", "--limit", "1", "--format", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=bench.folder) as consumer:
        assert consumer.stdout is not None
        stop = threading.Event()

        def write_until_printed() -> None:
            """Which moment `latest` means is the consumer's affair: change the row until it has seen one."""
            number = 0
            while not stop.wait(0.2):
                number += 1
                bench.sql(f"UPDATE customers SET credit = {number} WHERE id = 1")

        writer = threading.Thread(target=write_until_printed)
        writer.start()
        try:
            line = consumer.stdout.readline()
        finally:
            stop.set()
            writer.join()
    assert '"op": "u"' in line
    assert consumer.returncode == 0


def test_a_table_that_is_not_captured_is_refused_with_those_that_are(bench: Workbench) -> None:
    refused = bench.cdc("consume", "--table", "public.nowhere")
    assert refused.code == 1
    assert "public.customers, public.orders" in refused.err


def test_a_broker_that_is_away_is_named(bench: Workbench) -> None:
    bench.platform["kafka"]["bootstrap_servers"] = "127.0.0.1:9"
    away = bench.cdc("consume")
    assert away.code == 1
    assert "Kafka at 127.0.0.1:9" in away.err.splitlines()[-1]
    assert "Traceback" not in away.err
