"""Which Delta tables Lakeward may commit to by itself: their protocol and features (Delta protocol, "Table Features").

delta-rs checks this for what it writes. Commits with deletion vectors are our own, so a table with a feature that isn't
listed here is refused: its rows, or the promises of its metadata, could be broken without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyarrow as pa

from config.errors import ConfigurationError

Metadata = Mapping[str, Any]
"""The body of a `metaData` action."""

VECTORS_PROPERTY = "delta.enableDeletionVectors"

_OF_READER_VERSION = {2: ("columnMapping",)}
_OF_WRITER_VERSION = {
    2: ("appendOnly", "invariants"),
    3: ("checkConstraints",),
    4: ("changeDataFeed", "generatedColumns"),
    5: ("columnMapping",),
    6: ("identityColumns",),
}
"""Features that the old protocol versions stand for (Delta protocol, "Features supported by a protocol version")."""

_READERS_TOO = frozenset({"columnMapping", "deletionVectors", "timestampNtz", "vacuumProtocolCheck"})
"""Features that readers have to know, too, of those that are known here."""


def _property(name: str, *harmless: str | None) -> Callable[[Metadata], bool]:
    return lambda metadata: metadata["configuration"].get(name) not in (None, *harmless)


def _in_schema(text: str) -> Callable[[Metadata], bool]:
    return lambda metadata: f'"{text}' in metadata["schemaString"]


_IN_USE: Mapping[str, Callable[[Metadata], bool]] = {
    "appendOnly": _property("delta.appendOnly", "false"),
    "invariants": _in_schema("delta.invariants"),
    "checkConstraints": lambda metadata: any(k.startswith("delta.constraints.") for k in metadata["configuration"]),
    "generatedColumns": _in_schema("delta.generationExpression"),
    "columnMapping": _property("delta.columnMapping.mode", "none"),
    "identityColumns": _in_schema("delta.identity."),
    "changeDataFeed": lambda _: False,
    "deletionVectors": lambda _: False,
    "timestampNtz": lambda _: False,
    "vacuumProtocolCheck": lambda _: False,
}
"""The features that are known, and whether a table uses one in a way that Lakeward can't serve."""


def features(protocol: Mapping[str, Any]) -> set[str]:
    """All features that a table supports, those of old protocol versions included."""
    found = {*(protocol.get("readerFeatures") or ()), *(protocol.get("writerFeatures") or ())}
    reader, writer = protocol["minReaderVersion"], protocol["minWriterVersion"]
    if reader < 3:  # from here on features are listed
        found |= {name for since, names in _OF_READER_VERSION.items() if since <= reader for name in names}
    if writer < 7:
        found |= {name for since, names in _OF_WRITER_VERSION.items() if since <= writer for name in names}
    return found


def check(name: str, protocol: Mapping[str, Any], metadata: Metadata) -> None:
    """Raise ConfigurationError if the table has a feature that Lakeward doesn't know or can't serve."""
    unknown = sorted(features(protocol) - _IN_USE.keys())
    unknown += [name for name, is_in_use in _IN_USE.items() if is_in_use(metadata)]
    if protocol["minReaderVersion"] > 3 or protocol["minWriterVersion"] > 7:
        unknown.append(f"protocol {protocol['minReaderVersion']}/{protocol['minWriterVersion']}")
    if unknown:
        raise ConfigurationError(
            f"Delta table {name} uses {', '.join(unknown)}, which Lakeward's commits with deletion vectors can't keep"
            " right. Remove that from the table (Spark: ALTER TABLE … DROP FEATURE …, or its property or constraint),"
            " set upserts: merge, or let Lakeward create a new table"
        )


def protocol_for(columns: pa.Schema, there: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The protocol of a table with deletion vectors and these columns; of one that is `there` nothing is lost."""
    found = {"deletionVectors", *(["timestampNtz"] if any(map(_is_local, columns.types)) else [])}
    found |= {"appendOnly", "invariants", "changeDataFeed"} if there is None else features(there)
    return {
        "minReaderVersion": 3,
        "minWriterVersion": 7,
        "readerFeatures": sorted(found & _READERS_TOO),
        "writerFeatures": sorted(found),
    }


def fits(protocol: Mapping[str, Any], columns: pa.Schema) -> bool:
    """Whether vectors and these columns may be written under this protocol."""
    wanted = protocol_for(columns, protocol)
    return all(set(wanted[kind]) == set(protocol.get(kind) or ()) for kind in ("readerFeatures", "writerFeatures"))


def _is_local(kind: pa.DataType) -> bool:
    """Whether a type has timestamps without zone in it."""
    if pa.types.is_timestamp(kind):
        return kind.tz is None
    return any(map(_is_local, _inner(kind)))


def _inner(kind: pa.DataType) -> Iterable[pa.DataType]:
    if pa.types.is_struct(kind):
        return [field.type for field in kind]
    if pa.types.is_map(kind):
        return [kind.key_type, kind.item_type]
    return [kind.value_type] if pa.types.is_list(kind) else []
