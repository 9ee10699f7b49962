"""docs/types.md from the code that decides about types; `python -m app.types_page` writes it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import Field as DeltaField

from config.errors import UnsupportedChange
from sinks.delta.schema import stored
from sinks.iceberg.schema import iceberg_type
from sources.debezium.connect_types import ConnectType
from sources.debezium.special_values import SPECIAL_VALUES
from sources.debezium.type_matrix import MARIADB_TYPES, POSTGRES_TYPES, Way, semantic_types, ways
from sources.debezium.types import lake_type

PAGE = Path(__file__).parents[2] / "docs" / "types.md"
TEMPLATE = Path(__file__).with_name("template.md")


def page() -> str:
    """The page's text: the template, with its tables."""
    tables = {
        "postgres": _type_table("postgres", POSTGRES_TYPES),
        "mariadb": _type_table("mariadb", MARIADB_TYPES),
        "semantic": _semantic_table(),
        "special": _special_table(),
    }
    text = TEMPLATE.read_text(encoding="utf-8")
    for name, lines in tables.items():
        text = text.replace(f"<!-- {name} -->", "\n".join(lines))
    return text


def _type_table(source_type: str, types: Iterable[str]) -> Iterator[str]:
    yield "| column type | option | on Kafka | Arrow | Iceberg | Delta | |"
    yield "|---|---|---|---|---|---|---|"
    for text in types:
        for way in ways(source_type, text):
            yield _row([f"`{text}`", _option(way), *_cells(way.wire.type), _remark(way)])


def _semantic_table() -> Iterator[str]:
    yield "| on Kafka | Arrow | Iceberg | Delta |"
    yield "|---|---|---|---|"
    for type_ in semantic_types():
        yield _row(_cells(type_))


def _special_table() -> Iterator[str]:
    yield "| source | value | arrives as | stored as (`dead_letter`) | as `text` |"
    yield "|---|---|---|---|---|"
    for value in SPECIAL_VALUES:
        yield _row([value.source, value.value, value.wire, value.stored, value.text])


def _option(way: Way) -> str:
    return "" if way.option is None else f"`{way.option}` {', '.join(way.values)}"


def _remark(way: Way) -> str:
    if way.wire.loss:
        return f"**refused by `cdc deploy`**: {way.wire.loss}"
    assert way.wire.type is not None
    try:
        lake_type(way.wire.type, "the column")
    except UnsupportedChange as error:
        return f"**refused**: {str(error).removeprefix('the column: ')}"
    return "lossless"


def _cells(type_: ConnectType | None) -> list[str]:
    """How a type is called on Kafka, and as what it is stored."""
    if type_ is None:
        return ["left out", "", "", ""]
    try:
        arrow = lake_type(type_, "").arrow
    except UnsupportedChange:
        return [_called(type_), "", "", ""]
    return [_called(type_), f"`{_arrow(arrow)}`", f"`{_iceberg(arrow)}`", f"`{_delta(stored(arrow))}`"]


def _called(type_: ConnectType) -> str:
    if type_.kind == "array" and type_.items is not None and type_.name is None:
        return f"array of {_called(type_.items)}"
    if type_.kind == "map" and type_.keys is not None and type_.items is not None:
        return f"map of {_called(type_.keys)} to {_called(type_.items)}"
    given = [
        type_.parameters[name] for name in ("connect.decimal.precision", "scale", "length") if name in type_.parameters
    ]
    arguments = f" ({', '.join(given)})" if given else ""
    return f"`{type_.name}`{arguments}, {type_.kind}" if type_.name else f"`{type_.kind}`"


def _arrow(kind: pa.DataType) -> str:
    return str(kind).replace(" not null", "").replace("element: ", "")


def _iceberg(kind: pa.DataType) -> str:
    return str(iceberg_type(kind)).replace("-1: ", "").replace("required ", "").replace("optional ", "")


def _delta(kind: pa.DataType) -> str:
    """The type as Delta's log writes it."""
    return _delta_text(json.loads(DeltaField.from_arrow(pa.field("c", kind)).to_json())["type"])


def _delta_text(type_: Any) -> str:
    if isinstance(type_, str):
        return type_
    if type_["type"] == "array":
        return f"array<{_delta_text(type_['elementType'])}>"
    if type_["type"] == "map":
        return f"map<{_delta_text(type_['keyType'])}, {_delta_text(type_['valueType'])}>"
    parts = [part["name"] + ": " + _delta_text(part["type"]) for part in type_["fields"]]
    return f"struct<{', '.join(parts)}>"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
