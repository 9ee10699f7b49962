"""The commits of a Delta sink: each lands whole, rows and transaction identifiers together, or not at all.

A commit that meets a concurrent one raises CommitFailedError; the caller loads the table anew and begins again.

- Appends may be carried over concurrent commits by delta-rs (its conflict check), so writers of different
  partitions don't wait for each other: the check refuses a commit that carries the same transaction identifier as
  one that landed since the table was loaded, so the offsets are swapped only if they are those that were read.
- MERGE and offset-only commits are a compare-and-swap on the version: no retry inside (`max_commit_retries=0`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, QueryBuilder, Transaction, WriterProperties, write_deltalake
from deltalake.schema import Schema

from config.errors import ConfigurationError, UnsupportedChange
from sinks.delta.schema import in_shape
from sinks.delta.state import KEY_PROPERTY, MODE_PROPERTY
from sinks.reduce import Reduced
from sources.changes import CDC_OP

_ZSTD = WriterProperties(compression="ZSTD", compression_level=1)
DEFAULTS = {
    # each commit loads the table anew, which costs 0.4 ms per commit since the last checkpoint
    "delta.checkpointInterval": "20",
    # a commit every few seconds: 30 days of log files, and a week of removed files in every checkpoint, make each
    # commit dearer than the last
    "delta.logRetentionDuration": "interval 1 day",
    "delta.deletedFileRetentionDuration": "interval 1 day",
}
"""Properties of tables that are created; the user's own come before them."""


def create(
    uri: str,
    options: dict[str, str],
    columns: pa.Schema,
    transactions: list[Transaction],
    *,
    key: tuple[str, ...] | None,
    write_mode: str,
    partition_by: tuple[str, ...],
    change_data_feed: bool,
    more: Mapping[str, str],
) -> None:
    """Make the table, without rows; `transactions` tell what its columns were made of.

    Raises DeltaError if it is there already: somebody else was quicker.
    """
    properties = {
        **DEFAULTS,
        **more,
        "delta.enableChangeDataFeed": str(change_data_feed).lower(),
        MODE_PROPERTY: write_mode,
    }
    if key is not None:
        properties[KEY_PROPERTY] = json.dumps(key)
    DeltaTable.create(
        uri,
        Schema.from_arrow(columns),
        mode="error",
        partition_by=list(partition_by),
        configuration=properties,
        storage_options=options or None,
        # a retry would land the loser's CREATE as version 1 and replace the winner's table
        commit_properties=CommitProperties(max_commit_retries=0, app_transactions=transactions),
        raise_if_key_not_exists=False,
    )


def add_columns(table: DeltaTable, fields: tuple[pa.Field, ...], transactions: list[Transaction]) -> None:
    """Add nullable columns, in a commit of their own; a crash after it leaves columns that the rows will fill.
    `transactions` tell which schemas they were made of."""
    table.alter.add_columns(
        list(Schema.from_arrow(pa.schema(fields)).fields),
        commit_properties=CommitProperties(max_commit_retries=0, app_transactions=transactions),
    )


def append(table: DeltaTable, columns: pa.Schema, rows: pa.Table, transactions: list[Transaction]) -> None:
    """Add `rows` as data files (zstd level 1), carried over concurrent appends of other partitions."""
    write_deltalake(
        table,
        in_shape(rows, columns),
        mode="append",
        writer_properties=_ZSTD,
        commit_properties=CommitProperties(app_transactions=transactions),
    )


def merge(table: DeltaTable, columns: pa.Schema, reduced: Reduced, transactions: list[Transaction]) -> None:
    """Bring each changed key's row to its last change; if that changes no row, only the identifiers land."""
    assert_removable(table)
    _assert_matchable(table, reduced)
    before = table.version()
    source = in_shape(pa.concat_tables([reduced.upserts, reduced.deletes]), columns)
    (
        table.merge(
            source,
            " AND ".join(f"t.{_quoted(name)} = s.{_quoted(name)}" for name in reduced.key),
            source_alias="s",
            target_alias="t",
            writer_properties=_ZSTD,
            # only a source at hand (not streamed) tells delta-rs its ranges, by which it leaves files unread
            streamed_exec=False,
            commit_properties=CommitProperties(max_commit_retries=0, app_transactions=transactions),
        )
        .when_matched_delete(f"s.{CDC_OP} = 'd'")
        .when_matched_update_all()
        .when_not_matched_insert_all(f"s.{CDC_OP} <> 'd'")
        .execute()
    )
    if table.version() == before:
        move_offsets(table, transactions)


