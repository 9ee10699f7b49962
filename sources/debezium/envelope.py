"""What Debezium's envelope means: rows of a `ChangeBatch` from raw columns, whichever wire format they came in.

op          row
c r u       the columns of `after`
d           the key columns, from the Kafka key (a `before` under REPLICA IDENTITY DEFAULT is made up);
            without a key all columns, from `before`
m           none: a logical message, counted as skipped
t           nulls: the source table was emptied
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from config.errors import UnsupportedChange
from sources.changes import CDC_NAMES, CDC_OFFSET, CDC_OP, CDC_TS, UNCHANGED_FIELD, TableSchema
from sources.debezium.connect_types import ConnectType
from sources.debezium.convert import bitmap, primitive
from sources.debezium.policies import DEFAULT, Rules, column_type
from sources.debezium.raw import Lists, Mask, Nothing, Numbers, Raw, Spans, Structs, gather, scatter
from sources.debezium.types import LakeType

Rows = npt.NDArray[np.intp]
Faults = dict[int, str]

_ZERO_DATES = ("io.debezium.connector.mariadb", "io.debezium.connector.mysql")
_OP_COLUMN = pa.field(CDC_OP, pa.string(), nullable=False)
_TS_TYPE = pa.timestamp("us", tz="UTC")
_C, _R, _U, _D, _M, _T = (ord(c) for c in "crudmt")

SKIPPED = {
    "io.debezium.connector.common.Heartbeat": "heartbeat",
    "io.debezium.connector.common.TransactionMetadataValue": "transaction",
    "io.debezium.connector.postgresql.MessageValue": "message",
}
"""Records that are sound and carry no row, by the name of their value's schema."""


@dataclass(frozen=True)
class Table:
    """How one value schema's rows are stored. `before_too`: a delete takes its columns from `before` (no key).
    `placeholder`: what stands for a value that wasn't sent, if the source does such a thing."""

    schema: TableSchema
    types: tuple[LakeType, ...]
    key_types: tuple[LakeType, ...]
    placeholder: bytes | None

    @property
    def before_too(self) -> bool:
        return not self.schema.key

    @property
    def want(self) -> Mapping[str, Any]:
        """What of the envelope has to be read."""
        return {"op": True, "after": True, "before": self.before_too, "source": {"ts_us": True, "ts_ms": True}}


def is_envelope(value: ConnectType) -> bool:
    """Whether a value's schema is that of a change event."""
    after, op = value.child("after"), value.child("op")
    return after is not None and after.kind == "struct" and op is not None and value.child("source") is not None


def table_of(
    value: ConnectType, key: ConnectType | None, schema_id: int | None, topic: str, rules: Rules | None,
    placeholder: bytes,
) -> Table:  # fmt: skip
    """The table that an envelope's schema and the schema of its Kafka key describe, under the pipeline's rules for its
    columns.

    Raises UnsupportedChange for columns that can't be stored, and for a key that isn't made of columns.
    """
    after, source = value.child("after"), value.child("source")
    assert after is not None
    assert source is not None
    rules = rules or {}
    names = tuple(name for name, _ in key.fields) if key is not None else ()
    has_zero_dates = (source.name or "").startswith(_ZERO_DATES)
    columns, types = _fields(after, topic, rules, names, has_zero_dates)
    key_types: tuple[LakeType, ...] = ()
    if key is not None:
        key_columns, key_types = _fields(key, topic, rules, names, has_zero_dates)
        for f in key_columns:
            if f.name not in columns.names or columns.field(f.name).type != f.type:
                raise UnsupportedChange(
                    f"topic {topic}: the key column {f.name} ({f.type}) is no column of the rows; remove"
                    " message.key.columns and transforms that change the key from the connector"
                )
    postgres = (source.name or "").startswith("io.debezium.connector.postgresql")
    return Table(TableSchema(columns, names, schema_id), types, key_types, placeholder if postgres else None)


