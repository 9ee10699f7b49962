"""The key index of a table is believed only while it is true, in both formats: otherwise it is rebuilt, and nothing
doubles."""

from __future__ import annotations

import shutil
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from contract_base import damage, inserts, opened, rebuilds
from contract_events import LINES, TOPIC, batch, changes, folded, order, truncate
from contract_harness import SinkHarness
from delta_harness import vector_harness
from iceberg_harness import IcebergHarness

from sources.changes import ChangeBatch, TableSchema
from tables.key_index import KeyIndex


@pytest.fixture(params=["iceberg", "delta"])
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> SinkHarness:
    """A table that is upserted by a key index, which is in `index-0` of the scratch folder."""
    return IcebergHarness("upsert", tmp_path) if request.param == "iceberg" else vector_harness(tmp_path)


def updates(first: int, *keys: int, name: str = "new", partition: int = 0) -> ChangeBatch:
    return changes([order("u", key, name) for key in keys], first, partition=partition)


def test_restart_with_its_index_reads_nothing_anew(harness: SinkHarness) -> None:
    parts = inserts(0, 5), updates(5, 0, 20), updates(7, 0, 30)
    with closing(opened(harness)) as sink:
        sink.write(batch(parts[0]))
        sink.write(batch(parts[1]))
    with rebuilds(), closing(opened(harness)) as sink:
        sink.write(batch(parts[2]))
    assert harness.rows() == folded(*parts)


def test_lost_index_is_rebuilt_without_the_deleted_rows(harness: SinkHarness, tmp_path: Path) -> None:
    parts = inserts(0, 5), changes([order("u", 0, "new"), order("d", 10)], 5), updates(7, 0, 10, 20)
    with closing(opened(harness)) as sink:
        sink.write(batch(parts[0]))
        sink.write(batch(parts[1]))
    shutil.rmtree(tmp_path / "index-0")
    with rebuilds(4), closing(opened(harness)) as sink:
        sink.write(batch(parts[2]))
    assert harness.rows() == folded(*parts)


def test_damaged_index_is_rebuilt(harness: SinkHarness, tmp_path: Path) -> None:
    parts = inserts(0, 500), updates(500, *range(0, 5000, 70))
    with closing(opened(harness)) as sink:
        sink.write(batch(parts[0]))
    damage(tmp_path / "index-0")
    with rebuilds(500), closing(opened(harness)) as sink:
        sink.write(batch(parts[1]))
    assert harness.rows() == folded(*parts)


def test_index_of_an_older_time_is_rebuilt(harness: SinkHarness, tmp_path: Path) -> None:
    parts = inserts(0, 3), updates(3, 0, 10), updates(5, 0, 10, 20)
    with closing(opened(harness)) as sink:
        sink.write(batch(parts[0]))
    shutil.copytree(tmp_path / "index-0", tmp_path / "old")
    with closing(opened(harness)) as sink:
        sink.write(batch(parts[1]))
    shutil.rmtree(tmp_path / "index-0")
    shutil.copytree(tmp_path / "old", tmp_path / "index-0")
    with rebuilds(3), closing(opened(harness)) as sink:
        sink.write(batch(parts[2]))
    assert harness.rows() == folded(*parts)


def test_index_of_a_table_that_was_dropped_is_not_used_for_its_successor(harness: SinkHarness) -> None:
    with closing(opened(harness)) as sink:
        sink.write(batch(inserts(0, 3)))
    harness.drop()
    with closing(opened(harness)) as sink:
        sink.write(batch(inserts(0, 3)))
        sink.write(batch(updates(3, 0, 10)))
    assert harness.rows() == folded(inserts(0, 3), updates(3, 0, 10))


def test_entries_of_rows_from_before_a_truncate_are_removed(harness: SinkHarness, tmp_path: Path) -> None:
    one_partition = {TOPIC: 1}
    parts: list[ChangeBatch] = []
    with closing(opened(harness)) as sink:
        for load in range(3):
            parts += [truncate(7 * load), inserts(7 * load + 1, 5), updates(7 * load + 6, 70 * load + 10)]
            for part in parts[-3:]:
                sink.write(batch(part, counts=one_partition))
    assert harness.rows() == folded(*parts)
    index = KeyIndex.shared(tmp_path / "index-0")
    with closing(index):
        assert len(index._database.scan(b"K", index._database.generation)) == 5
    last = truncate(21), inserts(22, 3), updates(25, 220)
    with rebuilds(), closing(opened(harness)) as sink:
        sink.write(batch(*last[:2], counts=one_partition))
        sink.write(batch(last[2]))
    assert harness.rows() == folded(*parts, *last)


