"""Partitions, columns and types of Delta tables that are upserted by deletion vectors."""

from __future__ import annotations

import shutil
from contextlib import closing
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pytest
from contract_base import commit, inserts, opened
from contract_events import ORDERS_WITH_NOTE, TOPIC, batch, changes, empty_batch, folded, order, unsent
from delta_harness import DeltaHarness, read_by_delta_rs, vector_harness
from deltalake import DeltaTable, QueryBuilder, write_deltalake

from config.errors import RecordsRefused, UnsupportedChange
from sinks.unchanged import without
from sources.changes import TableSchema

pytestmark = pytest.mark.usefixtures("small_tiers")

FLOATS = TableSchema(pa.schema([pa.field("k", pa.float64(), nullable=False), ("n", pa.int64())]), ("k",), 1)


def test_partition_values_of_all_kinds(tmp_path: Path) -> None:
    kinds_of: dict[str, tuple[pa.DataType, list[Any]]] = {
        "text": (pa.string(), ["plain", "it's %/=?", "on hold", "Zürich 🏔", None]),
        "number": (pa.int32(), [0, -7, None]),
        "money": (pa.decimal128(9, 2), [Decimal("1.50"), Decimal("-0.01"), None]),
        "day": (pa.date32(), [date(2026, 1, 2), date(1969, 12, 31), None]),
        "at": (pa.timestamp("us", tz="UTC"), [datetime.fromisoformat("2026-01-02T03:04:05.000678+00:00"), None]),
        "local": (pa.timestamp("us"), [datetime.fromisoformat("1969-12-31T23:59:59.999999"), None]),
        "flag": (pa.bool_(), [True, False, None]),
    }
    for name, (kind, values) in kinds_of.items():
        folder = tmp_path / name
        folder.mkdir()
        harness = vector_harness(folder, partition_by=(name,))
        schema = TableSchema(pa.schema([("id", pa.int64()), (name, kind), ("n", pa.int64())]), ("id",), 1)
        rows = [("c", {"id": n, name: value, "n": 0}) for n, value in enumerate(values)]
        moved = [("u", {"id": n, name: values[n - 1], "n": 1}) for n, _ in enumerate(values)]
        parts = changes(rows, 0, schema=schema), changes(moved, len(rows), schema=schema)
        back = changes([("u", {"id": 0, name: values[0], "n": 2})], 2 * len(rows), schema=schema)
        with closing(opened(harness)) as sink:
            for part in parts:
                commit(sink, part)
        shutil.rmtree(folder / "index-0")
        with closing(opened(harness)) as sink:
            commit(sink, back)
        assert harness.rows() == folded(*parts, back), name


@pytest.mark.parametrize("settings", [{}, {"upserts": "deletion_vectors"}, None])
def test_empty_text_as_a_partition_is_refused_record_by_record(settings: dict[str, Any] | None, tmp_path: Path) -> None:
    """Delta's readers take it for null (protocol, "Partition Value Serialization")."""
    mode: Literal["append", "upsert"] = "append" if settings is None else "upsert"
    harness = DeltaHarness(mode, tmp_path, partition_by=("region",), **settings or {})
    schema = TableSchema(pa.schema([("id", pa.int64()), ("region", pa.string())]), ("id",), 1)
    rows: list[dict[str, Any]] = [{"id": 0, "region": "eu"}, {"id": 1, "region": ""}, {"id": 2, "region": None}]
    part = changes([("c", row) for row in rows], 0, schema=schema)
    gone = changes([("d", {"id": 0, "region": ""})], 3, schema=schema)
    with closing(opened(harness)) as sink:
        with pytest.raises(
            RecordsRefused, match=r"at offset 1 the column region, by which .* holds the empty text"
        ) as e:
            sink.write(batch(part))
        assert list(e.value.records) == [(TOPIC, 0, 1)]
        sink.write(without(batch(part), e.value.records.keys()))
        if harness.upsert:
            sink.write(batch(gone))  # a delete brings no row
    assert sorted(row["id"] for row in harness.rows()) == ([2] if harness.upsert else [0, 2])