def _fields(
    struct: ConnectType, topic: str, rules: Rules, key: tuple[str, ...], zero_dates: bool
) -> tuple[pa.Schema, tuple[LakeType, ...]]:
    """The columns of a table whose rows are `struct`. Raises UnsupportedChange, also for a column that is named
    like one of ours."""
    types, fields = [], []
    for name, type_ in struct.fields:
        column = f"topic {topic}, column {name}"
        if name in CDC_NAMES:
            raise UnsupportedChange(
                f"{column}: the name is taken by Lakeward's own column; rename the source's column, or leave it out"
                " (column.exclude.list)"
            )
        rule = rules.get(name, DEFAULT)
        types.append(column_type(type_, rule, column, zero_dates=zero_dates, key=name in key))
        fields.append(pa.field(name, types[-1].arrow, nullable=type_.optional or types[-1].nulls))
    return pa.schema(fields), tuple(types)


@dataclass
class Events:
    """Raw columns of records of one value schema, one item per record; `faults`: what is wrong with which."""

    op: Raw
    after: Raw
    before: Raw
    ts_us: Raw
    ts_ms: Raw
    rows: int
    faults: Faults = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """The rows of some events, the events that carry none by kind, and what is wrong with which event."""

    rows: pa.Table
    messages: int
    faults: Faults


KeyColumns = Callable[[Rows], tuple[list[Raw], Faults]]
"""Reads the key columns of some events (their numbers in the batch); faults are numbered as the result is."""


def rows_of(
    events: Events,
    table: Table,
    offsets: npt.NDArray[np.int64],
    keys: KeyColumns,
    say: Callable[[int], str],
    key_changed: Callable[[int], bool],
) -> Outcome:
    """The rows of `events`, in their order, without the faulty ones.

    `say` names an event (topic, partition, offset) for errors; `key_changed` says whether an event makes a row under
    the new key of a row that had another one. Raises UnsupportedChange for a misfit in a column whose policy says so.
    """
    faults = dict(events.faults)
    ops = _ops(events, faults)
    messages = int((ops == _M).sum())
    kept = _with_row(ops, events, faults, keyed=bool(table.schema.key))
    if len(kept) < events.rows:
        ops = ops[kept]
    upserts = (ops != _D) & (ops != _T)
    deleted = np.flatnonzero(ops == _D)
    after = gather(events.after, kept) if len(kept) < events.rows else events.after
    raws = _children(after, table, len(kept))
    unsent = {}
    if table.placeholder is not None:
        unsent = _unsent(raws, ops, table.placeholder, lambda row: key_changed(int(kept[row])))
    for column, without in unsent.items():
        known = np.ones(len(kept), np.bool_)
        known[without] = False
        raws[column] = scatter(gather(raws[column], np.flatnonzero(known)), known)

    stopping = {name for name, type_ in zip(table.schema.columns.names, table.types, strict=True) if type_.stops}

    def fault_in(name: str, rows: Rows) -> Callable[[Mask, str], None]:
        def fault(wrong: Mask, reason: str) -> None:
            for row in rows[np.flatnonzero(wrong)].tolist():
                if name in stopping:
                    raise UnsupportedChange(
                        f"{say(int(kept[row]))}, column {name}: {reason}; its misfit is error: correct the value at the"
                        " source, or choose dead_letter, set_null or text (source.columns)"
                    )
                faults.setdefault(int(kept[row]), f"column {name}: {reason}")

        return fault

    every = np.arange(len(kept))
    columns = []
    for number, (name, type_, raw) in enumerate(zip(table.schema.columns.names, table.types, raws, strict=True)):
        columns.append(type_.build(raw, fault_in(name, every)))
        optional = table.schema.columns.field(name).nullable
        if not optional and columns[-1].null_count > len(kept) - int(upserts.sum()):
            missing = columns[-1].is_null().to_numpy(zero_copy_only=False) & upserts
            missing[unsent.get(number, [])] = False
            fault_in(name, every)(missing, "null, where the schema allows none")
    if len(deleted):
        gone = pa.array(ops == _D)
        for i, raw in _gone(events, table, kept[deleted], keys, deleted, kept, faults):
            name = table.schema.columns.names[i]
            built = table.types[i].build(raw, fault_in(name, deleted))
            columns[i] = _put(columns[i], gone, built)
    columns += [
        primitive(pa.int64(), np.ascontiguousarray(offsets[kept]), None),
        pa.Array.from_buffers(
            pa.string(),
            len(ops),
            [None, pa.py_buffer(np.arange(len(ops) + 1, dtype=np.int32)), pa.py_buffer(np.ascontiguousarray(ops))],
        ),
        _commit_time(events, kept),
    ]
    fields = [f.with_nullable(True) for f in table.schema.columns]
    fields += [pa.field(CDC_OFFSET, pa.int64(), nullable=False), _OP_COLUMN, pa.field(CDC_TS, _TS_TYPE)]
    if unsent:
        columns.append(_unchanged(unsent, table.schema.columns.names, len(kept)))
        fields.append(UNCHANGED_FIELD)
    rows = pa.table(columns, schema=pa.schema(fields))
    wrong_rows = np.isin(kept, np.fromiter(faults, np.intp, len(faults))) if faults else None
    if wrong_rows is not None and wrong_rows.any():
        rows = rows.filter(pa.array(~wrong_rows))
    return Outcome(rows, messages, faults)