def test_commits_of_other_workers_cost_no_rebuild(harness: SinkHarness) -> None:
    ours = [inserts(0, 3), *(updates(3 + n, 10 * (n % 3), name=f"v{n}") for n in range(6))]
    theirs = [inserts(0, 3, partition=1), *(updates(3 + n, 1, name=f"w{n}", partition=1) for n in range(6))]
    with closing(opened(harness)) as one, closing(opened(harness)) as two, rebuilds():
        for mine, yours in zip(ours, theirs, strict=True):
            one.write(batch(mine))
            two.write(batch(yours))
    assert harness.rows() == folded(*ours, *theirs)


def test_partition_that_comes_back_from_another_worker_knows_its_rows(harness: SinkHarness) -> None:
    parts = [inserts(0, 2), inserts(0, 1, partition=1), inserts(1, 3, partition=1), inserts(2, 2)]
    with closing(opened(harness)) as one, closing(opened(harness)) as two:
        for writer, part in zip((one, one, two, one), parts, strict=True):
            writer.write(batch(part))
        taken = updates(4, 1, 11, 21, 31, partition=1)
        one.write(batch(taken))
    assert harness.rows() == folded(*parts, taken)


@pytest.mark.parametrize("names", [("region", "line"), ("line", "region")])
def test_composite_keys_are_found_after_a_rebuild(names: tuple[str, str], harness: SinkHarness, tmp_path: Path) -> None:
    schema = TableSchema(LINES.columns, names, 9)
    start = changes([("c", {"region": r, "line": n, "name": "old"}) for r in "ab" for n in (1, 2)], 0, schema=schema)
    later = changes(
        [("u", {"region": "a", "line": 1, "name": "new"}), ("d", {"region": "b", "line": 2})], 4, schema=schema
    )
    with closing(opened(harness)) as sink:
        sink.write(batch(start))
    shutil.rmtree(tmp_path / "index-0")
    with closing(opened(harness)) as sink:
        sink.write(batch(later))
    assert harness.rows() == folded(start, later)


@pytest.mark.parametrize("rebuilt", [False, True], ids=["kept", "rebuilt"])
@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.int16(), 7),
        (pa.bool_(), True),
        (pa.string(), "ключ"),
        (pa.large_string(), "ключ"),
        (pa.binary(), b"\x00\xff"),
        (pa.binary(16), bytes(range(16))),
        (pa.decimal128(20, 0), 2**64 - 1),
        (pa.decimal128(9, 2), -7),
        (pa.date32(), datetime(1969, 7, 20).date()),  # noqa: DTZ001 -- a date
        (pa.time64("us"), datetime(2026, 1, 1, 1, 2, 3, 4).time()),  # noqa: DTZ001 -- a time of day
        (pa.timestamp("us"), datetime(1969, 7, 20, 1, 2, 3, 4)),  # noqa: DTZ001 -- a timestamp without zone
        (pa.timestamp("ms"), datetime(2026, 7, 20, 1, 2, 3, 4000)),  # noqa: DTZ001 -- a timestamp without zone
        (pa.timestamp("us", tz="UTC"), datetime(2026, 7, 20, 1, 2, 3, 4)),  # noqa: DTZ001 -- taken as UTC
    ],
    ids=str,
)
def test_key_of_each_type_is_found_again(
    kind: pa.DataType, value: Any, rebuilt: bool, harness: SinkHarness, tmp_path: Path
) -> None:
    schema = TableSchema(pa.schema([pa.field("k", kind, nullable=False), pa.field("v", pa.string())]), ("k",), 1)
    with closing(opened(harness)) as sink:
        sink.write(batch(changes([("c", {"k": value, "v": "old"})], 0, schema=schema)))
    if rebuilt:
        shutil.rmtree(tmp_path / "index-0")
    with closing(opened(harness)) as sink:
        sink.write(batch(changes([("u", {"k": value, "v": "new"})], 1, schema=schema)))
    assert [row["v"] for row in harness.rows()] == ["new"]
