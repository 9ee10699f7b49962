"""A history of changes with many kinds of columns, what it makes of a table commit by commit, and Spark as its reader.

What a table must hold is always the fold of the changes. Spark's jobs cost about a second whatever they read, so what
one check compares is one query.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
from contract_base import opened
from contract_events import EPOCH, TOPIC, Change, batch, canonical, changes, folded, log_rows
from contract_harness import SinkHarness

from sources.changes import CDC_FIELDS, ChangeBatch, TableSchema

Row = dict[str, Any]
Commit = tuple[ChangeBatch, ...]
"""The changes of one commit, of one or two Kafka partitions."""

ITEMS = TableSchema(
    pa.schema(
        [
            pa.field("id", pa.int64(), nullable=False),
            pa.field("name", pa.string()),
            pa.field("region", pa.string()),
            pa.field("amount", pa.decimal128(12, 2)),
            pa.field("at", pa.timestamp("us", tz="UTC")),
            pa.field("local", pa.timestamp("us")),
            pa.field("due", pa.date32()),
            pa.field("ratio", pa.float64()),
            pa.field("paid", pa.bool_()),
            pa.field("size", pa.int32()),
            pa.field("raw", pa.binary()),
        ]
    ),
    ("id",),
    1,
)
SPARK_TYPES = {
    "id": "bigint",
    "name": "string",
    "region": "string",
    "amount": "decimal(12,2)",
    "at": "timestamp",
    "local": "timestamp_ntz",
    "due": "date",
    "ratio": "double",
    "paid": "boolean",
    "size": "int",
    "raw": "binary",
    "_cdc_topic": "string",
    "_cdc_partition": "int",
    "_cdc_offset": "bigint",
    "_cdc_op": "string",
    "_cdc_ts": "timestamp",
}
assert list(SPARK_TYPES) == [*ITEMS.columns.names, *(field.name for field in CDC_FIELDS)]

REGIONS = ("north", "it's %/=", None)
HISTORY = (
    "c0.0 c2.0 c4.0 c6.0 c8.0 | c1.0 c3.0 c5.0 c7.0",
    "u0.1 u4.1 c10.1 | d3",
    "| u1.1 u5.2 d7",
    "d4 u2.1 u2.2 | c3.3 c9.0",  # a key that comes back, two updates of one key
    "d0 c0.4 c12.0 d12 u6.3",  # both in one commit, and a row that never is
    "u8.1 u10.2 d2 | u1.4 u9.1 d5",
)
"""A commit a line: operation, key and what the values depend on; first Kafka partition 0 (even keys), then 1."""
MORE = ("u8.6 c14.6 d6 | u3.6 c15.6", "c4.7 d14 u0.7 | d1 u15.7")
"""What is written on, after others have had the table."""


def item(op: str, key: int, variant: int = 0) -> Change:
    """A change whose values follow from key and variant; a variant of 3 is null in all columns that may be."""
    if op == "d":
        return "d", {"id": key}
    if variant == 3:
        return op, {"id": key}
    return op, {
        "id": key,
        "name": f"item {key}.{variant}",
        "region": REGIONS[(key + variant) % 3],
        "amount": Decimal(100 * key + variant) / 100,
        "at": EPOCH + timedelta(days=key % 3, hours=variant, microseconds=key),
        "local": datetime(1969, 7, 20, 20, key % 60, variant, 1),  # noqa: DTZ001 -- a column without zone
        "due": date(2026, 2, 1) + timedelta(days=key),
        "ratio": key / (variant + 3),
        "paid": (key + variant) % 2 == 0,
        "size": variant - (1 << 31),
        "raw": bytes([key % 256, variant, 0, 255]),
    }


def commits(*lines: str, after: Sequence[Commit] = ()) -> list[Commit]:
    """The commits of lines like those of `HISTORY`, whose offsets follow those of the commits `after`."""
    at = {0: 0, 1: 0}
    for part in flat(after):
        at[part.partition] = part.next
    made = []
    for line in lines:
        parts = []
        for partition, words in enumerate(line.split("|")):
            rows = [item(word[0], *map(int, word[1:].split("."))) for word in words.split()]
            if rows:
                parts.append(changes(rows, at[partition], partition=partition, schema=ITEMS))
                at[partition] += len(rows)
        made.append(tuple(parts))
    return made


def flat(made: Sequence[Commit]) -> list[ChangeBatch]:
    return [part for commit in made for part in commit]


MADE = commits(*HISTORY)
AFTER = commits(*MORE, after=MADE)


def rows_after(upsert: bool, made: Sequence[Commit]) -> list[Row]:
    """What a table must hold after these commits."""
    return (folded if upsert else log_rows)(*flat(made))


@dataclass(frozen=True)
class Version:
    """A snapshot or version of a table, the rows that it must hold, and the changes that it brought."""

    id: int
    rows: list[Row]
    brought: Commit = ()


def write(
    harness: SinkHarness, made: Sequence[Commit], ids: Callable[[], list[int]], before: Sequence[Commit] = ()
) -> list[Version]:
    """Write a history, whose predecessors are there, and tell what each new version must hold. `ids` are those of all
    versions so far. What a commit makes before its rows (the table, a column) holds the rows from before, what tidying
    makes those from then on."""
    versions: list[Version] = []
    seen = len(ids()) if before else 0
    with closing(opened(harness)) as sink:
        for n, commit in enumerate(made):
            old, new = (rows_after(harness.upsert, [*before, *made[:end]]) for end in (n, n + 1))
            landed = sink.write(batch(*commit)).version
            sink.tidy()
            fresh = ids()[seen:]
            seen += len(fresh)
            assert landed is not None
            here = fresh.index(landed)
            versions += [Version(id, old) for id in fresh[:here]]
            versions.append(Version(fresh[here], new, commit))
            versions += [Version(id, new) for id in fresh[here + 1 :]]
    return versions


@dataclass(frozen=True)
class SparkTable:
    """A table as Spark knows it: `catalog.namespace.name`, or a path of Delta's."""

    spark: Any
    name: str

    def sql(self, text: str) -> Any:
        """A data frame; `{table}`, `{catalog}` and `{plain}` (without the catalog) are filled in."""
        catalog, plain = self.name.split(".", 1)
        return self.spark.sql(text.format(table=self.name, catalog=catalog, plain=plain))

    def run(self, *statements: str) -> list[Row]:
        """The result of the last of these statements."""
        found: list[Row] = []
        for statement in statements:
            found = values(self.sql(statement))
        return found

    def rows(self, clause: str = "") -> list[Row]:
        """All rows, or those that `VERSION AS OF …` or `WHERE …` leaves."""
        return canonical(values(self.sql(f"SELECT * FROM {{table}} {clause}")))

    def rows_of_each(self, clauses: Sequence[str], columns: str = "*") -> list[list[Row]]:
        """The rows by each clause, in one job."""
        parts = (f"SELECT {n} AS _n, {columns} FROM {{table}} {clause}" for n, clause in enumerate(clauses))
        return grouped(values(self.sql(" UNION ALL ".join(parts))), range(len(clauses)))

    def types(self) -> dict[str, str]:
        return {field.name: field.dataType.simpleString() for field in self.sql("SELECT * FROM {table}").schema}


