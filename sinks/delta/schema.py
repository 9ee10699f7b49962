"""How Arrow types of the sources are kept in a Delta table, and rows brought into that shape.

Delta has no time of day: it is kept as text, `HH:MM:SS.ffffff` with all digits of its precision, exact and sortable.
It has no unsigned integers: they widen to the next type that holds them all. A timestamp with zone is a UTC instant
at microseconds; one without is `timestamp_ntz` (a table feature that needs readers of protocol 3). Everything else
is kept as it is; what can't be kept without loss is refused.
"""

from __future__ import annotations

import pyarrow as pa

from config.errors import UnsupportedChange
from sources.changes import CDC_FIELDS

_WIDER = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
}
_AS_IS = frozenset(
    {
        pa.bool_(),
        pa.int8(),
        pa.int16(),
        pa.int32(),
        pa.int64(),
        pa.float32(),
        pa.float64(),
        pa.string(),
        pa.binary(),
        pa.date32(),
    }
)


def stored(data_type: pa.DataType) -> pa.DataType:
    """The type at which a Delta table keeps `data_type`; raises UnsupportedChange if there is none without loss."""
    if data_type in _AS_IS:
        return data_type
    if data_type in _WIDER:
        return _WIDER[data_type]
    if pa.types.is_time(data_type) or pa.types.is_large_string(data_type) or pa.types.is_string_view(data_type):
        return pa.string()
    if pa.types.is_large_binary(data_type) or pa.types.is_fixed_size_binary(data_type):
        return pa.binary()
    if pa.types.is_decimal(data_type) and data_type.precision <= 38:
        return pa.decimal128(data_type.precision, data_type.scale)
    if pa.types.is_timestamp(data_type) and data_type.unit != "ns":
        return pa.timestamp("us", tz="UTC" if data_type.tz else None)
    if pa.types.is_list(data_type) or pa.types.is_large_list(data_type):
        return pa.list_(pa.field("element", stored(data_type.value_type)))
    if pa.types.is_struct(data_type):
        return pa.struct([pa.field(field.name, stored(field.type)) for field in data_type])
    if pa.types.is_map(data_type):
        return pa.map_(stored(data_type.key_type), stored(data_type.item_type))
    raise UnsupportedChange(
        f"a Delta table can't keep the type {data_type} without loss; leave the column out with the connector's"
        " column.exclude.list, or convert it at the source"
    )


def table_columns(fields: tuple[pa.Field, ...]) -> pa.Schema:
    """The columns of a new table: the source's, then the `CDC_FIELDS`; all nullable, since a delete's row in a change
    log has its key alone, and since delta-rs' MERGE checks NOT NULL on rows of the join that it doesn't write."""
    return pa.schema([field.with_nullable(True) for field in (*fields, *CDC_FIELDS)])


def in_shape(rows: pa.Table, columns: pa.Schema) -> pa.Table:
    """`rows` with the table's columns, in their order and at their types; what the rows lack is null."""
    return pa.table(
        [
            rows.column(field.name).cast(field.type)
            if field.name in rows.column_names
            else pa.nulls(rows.num_rows, field.type)
            for field in columns
        ],
        schema=columns,
    )
