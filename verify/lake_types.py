"""The types at which both sides are compared: those of the lake's table, in their plain form."""

from __future__ import annotations

import pyarrow as pa


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type as which both sides are compared: views and large variants as their plain form."""
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind) or pa.types.is_fixed_size_binary(kind):
        return pa.binary()
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if is_list(kind):
        return pa.list_(pa.field("element", plain_type(kind.value_type)))
    if pa.types.is_map(kind):
        return pa.map_(plain_type(kind.key_type), plain_type(kind.item_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, plain_type(field.type)) for field in kind])
    return kind


def plain_schema(columns: pa.Schema) -> pa.Schema:
    """`columns` at their plain types, without metadata; all nullable."""
    return pa.schema([pa.field(field.name, plain_type(field.type)) for field in columns])


def is_list(kind: pa.DataType) -> bool:
    """Whether it is one of Arrow's kinds of list."""
    return any(
        test(kind)
        for test in (pa.types.is_list, pa.types.is_large_list, pa.types.is_list_view, pa.types.is_fixed_size_list)
    )


def holds(kind: pa.DataType, stored: pa.DataType) -> bool:
    """Whether a table's plain type `kind` is what a sink makes of the type that the decoder gives a column: the same,
    but Delta keeps times of day as text."""
    if pa.types.is_time(stored):
        return bool(kind == stored or pa.types.is_string(kind))
    if is_list(stored):
        return pa.types.is_list(kind) and holds(kind.value_type, stored.value_type)
    return bool(kind == plain_type(stored))