def _ops(events: Events, faults: Faults) -> npt.NDArray[np.uint8]:
    """The operations' letters, 0 where faulty."""
    op = events.op
    if not isinstance(op, Spans):
        for row in range(events.rows):
            faults.setdefault(row, "the envelope has no op")
        return np.zeros(events.rows, np.uint8)
    letters = op.data.take(op.start)
    known = np.zeros(256, np.bool_)
    known[[_C, _R, _U, _D, _M, _T]] = True
    wrong = ~known[letters] | (op.length != 1)
    if op.valid is not None:
        wrong |= ~op.valid
    if wrong.any():
        for row in np.flatnonzero(wrong).tolist():
            text = op.data[op.start[row] : op.start[row] + min(int(op.length[row]), 40)].tobytes()
            faults.setdefault(row, f"the op {text!r} is none of Debezium's")
    if faults:
        letters[list(faults)] = 0
    return letters


def _with_row(ops: npt.NDArray[np.uint8], events: Events, faults: Faults, *, keyed: bool) -> Rows:
    """The events that make a row."""
    if keyed:
        for row in np.flatnonzero(ops == _T).tolist():
            faults.setdefault(row, "a truncate has a key, which Debezium never gives it")
            ops[row] = 0
    valid = _valid(events.after, events.rows)
    if valid is not None:
        missing = ~valid & np.isin(ops, (_C, _R, _U))
        for row in np.flatnonzero(missing).tolist():
            faults.setdefault(row, f"the op {chr(ops[row])} comes without its row (after is null)")
            ops[row] = 0
    keep = (ops != 0) & (ops != _M)
    return np.arange(len(ops)) if keep.all() else np.flatnonzero(keep)


def _valid(raw: Raw, rows: int) -> Mask | None:
    return np.zeros(rows, np.bool_) if isinstance(raw, Nothing) else raw.valid


def _children(row: Raw, table: Table, n: int) -> list[Raw]:
    """The columns of a struct column, null where the struct is."""
    if isinstance(row, Nothing):
        return [Nothing(n)] * len(table.types)
    assert isinstance(row, Structs)
    return [row.children[name] for name in table.schema.columns.names]


def _gone(
    events: Events, table: Table, events_rows: Rows, keys: KeyColumns, deleted: Rows, kept: Rows, faults: Faults
) -> list[tuple[int, Raw]]:
    """The columns of the deleted rows, by their number in the table."""
    if table.before_too:
        before = gather(events.before, events_rows)
        valid = _valid(before, len(events_rows))
        if valid is not None:
            for row in events_rows[~valid].tolist():
                faults.setdefault(int(row), "a delete has neither key nor before; set REPLICA IDENTITY FULL")
        return list(enumerate(_children(before, table, len(events_rows))))
    raws, key_faults = keys(events_rows)
    for number, reason in key_faults.items():
        faults.setdefault(int(kept[deleted[number]]), f"the key of a delete can't be read: {reason}")
    return [(table.schema.columns.names.index(n), raw) for n, raw in zip(table.schema.key, raws, strict=True)]


