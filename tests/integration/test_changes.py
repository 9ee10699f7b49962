"""Changes that are harder to carry than a row: truncates, values that PostgreSQL doesn't send, tables without key."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pymysql
import pytest
from deltalake import DeltaTable
from deployments import (
    Run,
    delta,
    iceberg,
    login,
    mariadb_source,
    own_database,
    postgres_source,
    run_pipeline,
    written,
)

from sources.registry import transport_for
from stack.manager import Endpoints
from stack.testing import StartServices

BODY = "repeat(md5(n::text) || ' é ', 400)"  # some 14 kB, kept out of line and whole

TABLES = (
    "CREATE TABLE notes (id int PRIMARY KEY, title text, body text, tags text[], raw bytea, doc jsonb, plain int)",
    *(f"ALTER TABLE notes ALTER COLUMN {name} SET STORAGE EXTERNAL" for name in ("body", "tags", "raw")),
    f"INSERT INTO notes SELECT n, 'title ' || n, {BODY}, array_fill(md5(n::text), ARRAY[200]),"
    f" decode(repeat(md5(n::text), 200), 'hex'), jsonb_build_object('n', n), n FROM generate_series(1, 60) n",
    "CREATE TABLE emptied (id int PRIMARY KEY, v text)",
    "INSERT INTO emptied SELECT n, 'first ' || n FROM generate_series(1, 40) n",
    "CREATE TABLE whole (id int PRIMARY KEY, v text, note text)",
    "ALTER TABLE whole REPLICA IDENTITY FULL",
    "CREATE TABLE indexed (a int NOT NULL, b int NOT NULL, v text, id int PRIMARY KEY)",
    "CREATE UNIQUE INDEX indexed_by ON indexed (a, b)",
    "ALTER TABLE indexed REPLICA IDENTITY USING INDEX indexed_by",
    "CREATE TABLE named (a int NOT NULL, b text NOT NULL, v text)",
    "ALTER TABLE named REPLICA IDENTITY FULL",
    "INSERT INTO named SELECT n / 5, 'b' || n % 5, 'first' FROM generate_series(0, 49) n",
    "CREATE TABLE generated (id int PRIMARY KEY, n int, twice int GENERATED ALWAYS AS (n * 2) STORED)",
    "INSERT INTO generated SELECT n, n FROM generate_series(1, 20) n",
    "CREATE TABLE keyless (a int, v text)",
    "ALTER TABLE keyless REPLICA IDENTITY FULL",
    "INSERT INTO keyless VALUES (1, 'one'), (1, 'one'), (2, NULL)",
)

CHANGES: tuple[tuple[str, ...], ...] = (
    ("UPDATE notes SET title = 'changed' WHERE id <= 10",),
    (f"INSERT INTO notes SELECT n, 'new', {BODY}, '{{}}', '', NULL, n FROM generate_series(101, 110) n",
     "UPDATE notes SET plain = -1 WHERE id > 105",
     "UPDATE notes SET title = 'twice', body = body || 'longer' WHERE id = 106",
     "UPDATE notes SET plain = -2 WHERE id = 106"),
    ("UPDATE notes SET raw = 'x', plain = 0 WHERE id BETWEEN 5 AND 15",),
    ("UPDATE notes SET body = NULL WHERE id = 20", "UPDATE notes SET title = 'null' WHERE id = 20"),
    ("INSERT INTO notes (id, title, body) VALUES (200, 'looks so', '__debezium_unavailable_value')",),
    ("DELETE FROM notes WHERE id = 30", "INSERT INTO notes (id, title) VALUES (30, 'back')"),
    ("UPDATE emptied SET v = 'lost' WHERE id < 5", "TRUNCATE emptied"),
    ("INSERT INTO emptied VALUES (1, 'again'), (50, 'new')",),
    ("INSERT INTO whole SELECT n, 'v', 'note' FROM generate_series(1, 20) n",),
    ("UPDATE whole SET v = 'u' WHERE id < 10", "DELETE FROM whole WHERE id > 15"),
    ("UPDATE whole SET id = 99 WHERE id = 1",),
    ("INSERT INTO indexed SELECT n, n, 'v', n FROM generate_series(1, 20) n",),
    ("UPDATE indexed SET v = 'u' WHERE a < 10", "DELETE FROM indexed WHERE a > 15"),
    ("UPDATE indexed SET a = 50 WHERE a = 2",),
    ("UPDATE named SET v = 'changed' WHERE a = 3", "DELETE FROM named WHERE b = 'b2'",
     "UPDATE named SET a = 77 WHERE a = 4 AND b = 'b1'", "INSERT INTO named VALUES (100, '', NULL)"),
    ("UPDATE generated SET n = n + 100 WHERE id < 10", "INSERT INTO generated (id, n) VALUES (50, 1)"),
    ("UPDATE keyless SET v = 'two' WHERE a = 2", "DELETE FROM keyless WHERE a = 1"),
    ("TRUNCATE emptied, whole",),
    ("INSERT INTO emptied VALUES (7, 'last')", "INSERT INTO whole VALUES (7, 'last', NULL)"),
)  # fmt: skip

KEYED = ["public.notes", "public.emptied", "public.whole", "public.indexed", "public.named", "public.generated"]


@pytest.fixture(scope="module")
def services(start_services: StartServices) -> Endpoints:
    return start_services("connect", "postgres", "mariadb")


async def letters(run: Run, topic: str) -> list[dict[str, str]]:
    """The headers of a topic's dead letters."""
    source = transport_for(run.settings.platform).event_source()
    async with asyncio.timeout(30):
        async for chunk in source.chunks([topic], "earliest"):
            if len(chunk):
                return [{name: (value or b"").decode() for name, value in headers} for headers in chunk.headers]
    return []


