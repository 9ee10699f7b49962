"""What a batch's schemas ask of a table, kind by kind and policy by policy."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from config.errors import ConfigurationError, SchemaRefused, UnsupportedChange
from config.evolution import SchemaEvolution
from sinks.base import Batch, OffsetRange
from sinks.evolution import JSON_SEEN, Evolution, evolve
from sinks.schema_changes import Before, Format
from sinks.widening import beside, holds
from sources.changes import CDC_FIELDS, CDC_UNCHANGED, UNCHANGED_FIELD, ChangeBatch, TableSchema, TopicPartition

ID, NAME, NOTE = pa.field("id", pa.int64()), pa.field("name", pa.string()), pa.field("note", pa.string())
SIZE, LONG, TEXT = pa.field("size", pa.int32()), pa.field("size", pa.int64()), pa.field("size", pa.string())
TABLE = pa.schema([ID, NAME, *CDC_FIELDS])
SIZED = pa.schema([ID, SIZE, *CDC_FIELDS])
WIDENING = Format(widens=lambda was, now: holds(now, was))


def change(
    *fields: pa.Field,
    schema_id: int | None = 1,
    topic: str = "orders",
    first: int = 0,
    key: tuple[str, ...] = ("id",),
    rows: list[dict[str, Any]] | None = None,
) -> ChangeBatch:
    values = [{"_cdc_offset": first + n, "_cdc_op": "c", **row} for n, row in enumerate(rows or [{}])]
    columns = [*fields, *(f for f in CDC_FIELDS if f.name in ("_cdc_offset", "_cdc_op", "_cdc_ts"))]
    columns += [UNCHANGED_FIELD] * any(CDC_UNCHANGED in row for row in values)
    table = pa.Table.from_pylist(values, pa.schema([f.with_nullable(True) for f in columns]))
    return ChangeBatch(topic, 0, first, first + len(values), TableSchema(pa.schema(fields), key, schema_id), table)


def plan(
    *changes: ChangeBatch,
    columns: pa.Schema = TABLE,
    highest: dict[str, int] | None = None,
    shared: bool = False,
    policies: dict[str, str] | str | None = None,
    form: Format | None = None,
    **before: Any,
) -> Evolution:
    seen = {"orders": 1} if highest is None else highest
    shape = Before("lake.orders", columns, seen, shared=shared, log=before.pop("log", False), **before)
    return evolve(shape, changes, SchemaEvolution.model_validate(policies or {}), form)


def asked(made: Evolution) -> tuple[tuple[pa.Field, ...], dict[str, int]]:
    return made.add, dict(made.schema_ids)


def rows_of(made: Evolution, *changes: ChangeBatch) -> list[dict[str, Any]]:
    ranges = {TopicPartition("orders", 0): OffsetRange(changes[0].first, changes[-1].next)}
    found = made.applied(Batch(ranges, changes)).changes
    names = [[n for n in c.rows.column_names if n not in ("_cdc_offset", "_cdc_op", "_cdc_ts")] for c in found]
    return [row for c, keep in zip(found, names, strict=True) for row in c.rows.select(keep).to_pylist()]


def test_same_schema_asks_for_nothing_and_leaves_the_changes_as_they_are() -> None:
    same = change(ID, NAME)
    made = plan(same)
    assert asked(made) == ((), {})
    assert made.applied(Batch({}, [same])).changes[0] is same


def test_new_table_takes_the_union_in_order_and_the_highest_id() -> None:
    made = plan(change(ID, NAME), change(ID, NAME, NOTE, schema_id=2), columns=pa.schema([]), highest={})
    assert asked(made) == ((ID, NAME, NOTE), {"orders": 2})


@pytest.mark.parametrize("policy", ["stop", "freeze", "quarantine"])
def test_columns_of_a_new_table_are_no_change(policy: str) -> None:
    made = plan(change(ID, NAME), columns=pa.schema(CDC_FIELDS), highest={}, policies=policy)
    assert asked(made) == ((ID, NAME), {"orders": 1})
    assert made.told == ()


def test_added_column_is_nullable_whatever_the_source_says() -> None:
    required = pa.field("note", pa.string(), nullable=False)
    assert plan(change(ID, NAME, required, schema_id=2)).add == (NOTE,)


def test_reordered_columns_are_no_change() -> None:
    made = plan(change(NAME, ID, schema_id=2), policies="stop")
    assert asked(made) == ((), {"orders": 2})


def test_older_schema_may_lack_a_column_of_a_newer_one() -> None:
    made = plan(change(ID, NAME), columns=TABLE.append(NOTE), highest={"orders": 2}, policies="stop")
    assert asked(made) == ((), {})


def test_partition_that_lags_behind_within_the_batch_is_no_drop() -> None:
    made = plan(change(ID, NAME, NOTE, schema_id=2), change(ID, NAME), policies={"drop": "stop"})
    assert asked(made) == ((NOTE,), {"orders": 2})


@pytest.mark.parametrize("columns", [TABLE, pa.schema([ID, NAME])])
def test_dropped_column_stays_or_stops_naming_it(columns: pa.Schema) -> None:
    gone = change(ID, schema_id=3, first=7)
    made = plan(gone, columns=columns)
    assert asked(made) == ((), {"orders": 3})
    assert [(t.finding.kind, t.finding.column) for t in made.told] == [("drop", "name")]
    with pytest.raises(UnsupportedChange, match=r"lake\.orders.*topic orders.*offset 7, schema id 3.*name \(string\)"):
        plan(gone, columns=columns, policies={"drop": "stop"})


def test_column_added_and_dropped_within_one_batch_is_seen() -> None:
    with pytest.raises(UnsupportedChange, match="no longer have note"):
        plan(change(ID, NAME, NOTE, schema_id=2), change(ID, NAME, schema_id=3), policies={"drop": "stop"})


def test_column_that_comes_where_one_of_its_type_goes_may_be_a_rename() -> None:
    renamed = change(ID, pa.field("title", pa.string()), schema_id=2)
    made = plan(renamed)
    assert made.add == (pa.field("title", pa.string()),)
    assert [(t.finding.kind, t.finding.column) for t in made.told] == [("rename", "name"), ("rename", "title")]
    with pytest.raises(UnsupportedChange, match=r"no longer have name \(string\).*Rename it in the table"):
        plan(renamed, policies={"rename": "stop", "drop": "lenient"})
    assert plan(renamed, policies={"rename": "freeze"}).add == ()
    other_type = change(ID, pa.field("title", pa.int32()), schema_id=2)
    assert [t.finding.kind for t in plan(other_type, policies={"rename": "stop"}).told] == ["add", "drop"]


def test_rename_is_still_one_when_an_earlier_attempt_made_the_column() -> None:
    title = pa.field("title", pa.string())
    json_record = change(ID, title, schema_id=None)
    made = plan(
        json_record, columns=TABLE.append(title), highest={"orders": 0}, born={"title"}, policies={"drop": "stop"}
    )
    assert [t.finding.kind for t in made.told] == ["rename"]


@pytest.mark.parametrize("schema_id", [1, 2, None])
def test_changed_type_stops_with_both_types_and_the_way_out(schema_id: int | None) -> None:
    with pytest.raises(
        UnsupportedChange,
        match=r"column name is string in the table and int32 in the records.*schema_evolution\.type.*name__int32",
    ):
        plan(change(ID, pa.field("name", pa.int32()), schema_id=schema_id))


def test_changed_type_goes_beside_the_old_one_and_old_records_into_it() -> None:
    old, new = change(ID, SIZE, rows=[{"size": 7}]), change(ID, TEXT, schema_id=2, first=1, rows=[{"size": "big"}])
    made = plan(old, new, columns=SIZED, policies="lenient")
    assert made.add == (pa.field("size__string", pa.string()),)
    assert rows_of(made, old, new) == [{"id": None, "size": 7}, {"id": None, "size__string": "big"}]
    later = change(ID, TEXT, NOTE, schema_id=3)
    with_both = SIZED.append(made.add[0])
    assert plan(later, columns=with_both, highest={"orders": 2}, policies={"drop": "stop"}).add == (NOTE,)
    assert plan(new, columns=with_both, policies="stop").add == ()  # the place is there: nothing to decide


def test_third_type_goes_into_a_third_column_and_the_first_one_back_home() -> None:
    columns = SIZED.append(pa.field("size__string", pa.string()))
    made = plan(change(ID, pa.field("size", pa.bool_()), schema_id=3), columns=columns, policies="lenient")
    assert made.add == (pa.field("size__bool", pa.bool_()),)
    back = change(ID, SIZE, schema_id=4, rows=[{"size": 1}])
    assert rows_of(plan(back, columns=columns, policies="lenient"), back) == [{"id": None, "size": 1}]


@pytest.mark.parametrize("taken", [True, False])
def test_column_beside_is_never_somebody_elses(taken: bool) -> None:
    other = pa.field("size__string", pa.int8())
    columns = SIZED.append(other) if taken else SIZED
    fields = (ID, TEXT) if taken else (ID, TEXT, other)
    with pytest.raises(UnsupportedChange, match="would go into size__string, but there is a column of that name"):
        plan(change(*fields, schema_id=2), columns=columns, policies="lenient")


def test_widened_column_widens_in_place_and_older_records_with_it() -> None:
    old, new = change(ID, SIZE, rows=[{"size": 7}]), change(ID, LONG, schema_id=2, first=1, rows=[{"size": 1 << 40}])
    made = plan(old, new, columns=SIZED, form=WIDENING)
    assert (made.add, made.widen) == ((), (LONG,))
    assert rows_of(made, old, new) == [{"id": None, "size": 7}, {"id": None, "size": 1 << 40}]
    assert made.applied(Batch({}, [old, new])).changes[0].schema.columns.field("size").type == pa.int64()


def test_format_that_cannot_widen_stops_or_keeps_both() -> None:
    new = change(ID, LONG, schema_id=2, rows=[{"size": 1 << 40}])
    with pytest.raises(UnsupportedChange, match=r"size is int32.*int64.*widen to `evolve`.*or `lenient`.*size__int64"):
        plan(new, columns=SIZED)
    made = plan(new, columns=SIZED, policies="lenient")
    assert made.add == (pa.field("size__int64", pa.int64()),)
    assert rows_of(made, new) == [{"id": None, "size__int64": 1 << 40}]


def test_column_that_widens_before_it_is_made_is_made_wide() -> None:
    parts = change(ID, NAME, SIZE, schema_id=2), change(ID, NAME, LONG, schema_id=3)
    assert plan(*parts).add == (LONG,)


def test_frozen_column_takes_values_that_fit_and_stops_at_the_first_that_does_not() -> None:
    small, large = (change(ID, LONG, schema_id=2, rows=[{"size": size}]) for size in (7, 1 << 40))
    assert rows_of(plan(small, columns=SIZED, policies="freeze"), small) == [{"id": None, "size": 7}]
    with pytest.raises(UnsupportedChange, match="column size has a value that doesn't fit int32"):
        rows_of(plan(large, columns=SIZED, policies="freeze"), large)


def test_frozen_table_leaves_new_columns_out() -> None:
    new = change(ID, NAME, NOTE, schema_id=2, rows=[{"name": "a", "note": "b"}])
    made = plan(new, policies="freeze")
    assert made.add == ()
    assert rows_of(made, new) == [{"id": None, "name": "a"}]


def test_narrower_type_keeps_the_tables_and_may_stop() -> None:
    wide = pa.schema([ID, LONG, *CDC_FIELDS])
    new = change(ID, SIZE, schema_id=2, rows=[{"size": 7}])
    made = plan(new, columns=wide)
    assert asked(made) == ((), {"orders": 2})
    assert made.applied(Batch({}, [new])).changes[0].rows.column("size").type == pa.int64()
    with pytest.raises(UnsupportedChange, match="keeps its wider type"):
        plan(new, columns=wide, policies={"narrow": "stop"})
    lagging = change(ID, SIZE)  # not new: a record from before the column was widened
    assert plan(lagging, columns=wide, highest={"orders": 2}, policies={"narrow": "stop"}).told == ()


@pytest.mark.parametrize("kind", ["add", "type", "drop"])
def test_set_aside_are_all_records_of_the_schema_and_no_others(kind: str) -> None:
    fields = {"add": (ID, NAME, NOTE), "type": (ID, pa.field("name", pa.int8())), "drop": (ID,)}[kind]
    parts = change(ID, NAME, rows=[{}, {}]), change(*fields, schema_id=2, first=2, rows=[{}, {}])
    with pytest.raises(SchemaRefused, match=rf"offset 2, schema id 2.*schema_evolution\.{kind} is quarantine") as error:
        plan(*parts, change(ID, NAME, first=4), policies={kind: "quarantine"})
    assert list(error.value.records) == [("orders", 0, 2), ("orders", 0, 3)]


def test_required_column_becomes_optional_where_records_may_lack_it() -> None:
    required = pa.schema([ID, NAME.with_nullable(False), *CDC_FIELDS])
    assert plan(change(ID, NAME, schema_id=2), columns=required).relax == ("name",)
    assert plan(change(ID, schema_id=2), columns=required).relax == ("name",)
    assert plan(change(ID, NAME.with_nullable(False)), columns=required).relax == ()
    assert plan(change(ID, NAME.with_nullable(False)), columns=required, log=True).relax == ("name",)
    for policy in ("stop", "freeze"):
        with pytest.raises(UnsupportedChange, match="name is required in the table"):
            plan(change(ID, NAME), columns=required, policies={"nullability": policy})


def test_other_key_stops_or_is_set_aside_and_its_order_does_not_matter() -> None:
    both = change(ID, NAME, key=("name", "id"))
    assert plan(both, key=("id", "name")).applied(Batch({}, [both])).changes[0].schema.key == ("id", "name")
    with pytest.raises(UnsupportedChange, match=r"primary key is \(name, id\), but the table is written by \(id\)"):
        plan(both, key=("id",))
    with pytest.raises(SchemaRefused, match="key is quarantine"):
        plan(both, key=("id",), policies={"key": "quarantine"})
    assert plan(both, log=True).told == ()


@pytest.mark.parametrize("partitions", [{}, {"orders": 2}, {"orders": 1}])
def test_key_of_another_type_is_another_key_where_partitions_could_mix(partitions: dict[str, int]) -> None:
    narrow_id = pa.schema([pa.field("id", pa.int32()), NAME, *CDC_FIELDS])
    wide = change(ID, NAME, schema_id=2)
    if partitions == {"orders": 1}:
        assert plan(wide, columns=narrow_id, key=("id",), form=WIDENING, partitions=partitions).widen == (ID,)
        with pytest.raises(UnsupportedChange):
            plan(wide, columns=narrow_id, key=("id",), form=WIDENING, partitions=partitions, policies="lenient")
        return
    with pytest.raises(UnsupportedChange, match=r"id is int32 in the table and int64 in the records.*new snapshot"):
        plan(wide, columns=narrow_id, key=("id",), form=WIDENING, partitions=partitions)


def test_types_are_compared_as_the_format_stores_them() -> None:
    time = pa.field("name", pa.time64("us"))
    text = Format(lambda kind: pa.string() if pa.types.is_time(kind) else kind)
    assert plan(change(ID, time), form=text).add == ()


def test_json_record_that_lacks_a_column_is_a_drop() -> None:
    with pytest.raises(UnsupportedChange, match="name"):
        plan(change(ID, schema_id=None), highest={"orders": JSON_SEEN}, policies={"drop": "stop"})


def test_json_column_added_within_the_batch_may_be_missing_before_it() -> None:
    parts = change(ID, NAME, schema_id=None), change(ID, NAME, NOTE, schema_id=None)
    made = plan(*parts, highest={"orders": JSON_SEEN}, policies={"drop": "stop"})
    assert asked(made) == ((NOTE,), {})
    again = plan(
        *parts, columns=TABLE.append(NOTE), highest={"orders": JSON_SEEN}, born={"note"}, policies={"drop": "stop"}
    )
    assert asked(again) == ((), {})


def test_first_json_record_leaves_its_mark() -> None:
    assert plan(change(ID, NAME, schema_id=None), highest={}).schema_ids == {"orders": JSON_SEEN}


def test_foreign_table_is_refused_with_all_columns_that_do_not_fit() -> None:
    with pytest.raises(
        ConfigurationError, match=r"id \(int64 in the table, string in the records\), name \(string, not"
    ):
        plan(change(pa.field("id", pa.string()), NOTE), highest={})


def test_foreign_table_with_a_wider_column_fits() -> None:
    assert plan(change(pa.field("id", pa.int32()), NAME), highest={}).add == ()


def test_shared_table_unites_columns_by_name_whatever_the_policy() -> None:
    invoice = change(ID, pa.field("payer", pa.string()), topic="invoices", schema_id=9)
    made = plan(invoice, change(ID, NAME), shared=True, policies={"add": "stop"})
    assert asked(made) == ((pa.field("payer", pa.string()),), {"invoices": 9})
    with pytest.raises(UnsupportedChange, match="records have note"):
        plan(invoice, change(ID, NAME, NOTE, schema_id=2), shared=True, policies={"add": "stop"})


def test_shared_table_refuses_a_topic_whose_column_has_another_type() -> None:
    with pytest.raises(ConfigurationError, match=r"topic invoices.*name"):
        plan(change(ID, pa.field("name", pa.int32()), topic="invoices"), shared=True)


def test_source_column_with_a_reserved_name_stops() -> None:
    with pytest.raises(UnsupportedChange, match="_cdc_op"):
        evolve(
            Before("lake.orders", TABLE, {"orders": 1}, shared=False, log=False),
            [ChangeBatch("orders", 0, 0, 1, TableSchema(pa.schema([ID, CDC_FIELDS[3]]), ("id",), 2), pa.table({}))],
            SchemaEvolution(),
        )


def test_column_that_differs_by_case_only_stops() -> None:
    with pytest.raises(UnsupportedChange, match="Name differs from the table's column name by case only"):
        plan(change(ID, pa.field("Name", pa.string()), schema_id=2))


def test_type_that_the_format_lacks_is_named_with_its_column() -> None:
    def refuse(kind: pa.DataType) -> pa.DataType:
        raise UnsupportedChange(f"no {kind} here")

    with pytest.raises(UnsupportedChange, match=r"topic orders partition 0 .*column id: no int64 here"):
        plan(change(ID), columns=pa.schema([]), highest={}, form=Format(refuse))


def test_value_that_was_not_sent_stays_at_whichever_type_it_is() -> None:
    columns = SIZED.append(pa.field("size__string", pa.string()))
    unsent = change(ID, TEXT, schema_id=2, rows=[{"id": 1, CDC_UNCHANGED: ["size"]}, {"id": 2, "size": "x"}])
    rows = rows_of(plan(unsent, columns=columns, policies="lenient"), unsent)
    assert [sorted(row[CDC_UNCHANGED] or []) for row in rows] == [["size", "size__string"], []]
    assert rows[0]["size"] is None
    frozen = change(ID, NAME, NOTE, schema_id=2, rows=[{CDC_UNCHANGED: ["note"]}, {CDC_UNCHANGED: ["note", "name"]}])
    assert [row[CDC_UNCHANGED] for row in rows_of(plan(frozen, policies="freeze"), frozen)] == [None, ["name"]]


def test_name_of_a_column_beside_is_plain_and_tells_the_type() -> None:
    kinds = [pa.large_string(), pa.decimal128(12, 2), pa.timestamp("us", "UTC"), pa.list_(pa.int32())]
    assert [beside("v", kind) for kind in kinds] == [
        "v__string",
        "v__decimal128_12_2",
        "v__timestamp_us_tz_utc",
        "v__list_item_int32",
    ]