def test_float_keys(tmp_path: Path) -> None:
    """-0.0 and 0.0 are one key, and so are NaNs, in a batch and between batches, after the index was lost, too."""
    harness = vector_harness(tmp_path)
    nan = float("nan")
    parts = [
        changes([("c", {"k": -0.0, "n": 1}), ("c", {"k": nan, "n": 1}), ("c", {"k": 1.5, "n": 1})], 0, schema=FLOATS),
        changes([("d", {"k": -0.0}), ("c", {"k": 0.0, "n": 2}), ("u", {"k": nan, "n": 2})], 3, schema=FLOATS),
        changes([("u", {"k": -0.0, "n": 3}), ("u", {"k": nan, "n": 3})], 6, schema=FLOATS),
    ]
    with closing(opened(harness)) as sink:
        for part in parts[:2]:
            sink.write(batch(part))
    shutil.rmtree(tmp_path / "index-0")
    with closing(opened(harness)) as sink:
        sink.write(batch(parts[2]))
    found = {str(row["k"] + 0.0): row["n"] for row in read_by_delta_rs(harness.path)}
    assert found == {"0.0": 3, "nan": 3, "1.5": 1}
    assert len(read_by_delta_rs(harness.path)) == 3


def test_merge_refuses_a_key_that_is_not_a_number(tmp_path: Path) -> None:
    """delta-rs' MERGE doubles such a row, and rows beside it."""
    harness = DeltaHarness("upsert", tmp_path)
    parts = (
        changes([("c", {"k": 1.5, "n": 1})], 0, schema=FLOATS),
        changes([("c", {"k": 2.5, "n": 1})], 1, schema=FLOATS),
    )
    with closing(opened(harness)) as sink:
        sink.write(batch(parts[0]))
        with pytest.raises(UnsupportedChange, match=r"column, k, holds NaN.*upserts: deletion_vectors"):
            sink.write(batch(changes([("c", {"k": float("nan"), "n": 1})], 1, schema=FLOATS)))
        sink.write(batch(parts[1]))
    assert harness.rows() == folded(*parts)


def test_unsent_values_are_found_by_merge_in_a_table_with_vectors(tmp_path: Path) -> None:
    """`upserts` was changed back to `merge`: delta-rs' Arrow datasets don't read such tables."""
    parts = inserts(0, 4), changes([order("u", 20, "new"), order("d", 30)], 4)
    more = changes(
        [unsent("u", 10, "name", amount=Decimal("7.00")), unsent("u", 20, "name", amount=Decimal("8.00"))], 6
    )
    with closing(opened(vector_harness(tmp_path))) as sink:
        for part in parts:
            sink.write(batch(part))
    merging = DeltaHarness("upsert", tmp_path)
    with closing(opened(merging)) as sink:
        sink.write(batch(more))
    assert read_by_delta_rs(merging.path) == folded(*parts, more)


def test_key_that_is_a_partition_column_is_found_after_the_index_was_lost(tmp_path: Path) -> None:
    harness = vector_harness(tmp_path, partition_by=("region",))
    schema = TableSchema(
        pa.schema([("region", pa.int32()), ("line", pa.int32()), ("n", pa.int64())]), ("region", "line"), 1
    )
    rows = [("c", {"region": r, "line": n, "n": 0}) for r in range(3) for n in range(3)]
    later = [("u", {"region": 1, "line": 1, "n": 1}), ("d", {"region": 2, "line": 0})]
    parts = changes(rows, 0, schema=schema), changes(later, 9, schema=schema)
    with closing(opened(harness)) as sink:
        commit(sink, parts[0])
    shutil.rmtree(tmp_path / "index-0")
    with closing(opened(harness)) as sink:
        commit(sink, parts[1])
    assert harness.rows() == folded(*parts)


def test_partition_column_of_a_kind_that_folders_can_not_name_is_refused(tmp_path: Path) -> None:
    harness = vector_harness(tmp_path, partition_by=("x",))
    schema = TableSchema(pa.schema([("id", pa.int64()), ("x", pa.float64())]), ("id",), 1)
    with (
        closing(opened(harness)) as sink,
        pytest.raises(UnsupportedChange, match=r"column x is double.*upserts: merge"),
    ):
        sink.write(batch(changes([("c", {"id": 1, "x": 1.5})], 0, schema=schema)))