async def test_changes_of_postgres_that_are_hard_to_carry_end_as_the_source(
    services: Endpoints, tmp_path: Path
) -> None:
    """TOASTed values left unchanged, truncates, each replica identity, tables without key, generated columns."""
    server = services["postgres"]
    async with own_database(server) as (database, name):
        for statement in TABLES:
            await database.execute(statement)
        upserts = [iceberg(tmp_path, "upsert"), delta(tmp_path / "delta", "upsert")]
        sinks = [sink | {"tables": KEYED} for sink in upserts]
        sinks += [iceberg(tmp_path, "append"), delta(tmp_path / "delta", "append")]
        keys = {"public.named": ["a", "b"], "public.indexed": ["a", "b"]}
        source = postgres_source(server, name, tables=[*KEYED, "public.keyless"], key_columns=keys)
        settings = written(tmp_path, services, name, source, sinks, partitions=1)

        async def change() -> None:
            for transaction in CHANGES:
                async with database.transaction():
                    for statement in transaction:
                        await database.execute(statement)

        def checked(run: Run, stage: str) -> None:
            equal_but_for_keyless(run)
            if stage == "changed":
                for sink in ("iceberg-append", "delta-append"):
                    logs_tell_what_happened(run, sink)
                there = login(server) | {"database": name}
                asyncio.run(value_that_nobody_knows_is_a_dead_letter(run, tmp_path, there))

        await run_pipeline(settings, tmp_path, change, checked)


def equal_but_for_keyless(run: Run) -> None:
    report = run.verify()
    told = [verdict for verdict in report.verdicts if verdict.table != "public.keyless"]
    assert len(told) == 4 * len(KEYED)
    wrong = [verdict for verdict in told if verdict.comparison is None or not verdict.comparison.equal]
    assert not wrong, [(v.sink_id, v.table, v.unclear, v.comparison and v.comparison.examples[:2]) for v in wrong]
    untold = [verdict for verdict in report.verdicts if verdict.table == "public.keyless"]
    assert {verdict.unclear for verdict in untold} == {
        "the source table has no primary key to compare rows by; source.key_columns can name one"
    }