def grouped(rows: Sequence[Mapping[str, Any]], numbers: Sequence[int]) -> list[list[Row]]:
    """Canonical rows by the number in their column `_n`."""
    found: dict[int, list[Row]] = {number: [] for number in numbers}
    for row in rows:
        found[row["_n"]].append({name: value for name, value in row.items() if name != "_n"})
    return [canonical(part) for part in found.values()]


def values(frame: Any) -> list[Row]:
    """A data frame's rows as Python values; times with a zone are UTC, whatever the machine's is."""
    zoned = {field.name for field in frame.schema if field.dataType.typeName() == "timestamp"}
    names = [f"unix_micros(`{name}`) AS `{name}`" if name in zoned else f"`{name}`" for name in frame.columns]
    return [
        {name: _plain(value, name in zoned) for name, value in row.asDict(recursive=True).items()}
        for row in (frame.selectExpr(*names) if zoned else frame).collect()
    ]


def _plain(value: Any, zoned: bool) -> Any:
    if zoned and value is not None:
        return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=value)
    return bytes(value) if isinstance(value, bytearray) else value


def offsets(made: Sequence[Commit]) -> dict[tuple[str, int], int]:
    """The next wanted offsets after these commits."""
    return {(TOPIC, part.partition): part.next for part in flat(made)}


FOREIGN = 1_000_000
"""The offset of rows that Spark writes."""


def foreign(op: str, key: int, variant: int = 5, at: int = FOREIGN) -> ChangeBatch:
    """What Spark's own change amounts to."""
    return changes([item(op, key, variant)], at, schema=ITEMS)


def insert(key: int, variant: int = 5, at: int = FOREIGN) -> str:
    """SQL that inserts what `foreign` tells."""
    return f"INSERT INTO {{table}} {selected(key, variant, at)}"


BESIDE_OURS = commits(*(f"u{2 * n % 12}.1 u{2 * n % 6}.2 | d{2 * n % 14 + 1} c{2 * n % 8 + 1}.4" for n in range(12)))
BESIDE_THEIRS = range(901, 909, 2)
"""Commits of ours, and keys that Spark inserts meanwhile."""


@contextmanager
def inserting(table: SparkTable) -> Iterator[list[ChangeBatch]]:
    """Spark inserts its rows while the block lasts (which ends when it has); what that amounts to."""

    def insert_all() -> None:
        for n, key in enumerate(BESIDE_THEIRS):
            table.run(insert(key, 1, FOREIGN + n))

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(insert_all)
        yield [foreign("c", key, 1, FOREIGN + n) for n, key in enumerate(BESIDE_THEIRS)]
    done.result()


def selected(key: int, variant: int = 5, at: int = FOREIGN) -> str:
    """SQL that makes the row of `foreign`."""
    [made] = log_rows(foreign("c", key, variant, at))
    moment = made["at"].strftime("%Y-%m-%d %H:%M:%S.%f")
    local = made["local"].strftime("%Y-%m-%d %H:%M:%S.%f")
    stamp = made["_cdc_ts"].strftime("%Y-%m-%d %H:%M:%S.%f")
    region = '"' + made["region"] + '"' if "region" in made else "CAST(NULL AS STRING)"
    return (
        f"SELECT {key}L AS id, '{made['name']}' AS name, {region} AS region,"
        f" CAST({made['amount']} AS DECIMAL(12, 2)) AS amount, TIMESTAMP '{moment}' AS at,"
        f" TIMESTAMP_NTZ '{local}' AS local, DATE '{made['due']}' AS due, {made['ratio']!r}D AS ratio,"
        f" {made['paid']} AS paid, {made['size']} AS size, X'{made['raw'].hex()}' AS raw,"
        f" '{made['_cdc_topic']}' AS _cdc_topic, 0 AS _cdc_partition, {at}L AS _cdc_offset, 'c' AS _cdc_op,"
        f" TIMESTAMP '{stamp}' AS _cdc_ts"
    )