@pytest.mark.parametrize("kind", [pa.uint64(), pa.time64("us"), pa.uint16(), pa.binary(4)])
def test_key_that_is_stored_at_another_type_is_found(kind: pa.DataType, tmp_path: Path) -> None:
    values = pa.array([b"abcd", b"efgh"] if kind == pa.binary(4) else [1, 2]).cast(kind).to_pylist()
    schema = TableSchema(pa.schema([("k", kind), ("n", pa.int64())]), ("k",), 1)
    parts = [
        changes([("c", {"k": value, "n": 0}) for value in values], 0, schema=schema),
        changes([("u", {"k": values[0], "n": 1})], 2, schema=schema),
        changes([("d", {"k": values[0]}), ("u", {"k": values[1], "n": 2})], 3, schema=schema),
    ]
    harness = vector_harness(tmp_path)
    with closing(opened(harness)) as sink:
        sink.write(batch(parts[0]))
        sink.write(batch(parts[1]))
        assert sorted(row["n"] for row in harness.rows()) == [0, 1]
    shutil.rmtree(tmp_path / "index-0")
    with closing(opened(harness)) as sink:
        sink.write(batch(parts[2]))
    assert [row["n"] for row in harness.rows()] == [2]


def test_column_without_time_zone_that_is_added_later_raises_the_protocol(tmp_path: Path) -> None:
    harness = vector_harness(tmp_path)
    first = TableSchema(pa.schema([("id", pa.int64())]), ("id",), 1)
    second = TableSchema(first.columns.append(pa.field("at", pa.timestamp("us"))), ("id",), 2)
    row = {"id": 1, "at": datetime.fromisoformat("2026-01-02T03:04:05")}
    parts = changes([("c", {"id": 1}), ("c", {"id": 2})], 0, schema=first), changes([("u", row)], 2, schema=second)
    with closing(opened(harness)) as sink:
        for part in parts:
            sink.write(batch(part))
    assert "timestampNtz" in (DeltaTable(harness.path).protocol().reader_features or [])
    assert harness.rows() == folded(*parts)


def test_crash_between_added_column_and_rows(tmp_path: Path) -> None:
    harness = vector_harness(tmp_path)
    noted = changes([order("c", 3, note="new")], 2, schema=ORDERS_WITH_NOTE)
    with closing(opened(harness)) as sink:
        sink.write(batch(inserts(0, 2)))
        with pytest.raises(SystemExit), harness.around_next_commit(after=crash):
            sink.write(batch(noted))
    assert "note" in pa.schema(DeltaTable(harness.path).schema().to_arrow()).names
    with closing(opened(harness)) as sink:
        sink.write(batch(noted))
    assert harness.rows() == folded(inserts(0, 2), noted)


def test_first_batch_without_rows_leaves_the_key_to_the_first_with_some(tmp_path: Path) -> None:
    harness = vector_harness(tmp_path)
    part = changes([order("c", 1), order("u", 1, "again")], 5)
    with closing(opened(harness)) as sink:
        sink.write(empty_batch(0, 5))
        sink.write(batch(part))
    assert DeltaTable(harness.path).metadata().configuration["lakeward.key"] == '["id"]'
    assert harness.rows() == folded(part)


def test_rows_that_were_there_before_the_key_was_known_are_found(tmp_path: Path) -> None:
    """A table made by hand has rows, but says no key; the first batch, without changes, can't tell it either."""
    harness = DeltaHarness("upsert", tmp_path)
    with closing(opened(harness)) as sink:
        sink.write(batch(inserts(0, 4)))
    table = DeltaTable(harness.path)
    rows = QueryBuilder().register("t", table).execute("SELECT * FROM t").read_all()
    shutil.rmtree(harness.path)
    write_deltalake(harness.path, rows)
    harness = vector_harness(tmp_path)
    with closing(opened(harness)) as sink:
        sink.write(empty_batch(0, 4))
        sink.write(batch(changes([order("u", 10, "new"), order("d", 20)], 4)))
    assert harness.rows() == folded(inserts(0, 4), changes([order("u", 10, "new"), order("d", 20)], 4))


def crash() -> None:
    raise SystemExit
