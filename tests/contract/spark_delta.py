"""Delta tables as Spark knows them, and what tests of them share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from contract_events import canonical, log_rows
from delta_harness import DeltaHarness, read_by_delta_rs, vector_harness
from deltalake import DeltaTable
from spark_history import Commit, Row, SparkTable, Version, rows_after, values, write

Kind = Literal["append", "merge", "vectors"]
KINDS: tuple[Kind, ...] = ("append", "merge", "vectors")
LAYOUTS: dict[str, tuple[str, ...]] = {"plain": (), "partitioned": ("region",)}
CASES = [(kind, layout) for kind in KINDS for layout in LAYOUTS]
CASE_IDS = [f"{kind}-{layout}" for kind, layout in CASES]
FEED_TYPES = {"_change_type": "string", "_commit_version": "bigint", "_commit_timestamp": "timestamp"}


@dataclass(frozen=True)
class DeltaLake:
    """One table: as our sink writes it, and as Spark knows it."""

    kind: Kind
    harness: DeltaHarness
    spark: SparkTable

    @property
    def path(self) -> Path:
        return self.harness.path

    def ids(self) -> list[int]:
        """All versions so far."""
        return list(range(DeltaTable(self.path).version() + 1)) if self.path.exists() else []

    def write(self, made: Sequence[Commit], before: Sequence[Commit] = ()) -> list[Version]:
        return write(self.harness, made, self.ids, before)

    def agree(self, made: Sequence[Commit]) -> None:
        self.agree_on(rows_after(self.harness.upsert, made))

    def agree_on(self, want: list[Row]) -> None:
        """Spark, DuckDB and delta-rs read these rows."""
        assert self.spark.rows() == want
        assert self.harness.rows() == want  # by DuckDB
        assert read_by_delta_rs(self.path) == want

    def feed(self, **span: Any) -> Any:
        """Spark's change data feed as a data frame; `startingVersion`, `endingVersion`, or timestamps."""
        reader = self.spark.spark.read.format("delta").option("readChangeFeed", "true")
        return reader.options(**span).load(str(self.path))

    def log_entry(self, version: int) -> Path:
        return self.path / "_delta_log" / f"{version:020}.json"


def delta_lake(spark: Any, folder: Path, kind: Kind, layout: str = "plain", **settings: Any) -> DeltaLake:
    settings = {"partition_by": LAYOUTS[layout], **settings}
    match kind:
        case "append":
            harness = DeltaHarness("append", folder, **settings)
        case "merge":
            harness = DeltaHarness("upsert", folder, **settings)
        case "vectors":
            harness = vector_harness(folder, **settings)
    return DeltaLake(kind, harness, SparkTable(spark, f"delta.`{harness.path}`"))


def expected_feed(kind: Kind, versions: Sequence[Version]) -> list[list[Row]]:
    """What the change data feed must tell of each version: the difference that the changes make, by key. With deletion
    vectors an update is a delete and an insert."""
    out, into = ("delete", "insert") if kind == "vectors" else ("update_preimage", "update_postimage")
    before: dict[int, Row] = {}
    told = []
    for version in versions:
        if kind == "append":
            told.append(_typed("insert", log_rows(*version.brought)))
            continue
        after = {row["id"]: row for row in version.rows}
        changed = [key for key in before.keys() & after.keys() if before[key] != after[key]]
        rows = _typed("insert", [row for key, row in after.items() if key not in before])
        rows += _typed("delete", [row for key, row in before.items() if key not in after])
        rows += _typed(out, [before[key] for key in changed]) + _typed(into, [after[key] for key in changed])
        told.append(canonical(rows))
        before = after
    return told


def told_by_spark(frame: Any, versions: Sequence[int]) -> list[list[Row]]:
    return _told(values(frame), versions)


def told_by_delta_rs(path: Path, versions: Sequence[int]) -> list[list[Row]]:
    feed = DeltaTable(path).load_cdf(starting_version=versions[0], ending_version=versions[-1])
    return _told(pa.table(feed).to_pylist(), versions)


def _told(rows: Sequence[Mapping[str, Any]], versions: Sequence[int]) -> list[list[Row]]:
    """The rows of a feed by version, each with its kind of change."""
    by_version: dict[int, list[Row]] = {version: [] for version in versions}
    for row in rows:
        version = row["_commit_version"]
        by_version[version].append({name: value for name, value in row.items() if not name.startswith("_commit_")})
    return [canonical(told) for told in by_version.values()]


def _typed(change: str, rows: Sequence[Row]) -> list[Row]:
    return [{"_change_type": change, **row} for row in rows]
