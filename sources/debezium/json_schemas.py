"""JSON records with their schema in each record: told apart by the text of the schema, which is then cut off.

Connect's JsonConverter (schemas.enable=true) writes `{"schema":{…},"payload":{…}}` with the same schema text in each
record of a table, thousands of bytes long. So the text is parsed once, and later records are compared with it.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from threading import Lock

import numpy as np

from config.errors import UnsupportedChange
from sources.debezium.connect_types import ConnectType, from_json_schema
from sources.debezium.frames import BROKEN_JSON, FIRST_JSON, JSON, Frames

_HEAD = re.compile(r'\s*\{\s*"schema"\s*:\s*')
_MIDDLE = re.compile(r'\s*,\s*"payload"\s*:\s*')
_JSON = json.JSONDecoder()

SCHEMALESS = (
    "JSON without its schema doesn't tell the columns' types; set value.converter.schemas.enable and"
    " key.converter.schemas.enable to true in the connector (connector.converter: json-schema), or use an Avro"
    " converter"
)


class JsonSchemas:
    """The schemas seen so far, by their text. Thread-safe."""

    def __init__(self) -> None:
        self._kinds: dict[bytes, int] = {}
        self._types: list[ConnectType] = []
        self._lock = Lock()

    def type(self, kind: int) -> ConnectType:
        """The schema that `narrow` numbered `kind`."""
        return self._types[FIRST_JSON - kind]

    def narrow(self, frames: Frames) -> Frames:
        """`frames` with each JSON record cut down to its payload, its kind telling its schema (or BROKEN_JSON).

        Raises UnsupportedChange for JSON without schema.
        """
        left = frames.kind == JSON
        if not left.any():
            return frames
        start, end, kind = frames.start.copy(), frames.end.copy(), frames.kind.copy()
        while left.any():
            row = int(np.argmax(left))
            prefix = self._prefix(frames.data[start[row] : end[row]].tobytes())
            if prefix is None:
                kind[row] = BROKEN_JSON
                left[row] = False
                continue
            same = left & frames.begin_with(prefix)
            start[same] += len(prefix)
            end[same] -= 1
            kind[same] = self._kinds[prefix]
            # between braces at both ends no two records can be read as one, nor one as two
            whole = (end - start >= 2) & (frames.data[end] == ord("}"))
            whole &= (frames.data[start] == ord("{")) & (frames.data[end - 1] == ord("}"))
            kind[same & ~whole] = BROKEN_JSON
            left &= ~same
        return replace(frames, start=start, end=end, kind=kind)

    def _prefix(self, record: bytes) -> bytes | None:
        """What a record has before its payload, with its schema noted; None if it can't be read."""
        for known in tuple(self._kinds):
            if record.startswith(known):
                return known
        try:
            text = record.decode()
            head = _HEAD.match(text)
            if head is None:
                if isinstance(_JSON.decode(text), dict):
                    raise UnsupportedChange(SCHEMALESS)
                return None
            schema, end = _JSON.raw_decode(text, head.end())
            middle = _MIDDLE.match(text, end)
            if middle is None or not isinstance(schema, dict):
                return None
            type_ = from_json_schema(schema)
        except (ValueError, KeyError, TypeError):
            return None
        prefix = text[: middle.end()].encode()
        with self._lock:
            if prefix not in self._kinds:
                self._types.append(type_)
                self._kinds[prefix] = FIRST_JSON - (len(self._types) - 1)
        return prefix