def overwrite(table: DeltaTable, columns: pa.Schema, reduced: Reduced, transactions: list[Transaction]) -> None:
    """Put the changed rows into the place of all rows: the source table was truncated before them."""
    assert_removable(table)
    write_deltalake(
        table,
        in_shape(reduced.upserts, columns),
        mode="overwrite",
        writer_properties=_ZSTD,
        commit_properties=CommitProperties(max_commit_retries=0, app_transactions=transactions),
    )


def assert_removable(table: DeltaTable) -> None:
    """To be asked before delta-rs takes files away. Raises ConfigurationError.

    Spark leaves letters beyond ASCII in the path of an `add` as they are; delta-rs (1.6.6) encodes them in `remove`. No
    reader takes these for one path, so the file would stay, and its rows be there twice.
    """
    if not table.metadata().partition_columns:
        return  # names of files are ASCII, values may be anything
    paths = pa.table(table.get_add_actions()).column("path").cast(pa.string())
    foreign = paths.filter(pc.invert(pc.string_is_ascii(paths)))
    if len(foreign):
        raise ConfigurationError(
            f"Delta table {table.table_uri}: the paths of {len(foreign)} files of another writer aren't ASCII, such as"
            f" {foreign[0]}: delta-rs can't take them away, and their rows would be there twice. For upserts set"
            " delta.upserts: deletion_vectors; or partition by another column"
        )


def _assert_matchable(table: DeltaTable, reduced: Reduced) -> None:
    """delta-rs (1.6.6) doesn't match NaN, and loses other rows' matches by the ranges of a source with one."""
    for name in reduced.key:
        for rows in (reduced.upserts, reduced.deletes):
            column = rows.column(name)
            if pa.types.is_floating(column.type) and pc.any(pc.is_nan(column)).as_py():
                raise UnsupportedChange(
                    f"Delta table {table.table_uri}: a key column, {name}, holds NaN, which MERGE doesn't find again;"
                    " set delta.upserts: deletion_vectors, or give the source table another primary key"
                )


def current_rows(table: DeltaTable, rows: pa.Table, columns: Sequence[str], key: Sequence[str]) -> pa.Table:
    """The table's rows with the keys of `rows`: key and columns (those that it has). Reads files whose ranges of the
    first key column's values meet those of the rows; in a table with deletion vectors those columns of all files."""
    if "deletionVectors" in (table.protocol().reader_features or ()):
        return _current_rows_beside_vectors(table, rows, columns, key)
    dataset = table.to_pyarrow_dataset()
    wanted = rows.column(key[0]).cast(dataset.schema.field(key[0]).type)
    there = [name for name in columns if name in dataset.schema.names]
    return dataset.to_table([*key, *there], filter=pc.field(key[0]).isin(wanted.combine_chunks()))


def _current_rows_beside_vectors(
    table: DeltaTable, rows: pa.Table, columns: Sequence[str], key: Sequence[str]
) -> pa.Table:
    """By delta-rs' SQL, which reads vectors; its Arrow datasets don't."""
    schema = pa.schema(table.schema().to_arrow())
    schema = pa.schema([schema.field(name) for name in (*key, *(name for name in columns if name in schema.names))])
    reader = QueryBuilder().register("t", table).execute(f"SELECT {', '.join(map(_quoted, schema.names))} FROM t")
    wanted = rows.column(key[0]).cast(schema.field(key[0]).type).combine_chunks()
    found = schema.empty_table()
    for part in reader:
        some = pa.Table.from_batches([pa.record_batch(part)]).cast(schema)  # views become texts
        found = pa.concat_tables([found, some.filter(pc.is_in(some.column(key[0]), wanted))])
    return found


def move_offsets(table: DeltaTable, transactions: list[Transaction]) -> None:
    """A commit without rows."""
    table.create_write_transaction(
        [],
        "append",
        table.schema(),
        commit_properties=CommitProperties(max_commit_retries=0, app_transactions=transactions),
    )


def compact(table: DeltaTable, filters: list[tuple[str, str, str]] | None, target_bytes: int) -> dict[str, Any]:
    """Bring small files of a partition together; returns what delta-rs counted. Other writers' appends don't matter."""
    assert_removable(table)
    metrics: dict[str, Any] = table.optimize.compact(
        partition_filters=filters, target_size=target_bytes, writer_properties=_ZSTD
    )
    return metrics


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
