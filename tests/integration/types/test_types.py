"""Every column type of real databases, through real Debezium in all of its modes and three wire formats, arrives in
Iceberg and Delta as it is at the source; what can't is set aside, or refused when the pipeline is deployed."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import mariadb_specimens
import postgres_specimens
import pymysql
import pytest
from harness import STREAMED, Found, Variant, capture, settings_of
from postgres_specimens import DEAD, REFUSED, Specimen

from app.deployment import deploy, deployed_topics, remove_topics, undeploy
from config.errors import ConfigurationError
from sources.debezium.client import DebeziumClient
from sources.debezium.connect_types import ConnectType
from sources.debezium.schemaless import wire_type
from sources.debezium.source_types import Modes
from sources.debezium.type_matrix import MARIADB_TYPES, POSTGRES_TYPES, modes_with
from stack.manager import Endpoints
from stack.testing import StartServices

TEXT = {"misfit": "text"}
WARN = {"event.converting.failure.handling.mode": "warn"}
"""Debezium's default, under which NaN in a decimal arrives as null; under Lakeward's own setting it stops."""
POSTGRES_VARIANTS = {
    "avro": Variant("avro", options=WARN),
    "json-schema": Variant(
        "js",
        "json-schema",
        WARN
        | {
            "time.precision.mode": "adaptive",
            "decimal.handling.mode": "string",
            "binary.handling.mode": "hex",
            "hstore.handling.mode": "map",
            "interval.handling.mode": "numeric",
        },
    ),
    "connect": Variant(
        "cn",
        options=WARN
        | {
            "time.precision.mode": "connect",
            "decimal.handling.mode": "double",
            "binary.handling.mode": "base64",
            "hstore.handling.mode": "map",
        },
    ),
    "isostring": Variant(
        "iso",
        "json",
        WARN
        | {
            "time.precision.mode": "isostring",
            "binary.handling.mode": "base64-url-safe",
            "hstore.handling.mode": "map",
        },
    ),
    "nanoseconds": Variant("ns", "json-schema", WARN | {"time.precision.mode": "nanoseconds"}),
    "structured": Variant("st", "json-schema", WARN | {"time.precision.mode": "structured"}),
    "text": Variant("tx", "json", WARN),
}
MARIADB_VARIANTS = {
    "avro": Variant("mavro"),
    "json-schema": Variant(
        "mjs",
        "json-schema",
        {"decimal.handling.mode": "string", "binary.handling.mode": "hex", "bigint.unsigned.handling.mode": "long"},
    ),
    "connect": Variant(
        "mcn",
        options=WARN
        | {
            "time.precision.mode": "connect",
            "decimal.handling.mode": "double",
            "binary.handling.mode": "base64",
        },
    ),
    "isostring": Variant(
        "miso",
        "json",
        WARN | {"time.precision.mode": "isostring", "binary.handling.mode": "base64-url-safe"},
    ),
    "text": Variant("mtx", "json"),
}
POLICIES = {
    "json-schema": "set_null",
    "connect": "text",
    "isostring": "text",
    "nanoseconds": "text",
    "text": "text",
}
"""What becomes of values that no lake type holds, in the table of special values."""
SINKS = ("iceberg", "delta")


class Captured:
    """A database's specimens, what each variant brought of them, and the columns' types as the catalogue has them."""

    def __init__(
        self,
        source_type: str,
        specimens: Sequence[Specimen],
        variants: Mapping[str, Variant],
        found: Mapping[str, Found],
        catalogue: Mapping[str, str],
    ) -> None:
        self.source_type = source_type
        self.specimens = specimens
        self.variants = variants
        self.found = found
        self.catalogue = catalogue

    def modes(self, variant: str) -> Modes:
        return modes_with(
            self.source_type, **{k.replace(".", "_"): v for k, v in self.variants[variant].options.items()}
        )


def column(number: int) -> str:
    return f"c{number}"


def rows_of(specimens: Sequence[Specimen]) -> int:
    return max(len(specimen.literals) for specimen in specimens)


def accepted(source_type: str, specimens: Sequence[Specimen], variant: Variant) -> dict[str, Any]:
    """`accept_loss` for the columns that lose something under the variant's modes."""
    modes = modes_with(source_type, **{k.replace(".", "_"): v for k, v in variant.options.items()})
    return {
        column(i): {"accept_loss": True}
        for i, specimen in enumerate(specimens)
        if wire_type(source_type, specimen.type, modes).loss
    }


