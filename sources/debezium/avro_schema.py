"""Writer schemas: an Avro schema as the tree that the wire follows, each node with its Connect type.

Named types are resolved (Debezium's `after` refers to the record that `before` defines), logical types are left to
`types`: the tree says only how the bytes lie.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from sources.debezium.connect_types import ConnectType

_KINDS = {
    "int": "int32",
    "long": "int64",
    "float": "float32",
    "double": "float64",
    "boolean": "boolean",
    "string": "string",
    "bytes": "bytes",
    "null": "union",
}
_NAMED = ("record", "enum", "fixed", "error")
_SEMANTIC = {
    # Avro's own logical types by the Connect type of the same meaning, for schemas without `connect.name`
    "decimal": "org.apache.kafka.connect.data.Decimal",
    "date": "org.apache.kafka.connect.data.Date",
    "time-millis": "org.apache.kafka.connect.data.Time",
    "timestamp-millis": "org.apache.kafka.connect.data.Timestamp",
}
_DEFAULT_PRECISION = "64"
"""What Connect's Avro converters write as the precision of a decimal that has none (PostgreSQL's money)."""


_MAP_ENTRY = "MapEntry"
"""What Connect's Avro converters call the items of a map whose keys aren't texts: an array of records."""


class SchemaError(ValueError):
    """The text that the registry holds is no Avro schema."""


@dataclass(frozen=True)
class Node:
    """One Avro type on the wire.

    `wire`: null boolean int long float double bytes (also string) fixed enum record array map union. `branches`
    are a union's types in order, `items` an array's items or a map's values, `fields` a record's fields, `size` a
    fixed's length in bytes.
    """

    wire: str
    type: ConnectType
    fields: tuple[tuple[str, Node], ...] = ()
    items: Node | None = None
    branches: tuple[Node, ...] = ()
    size: int = 0

    def field(self, name: str) -> Node | None:
        return next((node for n, node in self.fields if n == name), None)


Names: TypeAlias = dict[str, "Node | None"]


def parse(schema: Any) -> Node:
    """The tree of a writer schema (parsed JSON). Raises SchemaError if it is none, or is recursive."""
    try:
        return _parse(schema, "", {})
    except (KeyError, TypeError, AttributeError) as error:
        raise SchemaError(f"not an Avro schema: {error!r}") from error


def _parse(schema: Any, namespace: str, names: Names) -> Node:
    if isinstance(schema, list):
        return _union([_parse(branch, namespace, names) for branch in schema])
    if isinstance(schema, str):
        if schema in _KINDS:
            return Node("bytes" if schema == "string" else schema, ConnectType(_KINDS[schema]))
        return _named(schema, namespace, names)
    kind = schema["type"]
    if isinstance(kind, (dict, list)):
        return _parse(kind, namespace, names)
    if kind in _NAMED:
        return _define(kind, schema, namespace, names)
    if kind == "array":
        items = _parse(schema["items"], namespace, names)
        name, parameters = _semantics(schema)
        if items.type.name == _MAP_ENTRY:
            key, value = items.type.child("key"), items.type.child("value")
            return Node("array", ConnectType("map", name, False, parameters, (), value, key), items=items)
        return Node("array", ConnectType("array", name, False, parameters, (), items.type), items=items)
    if kind == "map":
        items = _parse(schema["values"], namespace, names)
        name, parameters = _semantics(schema)
        type_ = ConnectType("map", name, False, parameters, (), items.type, ConnectType("string"))
        return Node("map", type_, items=items)
    if kind not in _KINDS:
        return _named(kind, namespace, names)
    name, parameters = _semantics(schema)
    return Node("bytes" if kind == "string" else kind, ConnectType(_KINDS[kind], name, False, parameters))


def _named(name: str, namespace: str, names: Names) -> Node:
    full = name if "." in name or not namespace else f"{namespace}.{name}"
    if full not in names:
        raise SchemaError(f"the schema refers to {full}, which it doesn't define")
    node = names[full]
    if node is None:
        raise SchemaError(f"the schema of {full} contains itself")
    return node


def _define(kind: str, schema: Mapping[str, Any], namespace: str, names: Names) -> Node:
    name = schema["name"]
    if "." in name:
        full, namespace = name, name.rpartition(".")[0]
    else:
        namespace = schema.get("namespace", namespace)
        full = f"{namespace}.{name}" if namespace else name
    names[full] = None
    semantic, parameters = _semantics(schema)
    semantic = schema.get("connect.internal.type", semantic)
    if kind == "enum":
        node = Node("enum", ConnectType("enum", semantic or full, False, parameters))
    elif kind == "fixed":
        node = Node("fixed", ConnectType("bytes", semantic, False, parameters), size=int(schema["size"]))
    else:
        fields = tuple((f["name"], _parse(f["type"], namespace, names)) for f in schema["fields"])
        types = tuple((n, node.type) for n, node in fields)
        node = Node("record", ConnectType("struct", semantic or full, False, parameters, types), fields=fields)
    names[full] = node
    return node


def _union(branches: list[Node]) -> Node:
    others = [b for b in branches if b.wire != "null"]
    if len(others) == 1 and len(branches) == 2:
        return Node("union", replace(others[0].type, optional=True), branches=tuple(branches))
    return Node("union", ConnectType("union", optional=len(others) < len(branches)), branches=tuple(branches))


def _semantics(schema: Mapping[str, Any]) -> tuple[str | None, dict[str, str]]:
    """Semantic name and parameters, with Avro's logical type where Connect's name is missing."""
    logical = schema.get("logicalType")
    name = schema.get("connect.name")
    parameters = {k: str(v) for k, v in (schema.get("connect.parameters") or {}).items()}
    if logical == "decimal":
        parameters.setdefault("scale", str(schema.get("scale", 0)))
        if str(schema.get("precision")) != _DEFAULT_PRECISION:
            parameters.setdefault("connect.decimal.precision", str(schema.get("precision")))
    if name is None and logical is not None:
        name = _SEMANTIC.get(logical, None if logical == "uuid" else f"the Avro logical type {logical}")
    return name, parameters
