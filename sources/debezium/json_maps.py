"""Maps in JSON: an object (texts as keys), or an array of pairs (other keys), which Arrow's reader can't take as such.

So records of a table that has one are rewritten one by one, with an array of entries in the map's place. Maps are
rare: hstore in the mode `map`, sparse vectors, the extensions of a geometry.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from sources.debezium.connect_types import ConnectType


def has_maps(type_: ConnectType) -> bool:
    """Whether a map is anywhere in the type."""
    inner = [child for _, child in type_.fields] + ([type_.items] if type_.items else [])
    return type_.kind == "map" or any(map(has_maps, inner))


def entry_type(type_: ConnectType) -> ConnectType:
    """The struct {key, value} of a map's entries."""
    assert type_.keys is not None
    assert type_.items is not None
    return ConnectType("struct", fields=(("key", type_.keys), ("value", type_.items)))


def with_entries(record: bytes, type_: ConnectType) -> bytes:
    """A record with entries in the place of its maps; one that is no JSON stays as it is, for the reader to refuse."""
    try:
        return orjson.dumps(_rewritten(orjson.loads(record), type_))
    except orjson.JSONDecodeError:
        return record


def _rewritten(value: Any, type_: ConnectType) -> Any:
    if type_.kind == "struct" and isinstance(value, Mapping):
        types = dict(type_.fields)
        return {name: _rewritten(part, types[name]) if name in types else part for name, part in value.items()}
    if type_.kind == "array" and isinstance(value, list) and type_.items is not None:
        return [_rewritten(item, type_.items) for item in value]
    if type_.kind == "map" and isinstance(value, Mapping | list) and type_.items is not None:
        entries = value.items() if isinstance(value, Mapping) else value
        return [{"key": key, "value": _rewritten(item, type_.items)} for key, item in entries]
    return value
