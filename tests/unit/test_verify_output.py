"""Differing rows as files, and keys as conditions."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from config.columns import ColumnConfig
from config.errors import ConfigurationError
from sources.debezium.source_types import SourceColumn
from sources.debezium.type_matrix import modes_with
from verify import mariadb_types, postgres_types
from verify.columns import column_in
from verify.compare import Difference
from verify.output import DifferenceFile
from verify.report import Comparison, Report, Verdict
from verify.source import SourceTable
from verify.sql_keys import Dialect, exact, key_filter

FOUND = [
    Difference("missing", {"id": 1, "part": "a"}, {}),
    Difference(
        "different", {"id": 2, "part": "é"}, {"text": ("", None), "raw": (b"\xff", b""), "n": (Decimal("1.50"), 1)}
    ),
]


@pytest.mark.parametrize("suffix", ["json", "parquet"])
def test_a_file_has_each_differing_row_with_its_key_and_columns(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"differences.{suffix}"
    with DifferenceFile(path) as file:
        file.write("lake", "public.orders", FOUND[:1])
        file.write("lake", "public.orders", [])
        file.write("lake", "public.orders", FOUND[1:])
    rows: list[dict[str, Any]] = (
        json.loads(path.read_text()) if suffix == "json" else pq.read_table(path).to_pylist(maps_as_pydicts="strict")
    )
    where = {"sink_id": "lake", "table": "public.orders"}
    assert rows == [
        {**where, "kind": "missing", "key": {"id": "1", "part": "a"}, "columns": []},
        {
            **where,
            "kind": "different",
            "key": {"id": "2", "part": "é"},
            "columns": [
                {"name": "text", "source": "", "sink": None},
                {"name": "raw", "source": "ff", "sink": ""},
                {"name": "n", "source": "1.50", "sink": "1"},
            ],
        },
    ]


@pytest.mark.parametrize("suffix", ["json", "parquet"])
def test_a_file_without_differences_is_whole(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"none.{suffix}"
    with DifferenceFile(path):
        pass
    assert (json.loads(path.read_text()) if suffix == "json" else pq.read_table(path).to_pylist()) == []


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"name it ….parquet or ….json"):
        DifferenceFile(tmp_path / "differences.csv")
    with pytest.raises(ConfigurationError, match=r"--output .* can't be written"):
        DifferenceFile(tmp_path / "absent" / "differences.json")


POSTGRES = Dialect(postgres_types.quoted, postgres_types.text_of, "'\\x{}'::bytea")
MARIADB = Dialect(mariadb_types.quoted, mariadb_types.text_of, "x'{}'", backslash_escapes=True)


@pytest.mark.parametrize(
    ("values", "dialect", "expected"),
    [
        ({"id": [1, -2]}, POSTGRES, '"id" IN (1, -2)'),
        ({'a"b': ["it's", "a\\b"]}, POSTGRES, "\"a\"\"b\" IN ('it''s', 'a\\b')"),
        ({"a`b": ["it's", "a\\b"]}, MARIADB, "`a``b` IN ('it''s', 'a\\\\b')"),
        (
            {"id": [1], "at": [datetime(2024, 2, 29, 1, tzinfo=UTC)]},
            MARIADB,
            "(`id`, `at`) IN ((1, '2024-02-29 01:00:00'))",
        ),
        ({"raw": [b"\0\xff"]}, POSTGRES, "\"raw\" IN ('\\x00ff'::bytea)"),
        ({"raw": [b"\0\xff"]}, MARIADB, "`raw` IN (x'00ff')"),
        ({"code": [str(UUID(int=1))]}, POSTGRES, "\"code\" IN ('00000000-0000-0000-0000-000000000001')"),
        ({"n": [Decimal("1.50")], "d": [date(2024, 2, 29)]}, POSTGRES, "(\"n\", \"d\") IN (('1.50', '2024-02-29'))"),
        ({"d": pa.array([2**31 - 1], pa.int32()).view(pa.date32())}, POSTGRES, "FALSE"),  # infinity
        ({"n": [Decimal("1.50")]}, POSTGRES, "\"n\" IN ('1.50')"),
    ],
)
def test_keys_as_a_condition(values: dict[str, list[Any]], dialect: Dialect, expected: str) -> None:
    assert key_filter(SourceTable("s.t", (), tuple(values), 0), pa.table(values), dialect) == expected


def described(text: str, source_type: str = "postgres", misfit: str = "dead_letter", **modes: str) -> SourceTable:
    """A table whose key `k` has this type."""
    rule = ColumnConfig.model_validate({"misfit": misfit, "accept_loss": True})
    source = SourceColumn("k", text, nullable=False, key=True)
    return SourceTable("s.t", (column_in(source, rule, source_type, modes_with(source_type, **modes)),), ("k",), 0)


def test_keys_of_bytes_as_text_are_found_by_that_text() -> None:
    keys = pa.table({"k": ["AP8="]})
    table = described("bytea", binary_handling_mode="base64")
    assert key_filter(table, keys, POSTGRES) == "translate(encode(\"k\", 'base64'), E'\\n', '') IN ('AP8=')"
    assert exact(table, keys)
    table = described("varbinary(9)", "mariadb", binary_handling_mode="hex")
    assert key_filter(table, pa.table({"k": ["00ff"]}), MARIADB) == "LOWER(HEX(`k`)) IN ('00ff')"


def test_keys_whose_texts_are_none_of_the_databases_are_left_out() -> None:
    keys = pa.table({"k": ["2024-02-29", "infinity", "-0043-03-15", "+10000-01-01"]})
    table = described("date", misfit="text")
    assert key_filter(table, keys, POSTGRES) == "\"k\" IN ('2024-02-29')"
    assert not exact(table, keys)  # so that all rows are read


def test_keys_that_became_other_numbers_are_not_looked_up() -> None:
    keys = pa.table({"k": pa.array([-1], pa.int64())})
    assert not exact(described("bigint(20) unsigned", "mariadb", bigint_unsigned_handling_mode="long"), keys)
    assert exact(described("bigint(20)", "mariadb"), keys)
    assert exact(described("text"), pa.table({"k": ["-1"]}))


def comparison(**counts: int) -> Comparison:
    return Comparison(5, 5, **{"missing": 0, "extra": 0, "doubled": 0, "different": 0, **counts}, examples=())


@pytest.mark.parametrize(
    ("found", "status"),
    [
        ([(comparison(), None), (comparison(), None)], 0),
        ([(comparison(), None), (comparison(doubled=1), None)], 1),
        ([(comparison(missing=1), None), (None, "behind")], 2),
    ],
)
def test_exit_status(found: list[tuple[Comparison | None, str | None]], status: int) -> None:
    assert Report(tuple(Verdict("s", "t", "n", *one) for one in found)).exit_status == status
