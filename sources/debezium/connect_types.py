"""Kafka Connect's types, which both wire formats carry: what a column is, before it is said how a sink stores it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from config.errors import UnsupportedChange

PRIMITIVES = frozenset({"int8", "int16", "int32", "int64", "float32", "float64", "boolean", "string", "bytes"})


@dataclass(frozen=True)
class ConnectType:
    """One Connect schema. `kind`: one of `PRIMITIVES`, `array`, `map`, `struct`, or `union` or `enum` (Avro has these,
    Connect doesn't); `name` is the semantic type (`io.debezium.time.Date`), None for a plain one. `items` are an
    array's items or a map's values, `keys` a map's keys."""

    kind: str
    name: str | None = None
    optional: bool = False
    parameters: Mapping[str, str] = field(default_factory=dict)
    fields: tuple[tuple[str, ConnectType], ...] = ()
    items: ConnectType | None = None
    keys: ConnectType | None = None

    def child(self, name: str) -> ConnectType | None:
        """The type of a struct's field, None if it has none of that name."""
        return next((t for n, t in self.fields if n == name), None)


def from_json_schema(schema: Mapping[str, Any]) -> ConnectType:
    """The `schema` part of a JSON record (Connect's JsonConverter with schemas.enable=true).

    Raises UnsupportedChange for a type that JsonConverter doesn't have.
    """
    kind = {"float": "float32", "double": "float64"}.get(schema["type"], schema["type"])
    fields = tuple((f["field"], from_json_schema(f)) for f in schema.get("fields", ()))
    items = schema.get("items") if kind == "array" else schema.get("values")
    if kind not in PRIMITIVES and kind not in ("array", "map", "struct"):
        raise UnsupportedChange(
            f"the record's schema has the type {kind!r}, which Connect's JsonConverter doesn't have"
        )
    return ConnectType(
        kind,
        schema.get("name"),
        bool(schema.get("optional", False)),
        {k: str(v) for k, v in (schema.get("parameters") or {}).items()},
        fields,
        from_json_schema(items) if items else None,
        from_json_schema(schema["keys"]) if kind == "map" else None,
    )