def special_rules(source_type: str, variant: Variant, policy: str, wide: str) -> dict[str, Any]:
    """What a variant says of the columns with special values; losses are accepted but in the first and last variant.
    The `wide` column's digits need text where they arrive as decimals."""
    columns = {"postgres": postgres_specimens, "mariadb": mariadb_specimens}[source_type].SPECIAL_COLUMNS
    kinds = dict(column.split(" ", 1) for column in columns)
    accept = {"accept_loss": not variant.name.endswith(("avro", "tx"))}
    rules: dict[str, Any] = {}
    for name, kind in kinds.items():
        temporal = kind.startswith(("date", "time")) and "[]" not in kind
        if policy == "set_null" or (policy == "text" and temporal):
            rules[name] = accept | {"misfit": policy}
        else:
            rules[name] = dict(accept)
    if variant.options.get("decimal.handling.mode", "precise") == "precise":
        rules[wide] = accept | TEXT
    return rules


def with_columns(
    source_type: str, specimens: Sequence[Specimen], wide: str, variants: Mapping[str, Variant]
) -> list[Variant]:
    """The variants, under names of their own, with what they say of columns."""
    run = uuid4().hex[:6]
    made = []
    for name, variant in variants.items():
        every = accepted(source_type, specimens, variant) | {n: {"accept_loss": True} for n in left_out(source_type)}
        special = special_rules(source_type, variant, POLICIES.get(name, "dead_letter"), wide)
        made.append(replace(variant, name=f"t{run}{variant.name}", columns={"every": every, "special": special}))
    return made


def left_out(source_type: str) -> dict[str, str]:
    """Columns that Debezium leaves out of its records, and their types."""
    types = postgres_specimens.LEFT_OUT if source_type == "postgres" else ()
    return {f"x{i}": text for i, text in enumerate(types)}


def inserts(quote: str, specimens: Sequence[Specimen], base: int) -> list[str]:
    """One row per value of the type with most values, and a row of nulls."""
    names = ", ".join(column(i) for i in range(len(specimens)))
    statements = []
    for row in range(rows_of(specimens)):
        values = ", ".join(specimen.literals[row % len(specimen.literals)] for specimen in specimens)
        statements.append(f"INSERT INTO {quote} (id, {names}) VALUES ({base + row}, {values})")
    return [*statements, f"INSERT INTO {quote} (id) VALUES ({base + rows_of(specimens)})"]


@pytest.fixture(scope="module")
def services(start_services: StartServices) -> Endpoints:
    return start_services("connect", "postgres", "mariadb")


