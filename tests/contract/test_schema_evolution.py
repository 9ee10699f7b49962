"""Schema changes beyond the contract: random histories, partitions, tidying, tables that others change meanwhile."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pytest
from contract_base import TP0, committed, expected, inserts, opened, random_examples, write
from contract_events import ORDERS, TOPIC, Change, batch, changes, folded, log_rows, order
from contract_evolution import SMALL, homes, row, shape
from contract_harness import Factory, SinkHarness
from delta_harness import DeltaHarness, vector_harness
from hypothesis import given
from hypothesis import strategies as st
from iceberg_harness import NAME, NAMESPACE, IcebergHarness
from iceberg_upkeep import present
from pyiceberg.schema import Schema
from pyiceberg.types import IntegerType, LongType, NestedField, StringType, TimestamptzType

from config.errors import UnsupportedChange
from sources.changes import ChangeBatch, TableSchema

VALUES: dict[pa.DataType, Callable[[int], Any]] = {
    pa.int32(): int,
    pa.int64(): lambda n: n + (1 << 40),
    pa.string(): lambda n: f"text {n}",
}
KINDS = [None, *VALUES]


@st.composite
def histories(draw: st.DrawFn) -> list[ChangeBatch]:
    """The changes of two partitions as they are written, one after the other, while two columns come, go and change
    their types; each partition is at its own place in the history of the schema."""
    seen: dict[tuple[Any, ...], int] = {}
    versions = []
    for kinds in draw(st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from(KINDS)), min_size=1, max_size=5)):
        columns = {name: kind for name, kind in zip("ab", kinds, strict=True) if kind is not None}
        schema_id = seen.setdefault(kinds, len(seen) + 1)  # a shape that comes back gets its old id
        versions.append(shape(schema_id, **columns))
    parts = []
    at, offsets = [0, 0], [0, 0]
    for _ in range(draw(st.integers(1, 8))):
        partition = draw(st.integers(0, 1))
        at[partition] = draw(st.integers(at[partition], len(versions) - 1))
        schema = versions[at[partition]]
        rows: list[Change] = []
        for op, key in draw(st.lists(st.tuples(st.sampled_from("cuud"), st.integers(0, 3)), min_size=1, max_size=4)):
            n = offsets[partition] + len(rows)
            values = {f.name: VALUES[f.type](n) for f in schema.columns if f.name != "id"} if op != "d" else {}
            rows.append(row(op, 2 * key + partition, **values))
        parts.append(changes(rows, offsets[partition], partition=partition, schema=schema))
        offsets[partition] += len(rows)
    return parts


def test_random_histories_of_a_schema_lose_no_value(factory: Factory) -> None:
    @random_examples(factory)
    @given(histories(), st.lists(st.integers(1, 3), min_size=8, max_size=8))
    def run(parts: list[ChangeBatch], cuts: list[int]) -> None:
        with TemporaryDirectory() as folder:
            harness = factory(Path(folder))
            done = 0
            for count in cuts:
                with closing(opened(harness, policies="lenient")) as sink:
                    if done < len(parts):
                        sink.write(batch(*parts[done : done + count]))
                        sink.write(batch(*parts[done : done + count]))  # a replay
                done += count
            assert harness.rows() == expected(harness, *homes(parts[:done]))

    run()


def lake(kind: str, folder: Path, partition_by: str) -> IcebergHarness | DeltaHarness:
    """A table partitioned by a column, or by a transform of it where the format has these."""
    match kind:
        case "iceberg-append":
            return IcebergHarness("append", folder, partition_by=[f"bucket(4, {partition_by})"])
        case "iceberg-upsert":
            return IcebergHarness("upsert", folder, partition_by=[partition_by])
        case "delta-vectors":
            return vector_harness(folder, partition_by=[partition_by])
        case _:
            mode: Any = kind.removeprefix("delta-")
            return DeltaHarness(mode, folder, partition_by=[partition_by])


LAKES = ["iceberg-append", "iceberg-upsert", "delta-append", "delta-upsert", "delta-vectors"]


@pytest.mark.parametrize("kind", LAKES)
def test_rows_without_a_dropped_partition_column_go_into_the_partition_of_nulls(kind: str, tmp_path: Path) -> None:
    harness = lake(kind, tmp_path, "region")
    with_region, without_region = shape(1, region=pa.string(), n=pa.int32()), shape(2, n=pa.int32())
    parts = [
        changes([row("c", key, region=("south", "north")[key % 2], n=key) for key in range(6)], 0, schema=with_region),
        changes([row("u", 1, n=11), row("d", 2), row("c", 7, n=7)], 6, schema=without_region),
        changes([row("c", 101, region="late", n=1)], 0, partition=1, schema=with_region),
        changes([row("u", 7, n=77), row("u", 3, n=33)], 9, schema=without_region),
    ]  # fmt: skip
    with closing(opened(harness)) as sink:
        sink.write(batch(*parts[:2]))
        sink.write(batch(*parts[2:]))
        sink.tidy()
    assert harness.rows() == expected(harness, *parts)


PAIRS: list[tuple[pa.DataType, Any, pa.DataType, Any]] = [
    (pa.int16(), 7, pa.int64(), 1 << 40),
    (pa.int32(), -(1 << 31), pa.int64(), -(1 << 62)),
    (pa.float32(), 0.5, pa.float64(), 0.1),
    (pa.decimal128(6, 2), Decimal("1234.56"), pa.decimal128(30, 2), Decimal(10) ** 20),
]


@pytest.mark.parametrize(("small", "first", "large", "second"), PAIRS, ids=[str(pair[2]) for pair in PAIRS])
@pytest.mark.parametrize("mode", ["append", "upsert"])
def test_iceberg_widens_in_place_what_its_spec_allows(
    mode: Any, small: pa.DataType, first: Any, large: pa.DataType, second: Any, tmp_path: Path
) -> None:
    harness = IcebergHarness(mode, tmp_path)
    parts = [
        changes([row("c", 1, v=first), row("c", 2, v=first)], 0, schema=shape(1, v=small)),
        changes([row("u", 2, v=second)], 2, schema=shape(2, v=large)),
    ]
    with closing(opened(harness)) as sink:
        sink.write(batch(parts[0]))
        before = present(harness).current_snapshot()
        sink.write(batch(parts[1]))
    assert harness.rows() == expected(harness, *parts)
    assert before is not None
    old = present(harness).scan(snapshot_id=before.snapshot_id).to_arrow()
    assert old.column("v").to_pylist() == [first, first]
    assert old.schema.field("v").type != present(harness).scan().to_arrow().schema.field("v").type or small == large


def test_iceberg_stops_at_what_its_spec_does_not_widen(tmp_path: Path) -> None:
    harness = IcebergHarness("append", tmp_path)
    number, exact = shape(1, v=pa.int32()), shape(2, v=pa.decimal128(20, 0))
    with closing(opened(harness)) as sink:
        sink.write(batch(changes([row("c", 1, v=1)], 0, schema=number)))
        with pytest.raises(
            UnsupportedChange, match=r"v is int32 in the table and decimal128\(20, 0\).*v__decimal128_20_0"
        ):
            sink.write(batch(changes([row("c", 2, v=Decimal(10) ** 18)], 1, schema=exact)))
    assert committed(harness) == {TP0: 1}


@pytest.mark.parametrize("transform", ["v", "bucket(4, v)", "truncate(10, v)"])
def test_partition_column_widens_with_its_rows_where_they_are(transform: str, tmp_path: Path) -> None:
    harness = IcebergHarness("upsert", tmp_path, partition_by=[transform])
    small, large = shape(1, v=pa.int32()), shape(2, v=pa.int64())
    parts = [
        changes([row("c", key, v=key) for key in range(8)], 0, schema=small),
        changes([row("u", 1, v=1), row("u", 2, v=1 << 40), row("d", 3)], 8, schema=large),
        changes([row("u", 2, v=2), row("u", 4, v=5)], 11, schema=large),
    ]
    with closing(opened(harness)) as sink:
        for part in parts:
            sink.write(batch(part))
            sink.tidy()
    with closing(opened(harness)) as sink:
        sink.write(batch(changes([row("u", 5, v=55)], 13, schema=large)))
    assert harness.rows() == folded(*parts, changes([row("u", 5, v=55)], 13, schema=large))
    found = present(harness).scan("v = 2").to_arrow()
    assert found.column("id").to_pylist() == [2]


@pytest.mark.parametrize("mode", ["append", "upsert"])
def test_files_from_before_and_after_a_widening_are_merged(mode: Any, tmp_path: Path, small_tiers: None) -> None:
    harness = IcebergHarness(mode, tmp_path)
    small, large = shape(1, v=pa.int32(), w=pa.float32()), shape(2, v=pa.int64(), w=pa.float64(), x=pa.string())
    parts = [
        changes([row("c", n, v=n, w=n / 2), row("u", n // 2, v=-n, w=0.5)], 2 * n, schema=small) for n in range(12)
    ]
    parts += [
        changes([row("u", n, v=n + (1 << 40), w=0.1, x="y")], 24 + n, schema=large) for n in range(12)
    ]  # fmt: skip
    with closing(opened(harness)) as sink:
        for part in parts:
            sink.write(batch(part))
            for _ in range(4):
                sink.tidy()
    assert harness.rows() == expected(harness, *parts)
    assert len(list(present(harness).scan().plan_files())) < len(parts)


def test_lost_index_is_rebuilt_from_files_of_both_types_of_the_key(tmp_path: Path) -> None:
    harness = IcebergHarness("upsert", tmp_path)
    small = shape(1, id=pa.int32(), name=pa.string())
    large = shape(2, id=pa.int64(), name=pa.string())
    parts = [
        changes([row("c", key, name="a") for key in range(5)], 0, schema=small),
        changes([row("u", 1, name="b"), row("c", 1 << 40, name="b")], 5, schema=large),
        changes([row("u", 0, name="c"), row("u", 1 << 40, name="c"), row("d", 2)], 7, schema=large),
    ]
    for part in parts:
        with closing(opened(harness)) as sink:
            sink.write(batch(part, counts={TOPIC: 1}))
        for folder in harness.free:
            shutil.rmtree(folder, ignore_errors=True)
        harness.free.clear()
    assert harness.rows() == folded(*parts)


@pytest.mark.parametrize("mode", ["append", "upsert"])
def test_iceberg_table_that_others_change_meanwhile_is_written_as_it_is_now(mode: Any, tmp_path: Path) -> None:
    """A column added, one widened, one dropped and one renamed by hand, each between two commits of a running sink."""
    harness = IcebergHarness(mode, tmp_path)
    schema = shape(1, v=pa.int32(), name=pa.string(), gone=pa.string())
    parts = [
        changes([row("c", n, v=n, name=f"n{n}", gone="g")], n, schema=schema) for n in range(5)
    ]  # fmt: skip
    steps: list[Callable[[Any], None]] = [
        lambda update: update.add_column("theirs", StringType()),
        lambda update: update.update_column("v", LongType()),
        lambda update: update.rename_column("name", "title"),
        lambda update: update.delete_column("gone"),
    ]
    with closing(opened(harness)) as sink:
        for part, step in zip(parts, [*steps, None], strict=True):
            sink.write(batch(part))
            if step is not None:
                with present(harness).update_schema() as update:
                    step(update)
    rows = {r["id"]: {k: v for k, v in r.items() if not k.startswith("_cdc")} for r in harness.rows()}
    assert rows[0] == {"id": 0, "v": 0, "title": "n0"}
    assert rows[2] == {"id": 2, "v": 2, "title": "n2"}
    assert rows[4] == {"id": 4, "v": 4, "name": "n4", "gone": "g"}  # their columns are made anew: nothing is lost


def test_schema_that_is_changed_between_look_and_commit_is_taken_in(tmp_path: Path) -> None:
    harness = IcebergHarness("append", tmp_path)
    noted = shape(2, name=pa.string(), note=pa.string())
    parts = [
        changes([row("c", 1, name="a")], 0, schema=shape(1, name=pa.string())),
        changes([row("c", 2, name="b", note="n")], 1, schema=noted),
    ]

    def widen() -> None:
        with present(harness).update_schema() as update:
            update.add_column("theirs", LongType())
            update.add_column("note", StringType())

    with closing(opened(harness)) as sink:
        sink.write(batch(parts[0]))
        with harness.around_next_commit(before=widen):
            sink.write(batch(parts[1]))
    assert harness.rows() == log_rows(*parts)
    assert "theirs" in present(harness).schema().column_names


def test_required_column_of_a_table_made_by_hand_becomes_optional(tmp_path: Path) -> None:
    harness = IcebergHarness("append", tmp_path)
    catalog = harness.catalog()
    catalog.create_namespace(NAMESPACE)
    cdc = [("_cdc_topic", StringType()), ("_cdc_partition", IntegerType()), ("_cdc_offset", LongType()),
           ("_cdc_op", StringType()), ("_cdc_ts", TimestamptzType())]  # fmt: skip
    fields = [NestedField(1, "id", LongType(), required=True), NestedField(2, "v", LongType(), required=True)]
    fields += [NestedField(3 + n, name, kind) for n, (name, kind) in enumerate(cdc)]
    catalog.create_table(f"{NAMESPACE}.{NAME}", Schema(*fields))
    part = changes([row("c", 1, v=5), row("d", 1)], 0, schema=shape(1, v=pa.int32()))
    required = "column id is required in the table and may be null"
    with (
        closing(opened(harness, policies={"nullability": "stop"})) as sink,
        pytest.raises(UnsupportedChange, match=required),
    ):
        sink.write(batch(part))
    with closing(opened(harness)) as sink:
        sink.write(batch(part))
    assert harness.rows() == log_rows(part)
    assert [field.required for field in present(harness).schema().fields[:2]] == [False, False]


@pytest.mark.parametrize(
    "make", [lambda folder: DeltaHarness("append", folder), vector_harness], ids=["append", "vectors"]
)
def test_older_record_between_a_delta_tables_new_column_and_its_rows_lags_behind(make: Any, tmp_path: Path) -> None:
    """The commit that adds a column tells of which schema: without that, who comes next takes it for dropped."""
    harness = make(tmp_path)
    noted = TableSchema(ORDERS.columns.append(pa.field("note", pa.string())), ORDERS.key, 2)
    start = [inserts(0, 1), inserts(0, 1, partition=1)]
    mine, theirs = changes([order("u", 0, note="x")], 1, schema=noted), inserts(1, 1, partition=1)
    with closing(opened(harness)) as sink, closing(opened(harness, policies={"drop": "stop"})) as other:
        sink.write(batch(*start))

        def meanwhile() -> None:
            write(other, batch(theirs))

        with harness.around_next_commit(after=meanwhile):
            sink.write(batch(mine))
    assert harness.rows() == expected(harness, *start, mine, theirs)


def test_widened_type_in_the_first_batch_of_all_makes_a_wide_column(tmp_path: Path) -> None:
    parts = [changes([row("c", 1, size=1)], 0, schema=SMALL),
             changes([row("c", 2, size=1 << 40)], 1, schema=shape(2, size=pa.int64()))]  # fmt: skip
    harnesses: dict[str, SinkHarness] = {
        "delta": DeltaHarness("append", tmp_path / "delta"),
        "iceberg": IcebergHarness("append", _made(tmp_path / "iceberg")),
    }
    for name, harness in harnesses.items():
        with closing(opened(harness)) as sink:
            sink.write(batch(*parts))
        assert harness.rows() == log_rows(*parts), name


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