def logs_tell_what_happened(run: Run, sink: str) -> None:
    notes = [row for row in run.log(sink, "public.notes") if row["id"] in (1, 106, 200)]
    told = [(row["id"], row["_cdc_op"], sorted(row["_cdc_unchanged"] or ())) for row in notes]
    assert told == [
        (1, "r", []),
        (1, "u", ["body", "raw", "tags"]),
        (106, "c", []),
        (106, "u", ["body"]),
        (106, "u", []),
        (106, "u", ["body"]),
        (200, "c", []),
    ]
    emptied = [row["_cdc_op"] for row in run.log(sink, "public.emptied")]
    assert emptied == ["r"] * 40 + ["u"] * 4 + ["t", "c", "c", "t", "c"]
    keyless = [(row["_cdc_op"], row["a"], row["v"]) for row in run.log(sink, "public.keyless")]
    assert keyless == [
        ("r", 1, "one"), ("r", 1, "one"), ("r", 2, None), ("u", 2, "two"), ("d", 1, "one"), ("d", 1, "one")
    ]  # fmt: skip


async def value_that_nobody_knows_is_a_dead_letter(run: Run, folder: Path, there: dict[str, Any]) -> None:
    """Somebody deleted the row in one of the tables: its sink can't apply the update, all others do."""
    DeltaTable(folder / "delta/upsert/notes").delete("id = 40")
    database = await asyncpg.connect(**there)
    await database.execute("UPDATE notes SET title = 'unknown' WHERE id IN (40, 41)")
    await database.close()
    report = await asyncio.to_thread(run.verify)
    differing = [v for v in report.verdicts if v.comparison is not None and not v.comparison.equal]
    assert [(v.sink_id, v.table) for v in differing] == [("delta-upsert", "public.notes")]
    comparison = differing[0].comparison
    assert comparison is not None
    assert (comparison.missing, comparison.extra, comparison.different) == (1, 0, 0)
    found = await letters(run, f"{run.settings.pipeline.topic('public.notes')}.dlq")
    assert [(letter["dlq.sink_id"], letter["dlq.error_type"]) for letter in found] == [("delta-upsert", "BadRecord")]
    assert "didn't send body, tags, raw of the row {'id': 40}" in found[0]["dlq.error_message"]


async def test_a_truncate_of_mariadb_empties_the_tables(services: Endpoints, tmp_path: Path) -> None:
    server, name = services["mariadb"], f"c{uuid4().hex[:10]}"
    sinks = [iceberg(tmp_path, "upsert"), delta(tmp_path / "delta", "upsert"), iceberg(tmp_path, "append")]
    with pymysql.connect(**login(server)) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
        cursor.execute(f"USE {name}")
        cursor.execute("CREATE TABLE emptied (id INT PRIMARY KEY, v TEXT)")
        cursor.execute("INSERT INTO emptied SELECT seq, 'first' FROM seq_1_to_30")
        connection.commit()

        async def change() -> None:
            for statement in (
                "UPDATE emptied SET v = 'lost' WHERE id < 5",
                "TRUNCATE TABLE emptied",
                "INSERT INTO emptied VALUES (1, 'again'), (50, 'new')",
            ):
                cursor.execute(statement)
                connection.commit()

        def checked(run: Run, stage: str) -> None:
            run.assert_equal_to_source({f"{name}.emptied": 30 if stage == "snapshot" else 2})
            if stage == "changed":
                ops = [row["_cdc_op"] for row in run.log("iceberg-append", f"{name}.emptied")]
                assert ops == ["r"] * 30 + ["u"] * 4 + ["t", "c", "c"]

        try:
            settings = written(tmp_path, services, name, mariadb_source(server, name, "emptied"), sinks, partitions=1)
            await run_pipeline(settings, tmp_path, change, checked)
        finally:
            cursor.execute(f"DROP DATABASE {name}")