@pytest.fixture(scope="module")
def postgres_types(services: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Captured:
    return asyncio.run(_capture_postgres(services, tmp_path_factory.mktemp("postgres")))


async def _capture_postgres(services: Endpoints, folder: Path) -> Captured:
    specimens, specials = postgres_specimens.SPECIMENS, postgres_specimens.SPECIALS
    server, name = services["postgres"], f"t{uuid4().hex[:10]}"
    login = {"host": server.host, "port": server.port, "user": server.user, "password": server.password}
    admin = await asyncpg.connect(**login, database=server.more["database"])
    await admin.execute(f"CREATE DATABASE {name}")
    database = await asyncpg.connect(**login, database=name)

    async def fill(base: int) -> dict[str, int]:
        for statement in inserts("every", specimens, base):
            await database.execute(statement)
        for number, (of, literal, _, _) in enumerate(specials):
            await database.execute(f"INSERT INTO special (id, {of}) VALUES ({base + number}, {literal})")
        return {"every": rows_of(specimens) + 1, "special": len(specials)}

    try:
        for extension in ("hstore", "citext", "ltree"):
            await database.execute(f"CREATE EXTENSION {extension}")
        await database.execute("CREATE TYPE mood AS ENUM ('sad', 'happy', 'sad, so')")
        kinds = {column(i): s.ddl or s.type for i, s in enumerate(specimens)} | left_out("postgres")
        columns = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
        await database.execute(f"CREATE TABLE every (id int PRIMARY KEY, {columns})")
        await database.execute(
            f"CREATE TABLE special (id int PRIMARY KEY, {', '.join(postgres_specimens.SPECIAL_COLUMNS)})"
        )
        source = {
            **{key: value for key, value in login.items() if key != "user"},
            "username": server.user,
            "database": name,
            "tables": ["public.every", "public.special"],
            "slot_name": "",
        }
        variants = with_columns("postgres", specimens, "big", POSTGRES_VARIANTS)
        found = await capture(variants, source, services, folder, fill)
        by_name = dict(zip(POSTGRES_VARIANTS, found.values(), strict=True))
        types = {column(i): s.type for i, s in enumerate(specimens)}
        return Captured("postgres", specimens, POSTGRES_VARIANTS, by_name, types)
    finally:
        await database.close()
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()


@pytest.fixture(scope="module")
def mariadb_types(services: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Captured:
    return asyncio.run(_capture_mariadb(services, tmp_path_factory.mktemp("mariadb")))


async def _capture_mariadb(services: Endpoints, folder: Path) -> Captured:
    specimens, specials = mariadb_specimens.SPECIMENS, mariadb_specimens.SPECIALS
    server, name = services["mariadb"], f"t{uuid4().hex[:10]}"
    login = {"host": server.host, "port": server.port, "user": server.user, "password": server.password or ""}
    connection = pymysql.connect(
        **login, charset="utf8mb4", autocommit=True, init_command="SET time_zone = '+00:00', sql_mode = ''"
    )
    cursor = connection.cursor()

    async def fill(base: int) -> dict[str, int]:
        for statement in inserts("every", specimens, base):
            cursor.execute(statement)
        for number, (of, literal, _, _) in enumerate(specials):
            values = {**mariadb_specimens.NOT_NULL, "id": str(base + number), of: literal}
            cursor.execute(f"INSERT INTO special ({', '.join(values)}) VALUES ({', '.join(values.values())})")
        return {"every": rows_of(specimens) + 1, "special": len(specials)}

    try:
        cursor.execute(f"CREATE DATABASE {name}")
        cursor.execute(f"USE {name}")
        columns = ", ".join(f"{column(i)} {s.ddl or s.type} NULL" for i, s in enumerate(specimens))
        cursor.execute(f"CREATE TABLE every (id int PRIMARY KEY, {columns})")
        cursor.execute(f"CREATE TABLE special (id int PRIMARY KEY, {', '.join(mariadb_specimens.SPECIAL_COLUMNS)})")
        source = {
            "source_type": "mariadb",
            "host": server.host,
            "port": server.port,
            "username": server.user,
            "password": server.password,
            "database": name,
            "tables": [f"{name}.every", f"{name}.special"],
        }
        variants = with_columns("mariadb", specimens, "dc", MARIADB_VARIANTS)
        found = await capture(variants, source, services, folder, fill)
        by_name = dict(zip(MARIADB_VARIANTS, found.values(), strict=True))
        cursor.execute(
            "SELECT column_name, column_type FROM information_schema.columns WHERE table_schema = %s"
            " AND table_name = 'every'",
            (name,),
        )
        return Captured("mariadb", specimens, MARIADB_VARIANTS, by_name, dict(cursor.fetchall()))
    finally:
        cursor.execute(f"DROP DATABASE IF EXISTS {name}")
        connection.close()


def normal(value: Any, sink: str) -> Any:
    """A value as it compares: floats by their bits (NaN is itself, -0.0 isn't 0.0), times in Delta as text, maps in the
    order of their keys."""
    if isinstance(value, float):
        return ("NaN",) if value != value else struct.pack("<d", value)
    if isinstance(value, time) and sink == "delta":
        return value.strftime("%H:%M:%S.%f")
    if isinstance(value, dict):
        return {name: normal(part, sink) for name, part in value.items()}
    if isinstance(value, list):
        if value and all(isinstance(part, tuple) for part in value):
            return sorted((key, normal(part, sink)) for key, part in value)
        return [normal(part, sink) for part in value]
    return value


def check_every(captured: Captured, variant: str, sink: str) -> None:
    found = captured.found[variant]
    assert "every" not in found.dead, found.dead
    rows = found.rows["every", sink]
    options = set(captured.variants[variant].options.values())
    wrong = {}
    count = rows_of(captured.specimens)
    assert sorted(rows) == [base + row for base in (0, STREAMED) for row in range(count + 1)]
    for number, specimen in enumerate(captured.specimens):
        mode = next((mode for mode in specimen.modes if mode in options), None)
        values = specimen.values if mode is None else specimen.modes[mode]
        for base in (0, STREAMED):
            for row in range(count):
                got, expected = rows[base + row][column(number)], values[row % len(values)]
                if normal(got, sink) != normal(expected, sink) or type(got) is not type(_stored(expected, sink)):
                    wrong[specimen.type, base + row] = (got, expected)
            assert rows[base + count][column(number)] is None, specimen
    assert not wrong


def _stored(value: Any, sink: str) -> Any:
    return "" if isinstance(value, time) and sink == "delta" else value


def check_wire(captured: Captured, variant: str) -> None:
    """The records' own schemas are those of the matrix, from which the page and schemaless types are made."""
    (columns,) = (columns for topic, columns in captured.found[variant].wire.items() if topic.endswith(".every"))
    modes = captured.modes(variant)
    wrong = {}
    for number in range(len(captured.specimens)):
        text = captured.catalogue[column(number)]
        type_ = wire_type(captured.source_type, text, modes).type
        if type_ is None or shape(type_) != shape(columns[column(number)]):
            wrong[text] = (type_ and shape(type_), shape(columns[column(number)]))
    assert not wrong


def shape(type_: ConnectType) -> Any:
    """A type without what doesn't decide how it is stored."""
    kind = "int16" if type_.kind in ("int8", "int16") else type_.kind
    if type_.kind == "int32" and type_.name is None:
        kind = "int16"  # Avro has one small integer
    decimals = {k: v for k, v in type_.parameters.items() if k in ("scale", "connect.decimal.precision")}
    inner = [(name, shape(child)) for name, child in type_.fields]
    inner += [shape(child) for child in (type_.items, type_.keys) if child is not None]
    return (kind, None if type_.kind == "struct" and not type_.fields else type_.name, decimals, inner)


def is_one_of(got: Any, expected: Any, sink: str) -> bool:
    """Whether a value is the expected one, or one of a set of texts that mean the same."""
    texts = expected if isinstance(expected, frozenset) else (expected,)
    return any(normal(got, sink) == normal(text, sink) for text in texts)


def check_special(captured: Captured, variant: str, sink: str, specials: Sequence[tuple[str, str, Any, Any]]) -> None:
    found = captured.found[variant]
    rows, dead = found.rows["special", sink], found.dead["special"]
    wrong = {}
    for base in (0, STREAMED):
        for number, (name, literal, stored, text) in enumerate(specials):
            expected = text if variant == "text" or name in ("big", "dc") else stored
            got = DEAD if base + number in dead else rows[base + number][name]
            if expected is DEAD:
                if got is not DEAD or base + number in rows or f"column {name}: " not in dead[base + number]:
                    wrong[name, literal, base] = got, dead.get(base + number)
            elif not is_one_of(got, expected, sink):
                wrong[name, literal, base] = got, expected
    assert not wrong
    assert len(rows) + len(dead) == 2 * len(specials)


# what `structured` brings are the parts of dates and times, under the names that the test of types compares
POSTGRES = [(variant, sink) for variant in POSTGRES_VARIANTS if variant != "structured" for sink in SINKS]
MARIADB = [(variant, sink) for variant in MARIADB_VARIANTS for sink in SINKS]


@pytest.mark.parametrize(("variant", "sink"), POSTGRES)
def test_postgres_values_are_in_the_lake_as_at_the_source(postgres_types: Captured, variant: str, sink: str) -> None:
    check_every(postgres_types, variant, sink)


@pytest.mark.parametrize(("variant", "sink"), MARIADB)
def test_mariadb_values_are_in_the_lake_as_at_the_source(mariadb_types: Captured, variant: str, sink: str) -> None:
    check_every(mariadb_types, variant, sink)


def lost_values(source_type: str, variant: str) -> dict[int, str]:
    """The rows (and columns) whose values Debezium replaces by others, where that isn't accepted."""
    specimens = {"postgres": postgres_specimens, "mariadb": mariadb_specimens}[source_type]
    if variant not in ("avro", "text"):
        return {}
    columns = [(number, name) for number, (name, *_) in enumerate(specimens.SPECIALS) if name in specimens.LOST]
    return {base + number: name for base in (0, STREAMED) for number, name in columns}


def check_verified(captured: Captured, variant: str, sink: str) -> None:
    """Both tables are equal but for dead letters; a damaged value of any column is found."""
    found = captured.found[variant]
    notes = {"every": [f"column {name} isn't compared" for name in left_out(captured.source_type)], "special": []}
    for table, expected in notes.items():
        verdict = found.verdicts[table, sink]
        assert verdict.comparison is not None, verdict
        told = {(one.kind, one.key["id"]): set(one.columns) for one in verdict.comparison.examples}
        lost = lost_values(captured.source_type, variant) if table == "special" else {}
        missing = {("missing", key): set() for key in found.dead.get(table, ())}
        assert told == missing | {("different", key): {name} for key, name in lost.items()}
        assert [note.partition(":")[0] for note in verdict.notes] == expected
        assert all("leaves arrays of" in note for note in verdict.notes)
    damaged = found.damaged[sink].comparison
    assert damaged is not None
    (difference,) = damaged.examples
    assert (difference.kind, difference.key) == ("different", {"id": 0})
    values = {column(i): found.rows["every", sink][0][column(i)] for i in range(len(captured.specimens))}
    assert difference.columns.keys() == {name for name, value in values.items() if value is not None}


@pytest.mark.parametrize(("variant", "sink"), [(variant, sink) for variant in POSTGRES_VARIANTS for sink in SINKS])
def test_verify_finds_postgres_tables_equal_and_damage_different(
    postgres_types: Captured, variant: str, sink: str
) -> None:
    check_verified(postgres_types, variant, sink)


@pytest.mark.parametrize(("variant", "sink"), MARIADB)
def test_verify_finds_mariadb_tables_equal_and_damage_different(
    mariadb_types: Captured, variant: str, sink: str
) -> None:
    check_verified(mariadb_types, variant, sink)


@pytest.mark.parametrize("variant", POSTGRES_VARIANTS)
def test_postgres_columns_have_the_types_of_the_matrix_on_kafka(postgres_types: Captured, variant: str) -> None:
    check_wire(postgres_types, variant)


@pytest.mark.parametrize("variant", MARIADB_VARIANTS)
def test_mariadb_columns_have_the_types_of_the_matrix_on_kafka(mariadb_types: Captured, variant: str) -> None:
    check_wire(mariadb_types, variant)


@pytest.mark.parametrize(("variant", "sink"), [(v, sink) for v in ("avro", "text") for sink in SINKS])
def test_postgres_values_that_no_lake_type_holds_follow_the_columns_policy(
    postgres_types: Captured, variant: str, sink: str
) -> None:
    check_special(postgres_types, variant, sink, postgres_specimens.SPECIALS)


@pytest.mark.parametrize(("variant", "sink"), [(v, sink) for v in ("avro", "text") for sink in SINKS])
def test_mariadb_values_that_no_lake_type_holds_follow_the_columns_policy(
    mariadb_types: Captured, variant: str, sink: str
) -> None:
    check_special(mariadb_types, variant, sink, mariadb_specimens.SPECIALS)


def test_deploy_warns_of_a_server_that_allows_zero_dates(postgres_types: Captured, mariadb_types: Captured) -> None:
    (warning,) = mariadb_types.found["avro"].warnings
    assert "zero dates" in warning
    assert ".special.dn" in warning
    assert not postgres_types.found["avro"].warnings


def test_only_records_of_tables_with_maps_in_json_take_a_path_of_their_own(
    postgres_types: Captured, mariadb_types: Captured
) -> None:
    """PostgreSQL's geometries have a map."""
    every = 2 * (rows_of(postgres_types.specimens) + 1)
    slow = {name: found.fallback_rows for name, found in postgres_types.found.items()}
    assert slow == {name: 0 if name in ("avro", "connect") else every for name in POSTGRES_VARIANTS}
    assert not any(found.fallback_rows for found in mariadb_types.found.values())


def test_every_type_of_the_matrix_is_tried_that_the_servers_have() -> None:
    extensions = {"geometry", "geography", "vector", "halfvec", "sparsevec"}
    tried = {specimen.type for specimen in postgres_specimens.SPECIMENS} | REFUSED.keys()
    assert set(POSTGRES_TYPES) - tried == extensions
    # the connector's parser of DDL stops at inet6, and this server has no vectors
    unknown = {"inet4", "inet6", "vector(3)", "decimal(65,30)"}
    assert set(MARIADB_TYPES) - {specimen.type for specimen in mariadb_specimens.SPECIMENS} == unknown


async def test_a_value_that_debezium_cannot_convert_stops_the_connector(services: Endpoints, tmp_path: Path) -> None:
    def nobody(_: str) -> None:
        """Nobody reads it."""

    server, name = services["postgres"], f"t{uuid4().hex[:10]}"
    login = {"host": server.host, "port": server.port, "user": server.user, "password": server.password}
    admin = await asyncpg.connect(**login, database=server.more["database"])
    await admin.execute(f"CREATE DATABASE {name}")
    database = await asyncpg.connect(**login, database=name)
    source = {
        **{key: value for key, value in login.items() if key != "user"},
        "username": server.user,
        "database": name,
        "tables": ["public.every"],
        "slot_name": "",
    }
    settings = settings_of(Variant(name), source, services, tmp_path / "files")
    try:
        await database.execute("CREATE TABLE every (id int PRIMARY KEY, n numeric(10,2))")
        await database.execute("INSERT INTO every VALUES (1, 1.5)")
        await deploy(settings.pipeline, settings.platform, nobody, nobody)
        await database.execute("INSERT INTO every VALUES (2, 'NaN')")
        async with asyncio.timeout(60), DebeziumClient.from_config(settings.platform.connector) as connect:
            # Connect has no call that waits
            while (status := await connect.status(name)) is None or status.failure is None:  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        assert "task 0" in status.failure
    finally:
        await undeploy(settings.pipeline, settings.platform, nobody)
        await remove_topics(settings.platform, await deployed_topics(settings.pipeline, settings.platform), nobody)
        await database.close()
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()


async def test_deploy_refuses_the_columns_that_would_lose_values(services: Endpoints, tmp_path: Path) -> None:
    def nobody(_: str) -> None:
        """Nobody reads it."""

    server, name = services["postgres"], f"t{uuid4().hex[:10]}"
    login = {"host": server.host, "port": server.port, "user": server.user, "password": server.password}
    admin = await asyncpg.connect(**login, database=server.more["database"])
    await admin.execute(f"CREATE DATABASE {name}")
    database = await asyncpg.connect(**login, database=name)
    try:
        columns = ", ".join(f"{column(i)} {text}" for i, text in enumerate(REFUSED))
        await database.execute(f"CREATE TABLE every (id int PRIMARY KEY, fine text, {columns})")
        source = {
            **{key: value for key, value in login.items() if key != "user"},
            "username": server.user,
            "database": name,
            "tables": ["public.every"],
            "slot_name": "",
        }
        settings = settings_of(Variant(name), source, services, tmp_path / "files")
        with pytest.raises(ConfigurationError) as refusal:
            await deploy(settings.pipeline, settings.platform, nobody, nobody)
        lines = [line for line in str(refusal.value).splitlines() if "public.every: column" in line]
        assert len(lines) == len(REFUSED)
        for number, (line, reason) in enumerate(zip(lines, REFUSED.values(), strict=True)):
            assert f"column {column(number)} (" in line
            assert reason in line
    finally:
        await database.close()
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()