def _put(column: pa.Array, where: pa.Array, values: pa.Array) -> pa.Array:
    """`column` with `values` (one per True of `where`) put in."""
    if pa.types.is_nested(column.type):
        # replace_with_mask knows no nested types; only keyless tables under REPLICA IDENTITY FULL come here
        mask = where.to_numpy(zero_copy_only=False)
        source = np.arange(len(column))
        source[mask] = len(column) + np.arange(len(values))
        return pa.concat_arrays([column, values]).take(pa.array(source))
    return pc.replace_with_mask(column, where, values)


def _commit_time(events: Events, kept: Rows) -> pa.Array:
    """`source.ts_us`, or `source.ts_ms` where an older Debezium has no microseconds."""
    n = events.rows
    micros, known = np.zeros(n, np.int64), np.zeros(n, np.bool_)
    for raw, factor in ((events.ts_ms, 1000), (events.ts_us, 1)):
        if isinstance(raw, Numbers):
            valid = np.ones(n, np.bool_) if raw.valid is None else raw.valid
            micros = np.where(valid, raw.values.astype(np.int64) * factor, micros)
            known |= valid
    micros, known = micros[kept], known[kept]
    return primitive(_TS_TYPE, micros, None if known.all() else known)


def _unsent(
    raws: list[Raw], ops: npt.NDArray[np.uint8], placeholder: bytes, key_changed: Callable[[int], bool]
) -> dict[int, Rows]:
    """By column the rows whose value PostgreSQL didn't send: unchanged TOAST columns of an update or a key change.

    What is read by a snapshot or inserted is sent whole: there the placeholder's text is the value.
    """
    found = {}
    for number, raw in enumerate(raws):
        rows = _placeholders(raw, placeholder)
        rows = rows[[ops[row] == _U or (ops[row] == _C and key_changed(row)) for row in rows.tolist()]]
        if len(rows):
            found[number] = rows
    return found


def _unchanged(unsent: Mapping[int, Rows], names: list[str], count: int) -> pa.Array:
    """The `CDC_UNCHANGED` column."""
    rows = np.concatenate(list(unsent.values()))
    columns = np.repeat(list(unsent), [len(some) for some in unsent.values()])
    order = np.argsort(rows, kind="stable")
    counts = np.bincount(rows, minlength=count)
    offsets = np.zeros(count + 1, np.int32)
    np.cumsum(counts, out=offsets[1:])
    return pa.Array.from_buffers(
        UNCHANGED_FIELD.type,
        count,
        [bitmap(counts > 0), pa.py_buffer(offsets)],
        children=[pa.array(names, pa.string()).take(pa.array(columns[order]))],
    )


def _placeholders(raw: Raw, placeholder: bytes) -> Rows:
    """The rows that hold Debezium's stand-in for a value that wasn't sent, as text, bytes, array or map."""
    if isinstance(raw, Spans):
        rows = np.flatnonzero(raw.length == len(placeholder))
        return rows[[_bytes_at(raw, row) == placeholder for row in rows.tolist()]] if len(rows) else rows
    if isinstance(raw, Structs):
        return _placeholders(raw.children["key"], placeholder) if "key" in raw.children else np.zeros(0, np.intp)
    if isinstance(raw, Lists):
        items = _placeholders(raw.items, placeholder)
        ends = np.cumsum(raw.counts)
        if len(items):
            return np.unique(np.searchsorted(ends, items, side="right"))
        if isinstance(raw.items, Numbers) and raw.items.values.dtype.kind == "i":
            # arrays of integers come as the placeholder's letters
            rows = np.flatnonzero(raw.counts == len(placeholder))
            letters = np.frombuffer(placeholder, np.uint8)
            values = raw.items.values
            return rows[[bool((values[e - len(letters) : e] == letters).all()) for e in ends[rows].tolist()]]
    return np.zeros(0, np.intp)


def _bytes_at(raw: Spans, row: int) -> bytes:
    if raw.valid is not None and not raw.valid[row]:
        return b""
    start = int(raw.start[row])
    return raw.data[start : start + int(raw.length[row])].tobytes()
