"""Positions in the databases' logs, and which columns can be read at which types."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from verify import mariadb, mariadb_types, postgres, postgres_types
from verify.lake import LakeVersion
from verify.mariadb import MariaDbReader
from verify.postgres import PostgresReader
from verify.report import Unclear
from verify.shape import shape_of
from verify.source import SourceColumn, SourceTable

NOWHERE: Any = None


def test_a_position_of_postgresql_is_behind_what_the_connector_keeps_only_when_all_before_it_is_through() -> None:
    reader = PostgresReader(NOWHERE, NOWHERE, "")
    here = postgres._position(postgres._number("0/271F8D0"))
    assert here.text == "LSN 0/271F8D0"
    for lsn, passed in ((here.value[0] - 1, False), (here.value[0], False), (here.value[0] + 1, True)):
        stored = reader.stored({"lsn": lsn, "lsn_commit": lsn})
        assert stored is not None
        assert (stored >= here) is passed
    assert reader.stored({"lsn": 10**9, "snapshot": "INITIAL"}) is None
    assert reader.stored({}) is None


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


@pytest.mark.parametrize(
    ("expression", "type_", "kind", "known"),
    [
        (postgres_types.expression, "int8", pa.int64(), True),
        (postgres_types.expression, "text", pa.int64(), False),
        (postgres_types.expression, "timestamptz", pa.timestamp("us"), False),
        (postgres_types.expression, "timestamp", pa.timestamp("us", "UTC"), False),
        (postgres_types.expression, "_int4", pa.list_(pa.int32()), True),
        (postgres_types.expression, "_bytea", pa.list_(pa.binary()), False),
        (postgres_types.expression, "geometry", pa.struct([("wkb", pa.binary())]), False),
        (mariadb_types.expression, "bigint", pa.int64(), True),
        (mariadb_types.expression, "varchar", pa.int64(), False),
        (mariadb_types.expression, "datetime", pa.timestamp("us", "UTC"), False),
        (mariadb_types.expression, "geometry", pa.binary(), False),
        (mariadb_types.expression, "point", pa.struct([("x", pa.float64())]), False),
    ],
)
def test_only_known_pairs_of_types_are_compared(expression: Any, type_: str, kind: pa.DataType, known: bool) -> None:
    assert (expression(SourceColumn("c", type_), kind) is not None) is known


def lake(*fields: tuple[str, pa.DataType]) -> LakeVersion:
    return LakeVersion(pa.schema(fields), {}, 0, lambda _: iter(()), "t", False)


def source() -> Any:
    return SimpleNamespace(
        readable=lambda column, kind: postgres_types.expression(column, kind) is not None,
        is_json=lambda column: column.type == "hstore",
    )


def table(*columns: tuple[str, str], key: tuple[str, ...] = ("id",)) -> SourceTable:
    return SourceTable("public.t", tuple(SourceColumn(*column) for column in columns), key, 0)


def test_columns_that_are_not_compared_are_named() -> None:
    found = shape_of(
        table(("id", "int8"), ("tags", "hstore"), ("place", "geometry"), ("new", "text")),
        lake(
            ("id", pa.int64()),
            ("tags", pa.string()),
            ("place", pa.struct([("wkb", pa.binary())])),
            ("old", pa.string()),
            ("_cdc_offset", pa.int64()),
        ),
        source(),
    )
    assert (found.columns.names, found.json) == (["id", "tags"], {"tags"})
    assert [note.split(":")[0] for note in found.notes] == [
        "column place isn't compared",
        "column old isn't compared",
        "column new isn't compared",
    ]


def test_rows_that_cannot_be_told_apart_are_not_compared() -> None:
    with pytest.raises(Unclear, match="no primary key"):
        shape_of(table(("id", "int8"), key=()), lake(("id", pa.int64())), source())
    with pytest.raises(Unclear, match="the key's column id can't be compared"):
        shape_of(table(("id", "geometry")), lake(("id", pa.int64())), source())


def test_of_a_table_that_is_not_there_yet_the_keys_are_missing() -> None:
    assert shape_of(table(("id", "int8"), ("t", "text")), None, source()).columns == pa.schema([("id", pa.string())])
