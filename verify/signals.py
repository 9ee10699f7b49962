"""Having rows read from the source again, by Debezium.

A row in the signalling table (`source.signal_table`) asks the connector for an incremental snapshot of a table under
the condition that it is one of some keys. The rows come through Kafka like every change, in order with those that
happen meanwhile, and all sinks of the pipeline take them in. `cdc verify --repair` asks so for what differs
(`verify.repair`), and the worker for rows of which it lacks values (`verify.rereads`).
"""

from __future__ import annotations

import json
from uuid import uuid4

import pyarrow as pa

from verify.source import SourceReader, SourceTable
from verify.sql_keys import in_parts

ROWS_AT_ONCE = 20_000
"""Rows of a table that are asked for at most: the connector keeps what it is asked for in its offset, a record that
Kafka limits to a megabyte."""


def conditions(source: SourceReader, table: SourceTable, keys: pa.Table) -> list[str]:
    """SQL conditions that hold for the keys (at the sink's types), in key order."""
    return [source.key_filter(table, part) for part in in_parts(keys, table.key)]


async def ask_for(source: SourceReader, signal_table: str, table: str, condition: str) -> None:
    """Have the rows of `schema.table` sent again for which the condition holds. When this returns the source has the
    request in its log, so the connector reads it even if it isn't there just now."""
    data = {
        "data-collections": [table],
        "type": "incremental",
        "additional-conditions": [{"data-collection": table, "filter": condition}],
    }
    await source.signal(signal_table, [(f"lakeward-{uuid4().hex}", "execute-snapshot", json.dumps(data))])


def whole_table(table: str) -> str:
    """For people: the data of a signal that has all rows of `schema.table` read again."""
    return json.dumps({"data-collections": [table], "type": "incremental"})
