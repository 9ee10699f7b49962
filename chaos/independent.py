"""The tables read by DuckDB and compared with plain SQL at the source: no code of ours in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pyarrow as pa

from chaos.changes import TABLES
from chaos.crew import Crew
from config.pipeline import DeltaConfig, IcebergConfig
from demo.connections import rows_of
from sinks.factory import TablePlan, plan_tables
from sinks.iceberg.catalog import connect
from stack.manager import Endpoints
from stack.readers import Store, connect_duckdb

KEYS = {"accounts": ("id",), "items": ("order_no", "line")}
Rows = dict[tuple[Any, ...], dict[str, Any]]


def differences(kind: str, crew: Crew, endpoints: Endpoints) -> Iterator[str]:
    """What is lost, doubled or different, in words; nothing if all is right."""
    for table in TABLES:
        key = KEYS[table]
        source = {tuple(row[name] for name in key): row for row in rows_of(endpoints[kind], f"SELECT * FROM {table}")}
        for plan in plan_tables(crew.settings.pipeline):
            if not plan.target.topics[0].endswith(f".{table}"):
                continue
            found = read(plan, endpoints)
            sink_id = plan.target.sink_id
            if plan.settings.write_mode == "append":
                places = Counter((row["_cdc_partition"], row["_cdc_offset"]) for row in found)
                doubled = [place for place, times in places.items() if times > 1]
                if doubled:
                    yield f"{sink_id} {table}: {len(doubled)} records are there more than once: {doubled[:5]}"
                found = folded(found, key)
            yield from (f"{sink_id} {table}: {text}" for text in compare(source, found, key))


def read(plan: TablePlan, endpoints: Endpoints) -> list[dict[str, Any]]:
    """All rows of a sink's table."""
    s3 = endpoints["s3"]
    store = Store(s3.url, str(s3.user), str(s3.password), s3.more["region"])
    in_delta = isinstance(plan.settings, DeltaConfig)
    if isinstance(plan.settings, IcebergConfig):
        loaded = connect(plan.settings).load_table(plan.target.name)
        scan = f"iceberg_scan('{loaded.metadata_location}')"
    else:
        scan = f"delta_scan('{plan.target.name}')"
    with closing(connect_duckdb(store, delta=in_delta)) as connection:
        rows: pa.Table = connection.execute(f"SELECT * FROM {scan}").to_arrow_table()
    found: list[dict[str, Any]] = rows.to_pylist()
    return found


def folded(log: list[dict[str, Any]], key: tuple[str, ...]) -> list[dict[str, Any]]:
    """The rows that a change log leaves; unsent values are those of the change before."""
    rows: Rows = {}
    for change in sorted(log, key=lambda row: (row["_cdc_partition"], row["_cdc_offset"])):
        at = tuple(change[name] for name in key)
        if change["_cdc_op"] == "d":
            rows.pop(at, None)
            continue
        kept = {name: rows[at][name] for name in change.get("_cdc_unchanged") or ()}
        rows[at] = change | kept
    return list(rows.values())


def compare(source: Rows, found: list[dict[str, Any]], key: tuple[str, ...]) -> Iterator[str]:
    """Row by row, in the columns that the source has."""
    times = Counter(tuple(row[name] for name in key) for row in found)
    rows = {tuple(row[name] for name in key): row for row in found}
    doubled = [at for at, n in times.items() if n > 1]
    different = [at for at in source.keys() & rows.keys() if any(rows[at].get(n) != v for n, v in source[at].items())]
    for what, which in (
        ("lost", source.keys() - rows.keys()),
        ("extra", rows.keys() - source.keys()),
        ("doubled", doubled),
        ("different", different),
    ):
        if which:
            yield f"{len(which)} rows {what}: {sorted(which)[:5]}"
