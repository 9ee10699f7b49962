"""Are the rows right? One table per layout goes through our commits and those of other engines; after each step every
reader answers the same queries, and the change data feed is replayed. Prints a matrix, as Markdown.

A cell is `right`, `refused` (an error) or `WRONG` (an answer that isn't the table's), with the reason below the matrix.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from benchmarks.deletion_vectors import log, readers
from benchmarks.deletion_vectors.answers import Matrix, State, feed_wrong, rows_wrong
from benchmarks.deletion_vectors.readers import Ask
from benchmarks.deletion_vectors.writer import CommitLost, Feed, Upserts
from benchmarks.long import COLUMNS, PARTITIONS, TOPIC, Accounts, Scenario
from sinks.delta.schema import table_columns
from sinks.reduce import reduce
from sources.changes import TopicPartition
from tables.key_index import KeyIndex

KEYS = 4_000
TPS = [TopicPartition(TOPIC, n) for n in range(PARTITIONS)]


@dataclass(frozen=True)
class Layout:
    """How a table of the checks is written."""

    name: str
    feed: Feed = "derived"
    partition_by: tuple[str, ...] = ()
    prefix: str = ""
    inline: bool = False
    thorough: bool = True


LAYOUTS = (
    Layout("partitioned, feed written", feed="written", partition_by=("_cdc_op",)),
    Layout("inline, vectors in _dv", prefix="_dv", inline=True, thorough=False),
    Layout("partition value with a space", partition_by=("status",), thorough=False),
    Layout("plain"),
)


class Table:
    """A table under test, its writer, and what its rows should be at each version."""

    def __init__(self, layout: Layout, folder: Path) -> None:
        self.layout = layout
        self.folder = folder
        self.uri = str(folder / "table")
        self.store = log.local_store(folder / "table")
        log.create(self.store, table_columns(tuple(COLUMNS)), layout.partition_by, feed=True)
        self.index = KeyIndex.shared(folder / "index")
        self.writer = self.another(TPS)
        self.accounts = Accounts(Scenario("zipf", (), "disk", KEYS))
        self.states: dict[int, State] = {0: {}}

    def another(self, tps: list[TopicPartition], index: KeyIndex | None = None) -> Upserts:
        """One more writer of the table, of some of the Kafka partitions."""
        layout = self.layout
        return Upserts(
            self.store, index or self.index, tps, ("id",),
            feed=layout.feed, prefix=layout.prefix, inline=layout.inline,
        )  # fmt: skip

    def load(self) -> None:
        self.writer.write(self.accounts.load(0, KEYS))
        self.landed()

    def commits(self, count: int, changes: int = 150) -> None:
        """Commits of ours, the last of which also delete the smallest and the largest key."""
        for _ in range(count):
            self.writer.write(self.accounts.changes(changes))
            self.landed()
        there = np.flatnonzero(self.accounts.versions >= 0)
        ends = there[[0, -1]]
        self.writer.write(self.accounts._batch(ends, np.array(["d", "d"])))
        self.landed()

    def tidy(self) -> int:
        """Tidy until nothing is left to do; how many steps it took."""
        steps = 0
        while self.writer.tidy() is not None:
            self.landed()
            steps += 1
        return steps

    def landed(self) -> None:
        """All versions up to now that aren't known yet have the rows of now."""
        for version in range(max(self.states) + 1, DeltaTable(self.uri).version() + 1):
            self.states[version] = self.now()

    def now(self) -> State:
        there: npt.NDArray[np.int64] = np.flatnonzero(self.accounts.versions >= 0)
        return dict(zip(there.tolist(), self.accounts.versions[there].tolist(), strict=True))

    def gone(self, ids: Iterable[int]) -> None:
        """Another engine deleted these."""
        self.accounts.versions[list(ids)] = -1
        self.landed()


