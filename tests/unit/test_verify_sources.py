"""Positions in the databases' logs, and which columns can be read at which types."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import asyncpg
import pyarrow as pa
import pytest

from config.columns import ColumnConfig
from sources.debezium.source_types import SourceColumn
from sources.debezium.type_matrix import MARIADB_TYPES, OPTIONS, POSTGRES_TYPES, modes_with
from verify import mariadb, mariadb_types, postgres, postgres_types
from verify.columns import Column, column_in
from verify.lake import LakeVersion
from verify.lake_types import plain_type
from verify.mariadb import MariaDbReader
from verify.postgres import PostgresReader
from verify.report import Unclear
from verify.shape import shape_of
from verify.source import SourceTable

NOWHERE: Any = None


def test_a_position_of_postgresql_is_behind_what_the_connector_keeps_only_when_all_before_it_is_through() -> None:
    reader = PostgresReader(NOWHERE, NOWHERE, "", NOWHERE)
    here = postgres._position(postgres._number("0/271F8D0"))
    assert here.text == "LSN 0/271F8D0"
    for lsn, passed in ((here.value[0] - 1, False), (here.value[0], False), (here.value[0] + 1, True)):
        stored = reader.stored({"lsn": lsn, "lsn_commit": lsn})
        assert stored is not None
        assert (stored >= here) is passed
    assert reader.stored({"lsn": 10**9, "snapshot": "INITIAL"}) is None
    assert reader.stored({}) is None


class Server:
    """PostgreSQL with answers to a connection's questions; keeps what is executed."""

    def __init__(self, *answers: bool, full: bool = False) -> None:
        self._answers = iter(answers)
        self._full = full
        self.executed: list[str] = []

    async def connect(self) -> Any:
        if self._full:
            raise asyncpg.TooManyConnectionsError("too many clients")
        return self

    async def fetchval(self, *_: object) -> bool:
        return next(self._answers)

    async def execute(self, statement: str) -> None:
        self.executed.append(statement)

    async def close(self) -> None:
        self.executed.append("closed")


@pytest.mark.parametrize("full", [False, True])
async def test_a_log_that_nobody_writes_out_is_written_out_once_for_a_position(full: bool) -> None:
    server = Server(False, False, True, True, False, full=full)
    reader = PostgresReader(server, SimpleNamespace(slot_name="shop"), "", server.connect)  # type: ignore[arg-type]
    first, second = (postgres._position(postgres._number(lsn)) for lsn in ("0/271F8D0", "0/271F9D0"))
    assert [await reader.all_sent(first) for _ in range(4)] == [False, False, True, True]
    once = [] if full else ["SELECT txid_current()", "closed"]
    assert server.executed == once
    assert not await reader.all_sent(second)
    assert server.executed == 2 * once


@pytest.mark.parametrize(
    ("lsn", "number"),
    [("0/2000018", 0x2000000), ("1/2000028", 0x1_0200_0000), ("0/2000020", 0x2000020), ("A/0", 0xA_0000_0000)],
)
def test_the_end_of_a_full_page_is_before_the_next_pages_header(lsn: str, number: int) -> None:
    assert postgres._number(lsn) == number


def test_positions_of_mariadb_are_ordered_by_file_and_offset() -> None:
    reader = MariaDbReader(NOWHERE, NOWHERE, "")
    names = [("binlog.000009", 500), ("binlog.000010", 4), ("binlog.999999", 4), ("binlog.1000000", 4)]
    positions = [mariadb._position(*name) for name in names]
    assert positions == sorted(positions)
    assert reader.stored({"file": "binlog.000010", "pos": 4}) == positions[1]
    assert reader.stored({"file": "binlog.000010", "pos": 4, "snapshot": True}) is None
    assert reader.stored({"transaction_id": None}) is None


def column(source_type: str, text: str, nullable: bool = True, key: bool = False, **rule: Any) -> Column:
    """A column `c` under Lakeward's own settings, or those of `modes`."""
    modes = modes_with(source_type, **rule.pop("modes", {}))
    return column_in(SourceColumn("c", text, nullable, key), ColumnConfig(**rule), source_type, modes)


@pytest.mark.parametrize("text", [*POSTGRES_TYPES, "vector", "halfvec", "interval day to second"])
@pytest.mark.parametrize("mode", OPTIONS["time.precision.mode"])
def test_every_type_of_postgresql_is_compared_or_it_is_known_why_not(text: str, mode: str) -> None:
    found = column("postgres", text, accept_loss=True, modes={"time_precision_mode": mode})
    if found.stored is None:
        assert found.why
    else:
        assert (postgres_types.reading(found) is None) is (text in ("geometry", "geography", "sparsevec"))


@pytest.mark.parametrize("text", ["tinyint(1)", *(text for text in MARIADB_TYPES if text != "boolean")])
@pytest.mark.parametrize("mode", [mode for mode in OPTIONS["time.precision.mode"] if mode != "structured"])
def test_every_type_of_mariadb_is_compared_or_it_is_known_why_not(text: str, mode: str) -> None:
    found = column("mariadb", text, accept_loss=True, modes={"time_precision_mode": mode})
    if found.stored is None:
        assert found.why
    else:
        assert (mariadb_types.reading(found, mysql=False) is None) is (text == "vector(3)")


