"""A file's statistics never hide a row: readers answer the same with them and without."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from delta_table import write_table
from deltalake import DeltaTable, QueryBuilder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sinks.delta.actions import DataFile
from sinks.delta.statistics import statistics
from stack.readers import connect_duckdb

_LONG = "x" * 31
texts = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=40),
    st.text("ax\U0010ffffé", min_size=28, max_size=40),
    st.sampled_from(["", _LONG + "a", _LONG + "ab", _LONG + "\U0010ffff" * 3, _LONG + "é" * 3, '"', "\\", "'; --"]),
)
doubles = st.one_of(
    st.floats(allow_subnormal=False),
    st.sampled_from([0.0, -0.0, math.nan, math.inf, -math.inf, 1e300, -1e-300, 0.1]),
)
instants = st.datetimes(datetime(1700, 1, 1), datetime(2260, 1, 1))  # noqa: DTZ001 - without zone is one of the types; DataFusion has no literal for others


def decimals(largest: int, places: int) -> st.SearchStrategy[Decimal]:
    return st.decimals(-largest, largest, allow_nan=False, allow_infinity=False, places=places)


TYPES: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "text": (pa.string(), texts),
    "bigint": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "int": (pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    "double": (pa.float64(), doubles),
    "float": (pa.float32(), st.floats(width=32, allow_subnormal=False)),
    "decimal": (pa.decimal128(38, 9), decimals(10**28, 9)),
    "small decimal": (pa.decimal128(9, 2), decimals(10**6, 2)),
    "date": (pa.date32(), st.dates(date(1, 1, 1), date(9999, 12, 31))),
    "timestamp": (pa.timestamp("us", tz="UTC"), instants.map(lambda at: at.replace(tzinfo=UTC))),
    "local": (pa.timestamp("us"), instants),
    "flag": (pa.bool_(), st.booleans()),
}  # fmt: skip


def literal(kind: pa.DataType, value: Any) -> str:
    """A value as DuckDB and DataFusion write it."""
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float):
        return f"CAST('{value!r}' AS {'FLOAT' if kind == pa.float32() else 'DOUBLE'})"
    if isinstance(value, Decimal):
        return f"CAST('{value:f}' AS DECIMAL({kind.precision}, {kind.scale}))"
    if isinstance(value, datetime):
        zone = "" if value.tzinfo is None else "+00:00"
        text = f"{value.replace(tzinfo=None).isoformat(sep='T', timespec='microseconds')}{zone}"
        return f"CAST('{text}' AS {'TIMESTAMP' if value.tzinfo is None else 'TIMESTAMPTZ'})"
    if isinstance(value, date):
        return f"CAST('{value.isoformat()}' AS DATE)"
    return str(value)


def table(folder: Path, kind: pa.DataType, files: Sequence[Sequence[Any]], *, bounds: bool) -> None:
    """A table of these files, with their statistics or without any."""
    columns = pa.schema([("v", kind), ("n", pa.int64())])
    adds = []
    for number, values in enumerate(files):
        rows = pa.table([pa.array(values, kind), pa.array(range(len(values)), pa.int64())], schema=columns)
        name = f"{number}.parquet"
        # without statistics of Parquet's own, which readers would use as well
        pq.write_table(rows, folder / name, write_statistics=False, store_schema=False)
        stats = statistics(rows) if bounds else json.dumps({"numRecords": len(values)})
        json.loads(stats)
        adds.append(DataFile.new(name, (folder / name).stat().st_size, {}, stats).add(changes=True))
    write_table(folder, columns, adds)


@pytest.fixture(scope="module")
def duck() -> Any:
    with connect_duckdb(delta=True) as connection:
        yield connection


@pytest.mark.parametrize("name", TYPES)
def test_readers_find_the_same_rows_with_statistics_and_without(
    name: str, duck: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    kind, values = TYPES[name]
    column = st.lists(st.one_of(st.none(), values), min_size=1, max_size=6)

    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(column, min_size=2, max_size=4), st.lists(values, max_size=2))
    def run(files: list[list[Any]], others: list[Any]) -> None:
        asked = [value for file in files for value in file if value is not None][:6] + others
        conditions = [f"v {sign} {literal(kind, value)}" for value in asked for sign in ("=", ">=", "<=", ">", "<")]
        conditions += ["v IS NULL", "v IS NOT NULL"]
        answers = []
        for bounds in (True, False):
            folder = tmp_path_factory.mktemp("table")
            table(folder, kind, files, bounds=bounds)
            counts = [f"(SELECT count(n) FROM t WHERE {c}) AS c{number}" for number, c in enumerate(conditions)]
            query = f"SELECT {', '.join(counts)}"
            loaded = QueryBuilder().register("t", DeltaTable(folder))
            by_delta_rs = pa.table(loaded.execute(query).read_all()).to_pylist()
            by_duckdb = duck.execute(query.replace("FROM t ", f"FROM delta_scan('{folder}') ")).fetchall()
            answers.append((by_delta_rs, by_duckdb))
        assert answers[0] == answers[1]

    run()


@pytest.mark.parametrize(
    ("values", "lowest", "highest"),
    [
        (["b", "ab" * 40], ("ab" * 40)[:32], "b"),
        (["a", "z" * 33], "a", "z" * 32 + "\U0010ffff"),
        (["a", "z" * 32 + "\U0010ffff" * 2], "a", None),
        ([0.0, -0.0], -0.0, 0.0),
        ([1.5, math.nan], None, None),
        ([1.5, -math.inf], None, None),
        ([Decimal("1.50"), Decimal("-0.01")], -0.01, 1.5),
        ([datetime(1969, 12, 31, 23, 59, 59, 999999)], "1969-12-31T23:59:59.999", "1970-01-01T00:00:00.000"),  # noqa: DTZ001 - as above
        ([datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)], "2026-01-02T03:04:05.000Z", "2026-01-02T03:04:05.001Z"),
        ([None, None], None, None),
        ([True, False], None, None),
    ],
)  # fmt: skip
def test_bounds(values: list[Any], lowest: Any, highest: Any) -> None:
    found = json.loads(statistics(pa.table({"v": pa.array(values)})))
    assert (found["minValues"].get("v"), found["maxValues"].get("v")) == (lowest, highest)
    if isinstance(lowest, float) and lowest == 0:
        assert math.copysign(1, found["minValues"]["v"]) == -1
        assert math.copysign(1, found["maxValues"]["v"]) == 1
    assert found["numRecords"] == len(values)
    assert found["nullCount"]["v"] == sum(value is None for value in values)


def test_times_that_python_has_no_year_for_have_no_bounds() -> None:
    far = pa.array([400_000_000_000_000_000], pa.timestamp("us"))
    found = json.loads(statistics(pa.table({"v": far, "w": pa.array([1])})))
    assert "v" not in found["minValues"]
    assert found["maxValues"] == {"w": 1}