class Checks:
    """One layout's way through all situations."""

    def __init__(self, table: Table, matrix: Matrix, session: Any) -> None:
        self.table = table
        self.matrix = matrix
        self.session = session

    def verify(self, situation: str, feed_from: int | None = None, uri: str | None = None) -> None:
        """Ask all readers. `feed_from`: the version from which on the change data feed is replayed."""
        table, session = self.table, self.session
        where, state = uri or table.uri, table.states[max(table.states)]
        name = f"{table.layout.name}: {situation}"

        def rows(open_table: Callable[[], Ask]) -> Callable[[], str]:
            return lambda: rows_wrong(open_table(), state)

        if session is not None:
            self.matrix.note(name, "Spark", rows(lambda: readers.spark(session, where)))
        self.matrix.note(name, "delta-rs", rows(lambda: readers.delta_rs(where)))
        self.matrix.note(name, "DuckDB", rows(lambda: readers.duckdb(where)))
        self.matrix.note(name, "Polars", rows(lambda: readers.polars(where)))
        if feed_from is not None:
            first, last = feed_from, max(table.states)
            if session is not None:
                self.matrix.note(name, "Spark feed", lambda: feed_wrong(
                    readers.spark_feed(session, where, first, last), table.states, first, last))  # fmt: skip
            self.matrix.note(name, "delta-rs feed", lambda: feed_wrong(
                readers.delta_rs_feed(where, first, last), table.states, first, last))  # fmt: skip

    def step(self, situation: str, action: Callable[[], object], *, then_ours: bool = True) -> None:
        """A foreign action, its check, a commit of ours, its check."""
        first = max(self.table.states) + 1
        try:
            action()
            self.table.landed()
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            self.matrix.cells[f"{self.table.layout.name}: {situation}"] = {"the operation": "refused"}
            self.matrix.reasons.append(f"{self.table.layout.name}: {situation}: refused: {reason}")
            sys.stderr.write(f"{situation}: refused {reason}\n")
            return
        moved = max(self.table.states) >= first
        self.verify(situation, first if moved else None)
        if then_ours:
            first = max(self.table.states) + 1
            self.table.commits(1)
            self.verify(f"{situation}, then ours", first)

    def beside(self, situation: str, action: Callable[[str], object]) -> None:
        """An action on a copy of the table, which isn't used afterwards."""
        copy = str(self.table.folder / "copy")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.table.uri, copy)
        name = f"{self.table.layout.name}: {situation}"
        try:
            action(copy)
        except Exception as error:
            self.matrix.cells[name] = {"the operation": "refused"}
            self.matrix.reasons.append(f"{name}: refused: {' '.join(str(error).split())[:300]}")
            return
        self.verify(situation, uri=copy)

    def run(self) -> None:
        """All situations."""
        table = self.table
        table.load()
        table.commits(6)
        self.verify("our commits", 1)
        table.tidy()
        table.commits(1)
        self.verify("our tidying", 1)
        self.step("delta-rs checkpoint", lambda: DeltaTable(table.uri).create_checkpoint())
        self.beside("delta-rs checkpoint alone", cut_log)
        if table.layout.thorough:
            self._other_writers()
        elif self.session is not None:
            self.step("Spark OPTIMIZE", lambda: self.session.sql(f"OPTIMIZE delta.`{table.uri}`"))
        self.step("delta-rs compact", lambda: DeltaTable(table.uri).optimize.compact())
        self._cleaning()

    def _other_writers(self) -> None:
        table = self.table
        self.step("column added", lambda: DeltaTable(table.uri).alter.add_columns(_extra()))
        self._delta_rs_writes()
        if self.session is not None:
            self._spark_writes()
        first = max(table.states) + 1
        self.overtaken()
        self.verify("delta-rs DELETE while we stage", first)
        if self.session is not None:
            lost = self.together()
            self.verify(f"Spark OPTIMIZE, UPDATE while we commit ({lost})")

    def overtaken(self) -> None:
        """Another engine deletes rows between our staging and our commit, which must be refused and made anew."""
        table, accounts = self.table, self.table.accounts
        before = accounts.versions.copy()
        batch = accounts.changes(150)
        table.writer.catch_up()
        delta = table.writer._stage(reduce(batch))
        DeltaTable(table.uri).delete("id % 17 = 3")
        before[3::17] = -1
        ours = np.concatenate([change.rows["id"].to_numpy() for change in batch.changes])
        accounts.versions[np.setdiff1d(np.arange(KEYS)[3::17], ours)] = -1
        there: npt.NDArray[np.int64] = np.flatnonzero(before >= 0)
        table.states[max(table.states) + 1] = dict(zip(there.tolist(), before[there].tolist(), strict=True))
        try:
            table.writer._commit(delta, "MERGE", {})
        except CommitLost:
            table.writer.write(batch)
            table.landed()
        else:
            raise AssertionError("a commit landed on rows that another one had deleted")

    def together(self) -> str:
        """Spark rewrites and updates while we commit; each tries again when it lost. Says who lost how often."""
        table, t = self.table, f"delta.`{self.table.uri}`"
        lost = Counter[str]()

        def foreign() -> None:
            for number in range(6):
                query = f"OPTIMIZE {t}" if number % 2 else f"UPDATE {t} SET note = 'spark' WHERE id % 19 = {number}"
                try:
                    self.session.sql(query)
                except Exception as error:
                    if "Concurrent" not in type(error).__name__ + str(error):
                        raise
                    lost["Spark"] += 1

        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(foreign)
            while not other.done():
                batch = table.accounts.changes(100)
                while True:
                    try:
                        table.writer.write(batch)
                        break
                    except CommitLost:
                        lost["we"] += 1
                lost["our commits"] += 1
            other.result()
        table.landed()
        return ", ".join(f"{who} {'lost ' if who != 'our commits' else ''}{n}" for who, n in sorted(lost.items()))

    def _spark_writes(self) -> None:
        table, sql = self.table, self.session.sql
        t = f"delta.`{table.uri}`"
        self.step("Spark checkpoint", lambda: spark_checkpoint(self.session, table.uri))
        self.beside("Spark checkpoint alone", cut_log)

        def delete() -> None:
            sql(f"DELETE FROM {t} WHERE id % 7 = 3")
            table.gone([key for key in table.now() if key % 7 == 3])

        self.step("Spark DELETE", delete)
        self.step("Spark UPDATE", lambda: sql(f"UPDATE {t} SET note = 'spark' WHERE id % 11 = 5"))

        def merge() -> None:
            sql("SELECT explode(sequence(0, 4000, 5)) AS id").createOrReplaceTempView("s")
            sql(
                f"MERGE INTO {t} AS target USING s ON target.id = s.id WHEN MATCHED AND s.id % 2 = 0 THEN DELETE"
                " WHEN MATCHED THEN UPDATE SET note = 'spark'"
            )
            table.gone([key for key in table.now() if key % 10 == 0])

        self.step("Spark MERGE", merge)
        self.step("Spark OPTIMIZE", lambda: sql(f"OPTIMIZE {t}"))

        def delete_again() -> None:
            sql(f"DELETE FROM {t} WHERE id % 13 = 3")
            table.gone([key for key in table.now() if key % 13 == 3])

        self.step("Spark DELETE again", delete_again)
        self.step("Spark REORG PURGE", lambda: sql(f"REORG TABLE {t} APPLY (PURGE)"))

    def _delta_rs_writes(self) -> None:
        """On copies: these may make rows wrong."""
        table = self.table
        state = dict(table.states[max(table.states)])

        def merge(uri: str) -> None:
            there = DeltaTable(uri)
            some = readers.delta_rs(uri)("SELECT * FROM t WHERE id % 9 = 1")
            some = some.set_column(some.schema.get_field_index("note"), "note", pa.repeat("spark", some.num_rows))
            there.merge(some, "t.id = s.id", source_alias="s", target_alias="t").when_matched_update_all().execute()

        self.beside("delta-rs MERGE", merge)
        self.beside(
            "delta-rs UPDATE", lambda uri: DeltaTable(uri).update(predicate="id % 9 = 1", new_values={"note": "spark"})
        )
        kept = table.accounts.versions.copy()
        table.states[max(table.states)] = {key: v for key, v in state.items() if key % 9 != 1}
        self.beside("delta-rs DELETE", lambda uri: DeltaTable(uri).delete("id % 9 = 1"))
        table.states[max(table.states)] = state
        table.accounts.versions = kept
        older = max(table.states) - 2
        table.states[max(table.states)] = table.states[older]
        self.beside("delta-rs restore", lambda uri: DeltaTable(uri).restore(older))
        table.states[max(table.states)] = state
        self.beside("delta-rs append of nothing", lambda uri: write_deltalake(
            uri, readers.delta_rs(uri)("SELECT * FROM t WHERE id < 0"), mode="append"))  # fmt: skip

    def _cleaning(self) -> None:
        table = self.table
        table.commits(3)
        self.beside("delta-rs vacuum", lambda uri: DeltaTable(uri).vacuum(
            0, dry_run=False, enforce_retention_duration=False))  # fmt: skip
        self.beside("delta-rs vacuum full", lambda uri: DeltaTable(uri).vacuum(
            0, dry_run=False, enforce_retention_duration=False, full=True))  # fmt: skip
        if self.session is not None:
            self.beside("Spark VACUUM", lambda uri: self.session.sql(f"VACUUM delta.`{uri}` RETAIN 0 HOURS"))
        self.step("our clean", lambda: table.writer.clean(0))
        self.step("delta-rs cleanup_metadata", lambda: DeltaTable(table.uri).cleanup_metadata())