@pytest.mark.parametrize(
    ("text", "modes", "sql"),
    [
        ("bytea", {"binary_handling_mode": "hex"}, "encode(\"c\", 'hex')"),
        ("bytea", {"binary_handling_mode": "base64"}, "translate(encode(\"c\", 'base64'), E'\\n', '')"),
        ("bytea", {"binary_handling_mode": "base64-url-safe"}, "translate(encode(\"c\", 'base64'), E'+/\\n', '-_')"),
        ("inet", {}, '"c"'),
        ("numeric", {}, 'trim_scale("c")::text'),
        ("numeric", {"decimal_handling_mode": "string"}, '"c"::numeric::text'),
        ("numeric(10,2)", {"decimal_handling_mode": "double"}, '"c"::numeric::float8::text'),
        ("bit(1)", {}, "(\"c\" = B'1')::text"),
    ],
)
def test_postgresql_is_asked_for_what_the_connectors_modes_make(text: str, modes: dict[str, str], sql: str) -> None:
    found = postgres_types.reading(column("postgres", text, accept_loss=True, modes=modes))
    assert found is not None
    assert found.sql == sql


@pytest.mark.parametrize(
    ("nullable", "default", "accept_loss", "instead"),
    [
        (True, False, False, "NULL"),
        (False, False, False, "'out of range'"),
        (False, False, True, "'1970-01-01'"),
        # the default that Debezium sends is another date than the source's
        (False, True, False, "'out of range'"),
        (False, True, True, "DEFAULT(`c`)"),
    ],
)
def test_zero_dates_are_what_debezium_makes_of_them(
    nullable: bool, default: bool, accept_loss: bool, instead: str
) -> None:
    source = SourceColumn("c", "date", nullable, default=default)
    rule = ColumnConfig(accept_loss=accept_loss)
    found = mariadb_types.reading(column_in(source, rule, "mariadb", modes_with("mariadb")), mysql=False)
    assert found is not None
    assert f"IF(`c` = 0 OR MONTH(`c`) = 0 OR DAY(`c`) = 0, {instead}, `c`)" in found.sql
    # 1970-01-01 is a misfit where a zero date may be behind it
    assert ("`c` = '1970-01-01'" in found.sql) is (not nullable and not accept_loss)


def test_a_table_that_was_made_under_other_settings_is_not_compared() -> None:
    reader = PostgresReader(NOWHERE, NOWHERE, "", NOWHERE)
    assert reader.reading(column("postgres", "date"), pa.date32()) is not None
    assert reader.reading(column("postgres", "date"), pa.string()) is None
    assert reader.reading(column("postgres", "date", misfit="text"), pa.string()) is not None
    assert reader.reading(column("postgres", "date", misfit="text"), pa.date32()) is None
    assert reader.reading(column("postgres", "time"), pa.string()) is not None  # Delta


def test_a_table_made_as_boolean_is_compared_by_its_truth() -> None:
    reader = MariaDbReader(NOWHERE, SimpleNamespace(source_type="mariadb"), "")  # type: ignore[arg-type]
    for kind, sql in ((pa.bool_(), "`c` <> 0"), (pa.int32(), "`c`")):
        found = reader.reading(column("mariadb", "tinyint(1)"), kind)
        assert found is not None
        assert found.sql == sql


def lake(*fields: tuple[str, pa.DataType]) -> LakeVersion:
    return LakeVersion(pa.schema(fields), {}, 0, lambda _: iter(()), "t", False)


SOURCE = PostgresReader(NOWHERE, NOWHERE, "", NOWHERE)


def table(*columns: tuple[str, str], key: tuple[str, ...] = ("id",)) -> SourceTable:
    modes = modes_with("postgres")
    found = [
        column_in(SourceColumn(name, text, key=name in key), ColumnConfig(), "postgres", modes)
        for name, text in columns
    ]
    return SourceTable("public.t", tuple(found), key, 0)


def test_columns_that_are_not_compared_are_named_with_the_reason() -> None:
    found = shape_of(
        table(
            ("id", "bigint"), ("tags", "hstore"), ("place", "geometry"), ("n", "numeric(10,2)"), ("new", "text"),
            ("prices", "money[]"), ("wide", "numeric(50,2)"),
        ),
        lake(
            ("id", pa.int64()),
            ("tags", pa.string()),
            ("place", plain_type(column("postgres", "geometry").stored or pa.null())),
            ("n", pa.float64()),
            ("old", pa.string()),
            ("wide", pa.decimal128(38, 2)),
            ("_cdc_offset", pa.int64()),
        ),
        SOURCE,
    )  # fmt: skip
    assert found.columns.names == ["id", "tags"]
    assert [field.name for field, reading in found.readings.items() if reading.alike] == ["tags"]
    reasons = dict(note.removeprefix("column ").split(" isn't compared: ") for note in found.notes)
    assert list(reasons) == ["place", "n", "old", "wide", "new", "prices"]
    assert "isn't known how geometry" in reasons["place"]
    assert "has it as double" in reasons["n"]
    assert "none of that name any more" in reasons["old"]
    assert "doesn't fit into the 38 digits" in reasons["wide"]
    assert "none of that name (yet)" in reasons["new"]
    assert "leaves arrays of money out" in reasons["prices"]


def test_rows_that_cannot_be_told_apart_are_not_compared() -> None:
    with pytest.raises(Unclear, match="no primary key"):
        shape_of(table(("id", "bigint"), key=()), lake(("id", pa.int64())), SOURCE)
    with pytest.raises(Unclear, match="the key's column id can't be compared"):
        shape_of(table(("id", "bigint")), lake(("id", pa.float64())), SOURCE)


def test_of_a_table_that_is_not_there_yet_the_keys_are_missing() -> None:
    assert shape_of(table(("id", "bigint"), ("t", "text")), None, SOURCE).columns == pa.schema([("id", pa.int64())])
