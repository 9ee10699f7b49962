"""JSON payloads of one schema to raw columns, by Arrow's native reader with the schema's types declared.

The reader is strict: a value of another type, a number that doesn't fit, a name that comes twice fail the batch. Then
the bad records are found by halving, and the others are read together again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from sources.debezium.avro import Want
from sources.debezium.connect_types import ConnectType
from sources.debezium.convert import binary
from sources.debezium.frames import Frames
from sources.debezium.json_maps import entry_type, has_maps, with_entries
from sources.debezium.raw import Lists, Nothing, Numbers, Raw, Spans, Structs, spans_of, validity
from sources.debezium.schemaless import unknown_columns

_ARROW = {
    "int8": pa.int32(),
    "int16": pa.int32(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "boolean": pa.bool_(),
    "string": pa.string(),
    "bytes": pa.string(),  # base64
}


class JsonReader:
    """Payloads of one schema, cut out of their records by `JsonSchemas`. `whole`: they are whole records, which came
    without schema, so that fields are looked for that the type doesn't have."""

    def __init__(self, type_: ConnectType, *, whole: bool = False) -> None:
        self.type = type_
        self._whole = whole
        self._unexpected = "infer" if whole else "ignore"
        self._has_maps = has_maps(type_)
        names = "|".join(sorted(re.escape(name) for name in _float_fields(type_)))
        # a float's value, or an array of floats: nothing but numbers, null and the special texts is in its brackets
        pattern = f'"(?:{names})":(?:"(?:NaN|-?Infinity)"|\\[[\\[\\],0-9eE+.\\-"nulNaIfity]*\\])'
        self._specials = re.compile(pattern.encode()) if names else None

    def read(
        self, frames: Frames, rows: npt.NDArray[np.intp], want: Want
    ) -> tuple[dict[str, Raw], dict[int, str], int]:
        """See Reader. Records that are read alone, to find the bad ones, are counted, and those of a type with maps."""
        text, ends = self._lines(frames, rows)
        if self._whole:
            want = True  # what isn't declared is inferred, to be seen at all
        schema = pa.schema(_wanted(self.type, want))
        faults: dict[int, str] = {}
        table = self._parse(text, schema, len(rows))
        alone = len(rows) if self._has_maps else 0
        if isinstance(table, str):
            alone += self._find(text, ends, schema, 0, len(rows), table, faults)
            for row in faults:
                text[ends[row] : ends[row + 1] - 1] = ord(" ")
                text[ends[row] : ends[row] + 2] = np.frombuffer(b"{}", np.uint8)
            table = self._parse(text, schema, len(rows))
            assert not isinstance(table, str), table
        if self._whole:
            self._look_for_unknown(table)
        columns: dict[str, Raw] = {}
        for name in schema.names:
            child = self.type.child(name)
            assert child is not None
            wanted = True if isinstance(want, bool) else want[name]
            columns[name] = _raw(table.column(name).combine_chunks(), child, wanted, faults)
        return columns, faults, alone

    def _lines(self, frames: Frames, rows: npt.NDArray[np.intp]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
        """The payloads, a line each, and where the lines end (with a 0 before)."""
        data, start, end = frames.window(rows, 16)
        # one byte more than the payload: the record's last brace, which becomes the line's end
        lines = binary(Spans(data, start, end - start + (not self._whole)), lambda _mask, _reason: None)
        if self._has_maps:
            payloads = lines.to_pylist() if self._whole else [line[:-1] for line in lines.to_pylist()]
            lines = pa.array([with_entries(payload, self.type) + b"\n" for payload in payloads], pa.binary())
        elif self._whole:
            lines = pc.binary_join_element_wise(lines, b"", b"\n")
        _, offsets, body = lines.buffers()
        ends = np.frombuffer(offsets, np.int32, len(rows) + 1)
        text = np.frombuffer(body, np.uint8).copy()
        text[ends[1:] - 1] = ord("\n")
        return text, ends

    def _look_for_unknown(self, table: pa.Table) -> None:
        """Raises UnsupportedChange if the rows have a column (or a column has a part), or a key has a column, that the
        type doesn't have."""
        row = self.type.child("after")
        names = ("before", "after") if row is not None else table.schema.names
        for name in names:
            known = row or self.type.child(name)
            unknown = [name] if known is None else list(_unknown(table.schema.field(name).type, known))
            if unknown:
                of = row or self.type
                raise unknown_columns(of.name or "", unknown, [column for column, _ in of.fields])

    def _parse(self, text: npt.NDArray[np.uint8], schema: pa.Schema, rows: int) -> pa.Table | str:
        """The lines as a table of `rows` rows, or what is wrong with them."""
        body = text.tobytes()
        if self._specials is not None and (b'"NaN"' in body or b'Infinity"' in body):
            # JsonConverter writes these floats as texts; Arrow's reader takes them bare
            body = self._specials.sub(lambda found: _SPECIAL.sub(rb"\1", found[0]), body)
        try:
            table = pj.read_json(
                pa.BufferReader(body),
                read_options=pj.ReadOptions(use_threads=False, block_size=len(body) + 1),
                parse_options=pj.ParseOptions(
                    explicit_schema=schema, unexpected_field_behavior="infer" if self._whole else "ignore"
                ),
            )
            table.validate(full=True)
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            return str(error)
        return table if table.num_rows == rows else f"{table.num_rows} values instead of {rows}"

    def _find(
        self,
        text: npt.NDArray[np.uint8],
        ends: npt.NDArray[np.int32],
        schema: pa.Schema,
        first: int,
        end: int,
        reason: str,
        faults: dict[int, str],
    ) -> int:
        """Note the bad ones of the records [first, end), which fail together; how many were read alone."""
        if end - first == 1:
            faults[first] = f"the JSON doesn't fit its schema: {reason}"
            return 1
        middle = (first + end) // 2
        alone = 0
        for low, high in ((first, middle), (middle, end)):
            part = self._parse(text[ends[low] : ends[high]], schema, high - low)
            if isinstance(part, str):
                alone += self._find(text, ends, schema, low, high, part, faults)
            elif high - low == 1:
                alone += 1
        return alone


_SPECIAL = re.compile(rb'"(NaN|-?Infinity)"(?!:)')


def _float_fields(type_: ConnectType) -> set[str]:
    """The names of all fields that hold floats or arrays of floats."""
    found = {name for name, child in type_.fields if _innermost(child).kind in ("float32", "float64")}
    return found.union(*(_float_fields(child) for _, child in type_.fields))


def _unknown(read: pa.DataType, type_: ConnectType) -> Iterator[str]:
    """The fields that were inferred, as they aren't those of the type."""
    if pa.types.is_struct(read):
        if type_.kind == "map":
            type_ = entry_type(type_)
        for i in range(read.num_fields):
            child = type_.child(read.field(i).name)
            if child is None:
                yield read.field(i).name
            else:
                yield from _unknown(read.field(i).type, child)
    elif pa.types.is_list(read):
        items = type_ if type_.kind == "map" else type_.items
        assert items is not None
        yield from _unknown(read.value_type, items)


def _innermost(type_: ConnectType) -> ConnectType:
    return _innermost(type_.items) if type_.kind == "array" and type_.items else type_


def _wanted(struct: ConnectType, want: Want) -> list[pa.Field]:
    """The wanted fields as the reader is told to read them."""
    fields = []
    for name, child in struct.fields:
        wanted = want if isinstance(want, bool) else want.get(name, False)
        if wanted:
            fields.append(pa.field(name, _as_read(child, wanted)))
    return fields


def _as_read(type_: ConnectType, want: Want) -> pa.DataType:
    if type_.kind == "struct":
        return pa.struct(_wanted(type_, want))
    if type_.kind == "array" and type_.items is not None:
        return pa.list_(_as_read(type_.items, True))
    if type_.kind == "map":
        return pa.list_(_as_read(entry_type(type_), True))
    return _ARROW[type_.kind]


def _raw(array: pa.Array, type_: ConnectType, want: Want, faults: dict[int, str]) -> Raw:
    """An Arrow array of the reader as a raw column; texts that are no base64 are noted in `faults`."""
    valid = validity(array)
    if type_.kind == "struct":
        children: dict[str, Raw] = {}
        for i in range(array.type.num_fields):
            name = array.type.field(i).name
            child = type_.child(name)
            if child is None:
                continue  # inferred, and looked at already
            wanted = want[name] if isinstance(want, Mapping) else True
            children[name] = _raw(array.field(i), child, wanted, faults)
        return Structs(children, len(array), valid)
    if type_.kind in ("array", "map"):
        item_type = entry_type(type_) if type_.kind == "map" else type_.items
        assert item_type is not None
        counts = np.diff(np.asarray(array.offsets)).astype(np.int64)
        owners = np.repeat(np.arange(len(array)), counts)
        item_faults: dict[int, str] = {}
        items = _raw(array.flatten(), item_type, True, item_faults)
        for item, reason in item_faults.items():
            faults.setdefault(int(owners[item]), reason)
        return Lists(counts, items, valid)
    if type_.kind == "bytes":
        decoded = (
            pl.Series(values=array).cast(pl.String).str.decode("base64", strict=False).to_arrow().cast(pa.binary())
        )
        if decoded.null_count > array.null_count:
            wrong = decoded.is_null().to_numpy(zero_copy_only=False) & array.is_valid().to_numpy(zero_copy_only=False)
            for row in np.flatnonzero(wrong).tolist():
                faults.setdefault(row, "a value that should be base64 is none")
        return spans_of(decoded)
    if type_.kind == "string":
        return spans_of(array)
    if array.null_count == len(array):
        return Nothing(len(array))
    return Numbers(array.fill_null(False if type_.kind == "boolean" else 0).to_numpy(zero_copy_only=False), valid)