def cut_log(uri: str) -> None:
    """Take the commits up to the checkpoint away: only the checkpoint tells of them."""
    folder = Path(uri, "_delta_log")
    last = json.loads((folder / "_last_checkpoint").read_text())["version"]
    for path in folder.glob("*.json"):
        if path.stem.isdigit() and int(path.stem) <= last:
            path.unlink()


def spark_checkpoint(session: Any, uri: str) -> None:
    """Delta's own checkpoint, through its JVM."""
    jvm = session._jvm
    delta_log = jvm.org.apache.spark.sql.delta.DeltaLog.forTable(session._jsparkSession, uri)
    nothing = jvm.scala.Option.empty()
    delta_log.checkpoint(delta_log.update(False, nothing, nothing), nothing)


def _extra() -> list[Any]:
    from deltalake.schema import Schema

    return list(Schema.from_arrow(pa.schema([("extra", pa.int64())])).fields)


@click.command()
@click.option("--layout", type=click.Choice([layout.name for layout in LAYOUTS]), multiple=True)
@click.option("--spark/--no-spark", default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Where the matrix goes, beside the standard output.")
def main(layout: tuple[str, ...], spark: bool, out: Path | None) -> None:
    """Run the checks."""
    session = readers.spark_session() if spark else None
    matrix = Matrix()
    for wanted in LAYOUTS:
        if not layout or wanted.name in layout:
            with tempfile.TemporaryDirectory(prefix="lakeward-dv-") as folder:
                table = Table(wanted, Path(folder))
                try:
                    Checks(table, matrix, session).run()
                finally:
                    table.index.close()
                    if out is not None:
                        out.write_text(matrix.markdown())
    sys.stdout.write(matrix.markdown())


if __name__ == "__main__":
    main()
