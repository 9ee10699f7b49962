"""What is asked of the captured: values, types on Kafka, special values, and `cdc verify`."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import time
from typing import Any

import mariadb_specimens
import postgres_specimens
from harness import STREAMED
from postgres_specimens import DEAD
from type_captures import Captured, column, left_out, rows_of

from sources.debezium.connect_types import ConnectType
from sources.debezium.schemaless import wire_type


def normal(value: Any, sink: str) -> Any:
    """A value as it compares: floats by their bits (NaN is itself, -0.0 isn't 0.0), times in Delta as text, maps in the
    order of their keys."""
    if isinstance(value, float):
        return ("NaN",) if value != value else struct.pack("<d", value)
    if isinstance(value, time) and sink == "delta":
        return value.strftime("%H:%M:%S.%f")
    if isinstance(value, dict):
        return {name: normal(part, sink) for name, part in value.items()}
    if isinstance(value, list):
        if value and all(isinstance(part, tuple) for part in value):
            return sorted((key, normal(part, sink)) for key, part in value)
        return [normal(part, sink) for part in value]
    return value


def check_every(captured: Captured, variant: str, sink: str) -> None:
    found = captured.found[variant]
    assert "every" not in found.dead, found.dead
    rows = found.rows["every", sink]
    options = set(captured.variants[variant].options.values())
    wrong = {}
    count = rows_of(captured.specimens)
    assert sorted(rows) == [base + row for base in (0, STREAMED) for row in range(count + 1)]
    for number, specimen in enumerate(captured.specimens):
        mode = next((mode for mode in specimen.modes if mode in options), None)
        values = specimen.values if mode is None else specimen.modes[mode]
        for base in (0, STREAMED):
            for row in range(count):
                got, expected = rows[base + row][column(number)], values[row % len(values)]
                if normal(got, sink) != normal(expected, sink) or type(got) is not type(_stored(expected, sink)):
                    wrong[specimen.type, base + row] = (got, expected)
            assert rows[base + count][column(number)] is None, specimen
    assert not wrong


def _stored(value: Any, sink: str) -> Any:
    return "" if isinstance(value, time) and sink == "delta" else value


def check_wire(captured: Captured, variant: str) -> None:
    """The records' own schemas are those of the matrix, from which the page and schemaless types are made."""
    (columns,) = (columns for topic, columns in captured.found[variant].wire.items() if topic.endswith(".every"))
    modes = captured.modes(variant)
    wrong = {}
    for number in range(len(captured.specimens)):
        text = captured.catalogue[column(number)]
        type_ = wire_type(captured.source_type, text, modes).type
        if type_ is None or shape(type_) != shape(columns[column(number)]):
            wrong[text] = (type_ and shape(type_), shape(columns[column(number)]))
    assert not wrong


def shape(type_: ConnectType) -> Any:
    """A type without what doesn't decide how it is stored."""
    kind = "int16" if type_.kind in ("int8", "int16") else type_.kind
    if type_.kind == "int32" and type_.name is None:
        kind = "int16"  # Avro has one small integer
    decimals = {k: v for k, v in type_.parameters.items() if k in ("scale", "connect.decimal.precision")}
    inner = [(name, shape(child)) for name, child in type_.fields]
    inner += [shape(child) for child in (type_.items, type_.keys) if child is not None]
    return (kind, None if type_.kind == "struct" and not type_.fields else type_.name, decimals, inner)


def is_one_of(got: Any, expected: Any, sink: str) -> bool:
    """Whether a value is the expected one, or one of a set of texts that mean the same."""
    texts = expected if isinstance(expected, frozenset) else (expected,)
    return any(normal(got, sink) == normal(text, sink) for text in texts)


def check_special(captured: Captured, variant: str, sink: str, specials: Sequence[tuple[str, str, Any, Any]]) -> None:
    found = captured.found[variant]
    rows, dead = found.rows["special", sink], found.dead["special"]
    wrong = {}
    for base in (0, STREAMED):
        for number, (name, literal, stored, text) in enumerate(specials):
            expected = text if variant == "text" or name in ("big", "dc") else stored
            got = DEAD if base + number in dead else rows[base + number][name]
            if expected is DEAD:
                if got is not DEAD or base + number in rows or f"column {name}: " not in dead[base + number]:
                    wrong[name, literal, base] = got, dead.get(base + number)
            elif not is_one_of(got, expected, sink):
                wrong[name, literal, base] = got, expected
    assert not wrong
    assert len(rows) + len(dead) == 2 * len(specials)


def lost_values(source_type: str, variant: str) -> dict[int, str]:
    """The rows (and columns) whose values Debezium replaces by others, where that isn't accepted."""
    specimens = {"postgres": postgres_specimens, "mariadb": mariadb_specimens}[source_type]
    if variant not in ("avro", "text"):
        return {}
    columns = [(number, name) for number, (name, *_) in enumerate(specimens.SPECIALS) if name in specimens.LOST]
    return {base + number: name for base in (0, STREAMED) for number, name in columns}


def check_verified(captured: Captured, variant: str, sink: str) -> None:
    """Both tables are equal but for dead letters; a damaged value of any column is found."""
    found = captured.found[variant]
    notes = {"every": [f"column {name} isn't compared" for name in left_out(captured.source_type)], "special": []}
    for table, expected in notes.items():
        verdict = found.verdicts[table, sink]
        assert verdict.comparison is not None, verdict
        told = {(one.kind, one.key["id"]): set(one.columns) for one in verdict.comparison.examples}
        lost = lost_values(captured.source_type, variant) if table == "special" else {}
        missing: dict[tuple[str, int], set[str]] = {("missing", key): set() for key in found.dead.get(table, ())}
        assert told == missing | {("different", key): {name} for key, name in lost.items()}
        assert [note.partition(":")[0] for note in verdict.notes] == expected
        assert all("leaves arrays of" in note for note in verdict.notes)
    damaged = found.damaged[sink].comparison
    assert damaged is not None
    (difference,) = damaged.examples
    assert (difference.kind, difference.key) == ("different", {"id": 0})
    values = {column(i): found.rows["every", sink][0][column(i)] for i in range(len(captured.specimens))}
    assert difference.columns.keys() == {name for name, value in values.items() if value is not None}
