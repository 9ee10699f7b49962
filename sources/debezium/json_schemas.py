"""JSON records with their schema in each record: told apart by the text of the schema, which is then cut off. Those
without schema have the types that the source's columns have (`schemaless.py`).

Connect's JsonConverter (schemas.enable=true) writes `{"schema":{…},"payload":{…}}` with the same schema text in each
record of a table, thousands of bytes long. So the text is parsed once, and later records are compared with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import numpy as np

from config.errors import UnsupportedChange
from sources.debezium.connect_types import ConnectType, from_json_schema
from sources.debezium.frames import BROKEN_JSON, FIRST_JSON, JSON, Frames

_SCHEMA = b'{"schema"'
_HEAD = re.compile(rb'\s*\{\s*"schema"\s*:\s*')
_MIDDLE = re.compile(r'\s*,\s*"payload"\s*:\s*')
_JSON = json.JSONDecoder()

SCHEMALESS = (
    "JSON without its schema doesn't tell the columns' types; set connector.converter to json in the platform file, and"
    " they are read from the source's catalogue; or declare them (source.columns); or have the connector send schemas"
    " (connector.converter json-schema or an Avro one)"
)


TypeOf = Callable[[tuple[str, ...]], ConnectType | None]
"""The type of records without schema, by the names of a record's fields; None if it isn't known."""


@dataclass(frozen=True)
class JsonType:
    """The type of JSON records. `whole`: they have no schema, so that the record is the payload."""

    type: ConnectType
    whole: bool


class JsonSchemas:
    """The schemas seen so far, by their text. Thread-safe."""

    def __init__(self) -> None:
        self._kinds: dict[bytes, int] = {}
        self._whole_kinds: dict[tuple[str | None, ...], int] = {}
        self._types: list[JsonType] = []
        self._lock = Lock()

    def type(self, kind: int) -> JsonType:
        """The schema that `narrow` numbered `kind`."""
        return self._types[FIRST_JSON - kind]

    def narrow(self, frames: Frames, schemaless: TypeOf) -> Frames:
        """`frames` with each JSON record cut down to its payload, its kind telling its schema (or BROKEN_JSON).

        `schemaless` tells the type of records without schema. Raises UnsupportedChange where it doesn't know it.
        """
        left = frames.kind == JSON
        if not left.any():
            return frames
        start, end, kind = frames.start.copy(), frames.end.copy(), frames.kind.copy()
        while left.any():
            row = int(np.argmax(left))
            record = frames.data[start[row] : end[row]].tobytes()
            has_schema = _HEAD.match(record) is not None
            prefix = self._prefix(record) if has_schema else b""
            found = None if prefix is None else self._kinds[prefix] if has_schema else self._whole(record, schemaless)
            if prefix is None or found is None:
                kind[row] = BROKEN_JSON
                left[row] = False
                continue
            same = left & (frames.begin_with(prefix) if has_schema else ~frames.begin_with(_SCHEMA))
            kind[same] = found
            # between braces at both ends no two records can be read as one, nor one as two
            last = frames.data[end - 1] == ord("}")
            if has_schema:
                start[same] += len(prefix)
                end[same] -= 1
                last &= (end - start >= 2) & (frames.data[start] == ord("{")) & (frames.data[end - 1] == ord("}"))
            kind[same & ~last] = BROKEN_JSON
            left &= ~same
        return replace(frames, start=start, end=end, kind=kind)

    def _whole(self, record: bytes, schemaless: TypeOf) -> int | None:
        """The kind of a record without schema, None if it is no JSON object."""
        try:
            fields = _JSON.decode(record.decode())
        except ValueError:
            return None
        if not isinstance(fields, dict):
            return None
        type_ = schemaless(tuple(fields))
        if type_ is None:
            raise UnsupportedChange(SCHEMALESS)
        return self._number(self._whole_kinds, (type_.name, *(name for name, _ in type_.fields)), JsonType(type_, True))

    def _number(self, kinds: dict[Any, int], known_by: object, type_: JsonType) -> int:
        with self._lock:
            if known_by not in kinds:
                self._types.append(type_)
                kinds[known_by] = FIRST_JSON - (len(self._types) - 1)
        return kinds[known_by]

    def _prefix(self, record: bytes) -> bytes | None:
        """What a record has before its payload, with its schema noted; None if it can't be read."""
        for known in tuple(self._kinds):
            if record.startswith(known):
                return known
        try:
            text = record.decode()
            head = _HEAD.match(record)
            assert head is not None
            schema, end = _JSON.raw_decode(text, head.end())
            middle = _MIDDLE.match(text, end)
            if middle is None or not isinstance(schema, dict):
                return None
            type_ = from_json_schema(schema)
        except (ValueError, KeyError, TypeError):
            return None
        prefix = text[: middle.end()].encode()
        self._number(self._kinds, prefix, JsonType(type_, False))
        return prefix
