"""What a batch's schemas ask of a table: columns are added, everything else stops by name."""

from __future__ import annotations

import pyarrow as pa
import pytest

from config.errors import ConfigurationError, UnsupportedChange
from sinks.evolution import JSON_SEEN, Evolution, evolve
from sources.changes import CDC_FIELDS, ChangeBatch, TableSchema

ID, NAME, NOTE = pa.field("id", pa.int64()), pa.field("name", pa.string()), pa.field("note", pa.string())
TABLE = pa.schema([ID, NAME, *CDC_FIELDS])


def change(*fields: pa.Field, schema_id: int | None = 1, topic: str = "orders", first: int = 0) -> ChangeBatch:
    return ChangeBatch(topic, 0, first, first + 1, TableSchema(pa.schema(fields), ("id",), schema_id), pa.table({}))


def plan(
    *changes: ChangeBatch, columns: pa.Schema = TABLE, highest: dict[str, int] | None = None, shared: bool = False
) -> Evolution:
    return evolve(
        "lake.orders", columns, {"orders": 1} if highest is None else highest, changes, shared=shared, log=False
    )


def test_same_schema_asks_for_nothing() -> None:
    assert plan(change(ID, NAME)) == Evolution((), {})


def test_new_table_takes_the_union_in_order_and_the_highest_id() -> None:
    made = plan(change(ID, NAME), change(ID, NAME, NOTE, schema_id=2), columns=pa.schema([]), highest={})
    assert made == Evolution((ID, NAME, NOTE), {"orders": 2})


def test_added_column_is_nullable_whatever_the_source_says() -> None:
    required = pa.field("note", pa.string(), nullable=False)
    assert plan(change(ID, NAME, required, schema_id=2)).add == (NOTE,)


def test_older_schema_may_lack_a_column_of_a_newer_one() -> None:
    columns = TABLE.append(NOTE)
    assert plan(change(ID, NAME), columns=columns, highest={"orders": 2}) == Evolution((), {})


def test_partition_that_lags_behind_within_the_batch_is_no_drop() -> None:
    made = plan(change(ID, NAME, NOTE, schema_id=2), change(ID, NAME))
    assert made == Evolution((NOTE,), {"orders": 2})


@pytest.mark.parametrize("columns", [TABLE, pa.schema([ID, NAME])])
def test_new_schema_without_a_column_stops_naming_it(columns: pa.Schema) -> None:
    with pytest.raises(UnsupportedChange, match=r"lake\.orders.*topic orders.*offset 7, schema id 3.*name \(string\)"):
        plan(change(ID, schema_id=3, first=7), columns=columns)


def test_column_added_and_dropped_within_one_batch_stops() -> None:
    with pytest.raises(UnsupportedChange, match="note"):
        plan(change(ID, NAME, NOTE, schema_id=2), change(ID, NAME, schema_id=3))


def test_renamed_column_stops_for_the_old_name() -> None:
    with pytest.raises(UnsupportedChange, match=r"no longer have name \(string\)"):
        plan(change(ID, pa.field("title", pa.string()), schema_id=2))


@pytest.mark.parametrize("schema_id", [1, 2, None])
def test_changed_type_stops_with_both_types(schema_id: int | None) -> None:
    with pytest.raises(UnsupportedChange, match="column name is string in the table and int32 in the records"):
        plan(change(ID, pa.field("name", pa.int32()), schema_id=schema_id))


def test_type_that_changes_within_one_batch_stops() -> None:
    with pytest.raises(UnsupportedChange, match="note"):
        plan(change(ID, NAME, NOTE, schema_id=2), change(ID, NAME, pa.field("note", pa.int8()), schema_id=3))


def test_types_are_compared_as_the_format_stores_them() -> None:
    time = pa.field("name", pa.time64("us"))
    text = lambda kind: pa.string() if pa.types.is_time(kind) else kind  # noqa: E731 -- a one-line stand-in
    assert evolve("t", TABLE, {"orders": 1}, [change(ID, time)], shared=False, log=False, stored=text).add == ()


def test_json_record_that_lacks_a_column_stops() -> None:
    with pytest.raises(UnsupportedChange, match="name"):
        plan(change(ID, schema_id=None), highest={"orders": JSON_SEEN})


def test_json_column_added_within_the_batch_may_be_missing_before_it() -> None:
    made = plan(change(ID, NAME, schema_id=None), change(ID, NAME, NOTE, schema_id=None), highest={"orders": JSON_SEEN})
    assert made == Evolution((NOTE,), {})


def test_first_json_record_leaves_its_mark() -> None:
    assert plan(change(ID, NAME, schema_id=None), highest={}).schema_ids == {"orders": JSON_SEEN}


def test_foreign_table_is_refused_with_all_columns_that_do_not_fit() -> None:
    with pytest.raises(
        ConfigurationError, match=r"id \(int64 in the table, string in the records\), name \(string, not"
    ):
        plan(change(pa.field("id", pa.string()), NOTE), highest={})


def test_shared_table_unites_columns_by_name() -> None:
    invoice = change(ID, pa.field("payer", pa.string()), topic="invoices", schema_id=9)
    made = plan(invoice, change(ID, NAME), shared=True)
    assert made == Evolution((pa.field("payer", pa.string()),), {"invoices": 9})


def test_shared_table_refuses_a_topic_whose_column_has_another_type() -> None:
    with pytest.raises(ConfigurationError, match=r"topic invoices.*name"):
        plan(change(ID, pa.field("name", pa.int32()), topic="invoices"), shared=True)


def test_source_column_with_a_reserved_name_stops() -> None:
    with pytest.raises(UnsupportedChange, match="_cdc_op"):
        plan(change(ID, NAME, pa.field("_cdc_op", pa.string()), schema_id=2))


def test_type_that_the_format_lacks_is_named_with_its_column() -> None:
    def refuse(kind: pa.DataType) -> pa.DataType:
        raise UnsupportedChange(f"no {kind} here")

    with pytest.raises(UnsupportedChange, match=r"topic orders partition 0 .*column id: no int64 here"):
        evolve("lake.orders", pa.schema([]), {}, [change(ID)], shared=False, log=False, stored=refuse)
