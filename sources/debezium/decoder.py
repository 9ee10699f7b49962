"""From a chunk of raw records to batches of changes: the front of everything in this folder.

    chunk -> frames (joined bytes, writer schema ids) -> runs of one schema -> reader (raw columns) -> envelope (rows)

Nothing here loops over records; the loops are over runs of one schema, and over blocks of a run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from threading import Lock

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from config.errors import BadRecord, UnsupportedChange
from config.source import UNAVAILABLE_VALUE
from sources.changes import ChangeBatch, Chunk, DecodedChunk, Rejected, TableSchema
from sources.debezium.avro_schema import SchemaError
from sources.debezium.connect_types import ConnectType
from sources.debezium.envelope import SKIPPED, Events, Faults, Rows, Table, is_envelope, rows_of, table_of
from sources.debezium.frames import BROKEN_JSON, FIRST_JSON, FOREIGN, TOMBSTONE, Frames, join
from sources.debezium.json_columns import JsonReader
from sources.debezium.json_schemas import JsonSchemas, TypeOf
from sources.debezium.policies import Rules
from sources.debezium.raw import Nothing, Raw, Structs
from sources.debezium.readers import AvroReader, Reader
from sources.debezium.schemaless import SchemalessTypes
from sources.debezium.schemas import SchemaSource

_BLOCK_ROWS = 16_384
_BLOCK_BYTES = 1 << 30
KEY_CHANGED = "__debezium.oldkey"
"""The header of the record that makes a row under its new key (Debezium, PostgreSQL connector, Primary key updates)."""
_BROKEN = "the JSON isn't {schema, payload} as Connect's JsonConverter writes it"


class DebeziumDecoder:
    """Decodes the topics of Debezium connectors. Thread-safe; called in worker threads, once per chunk.

    `schemas`: where writer schemas come from. What was learned of a schema is kept for good: an id never changes its
    meaning. `rules`: what the pipeline says of single columns, by topic; `placeholder`: the connectors'
    `unavailable.value.placeholder`; `schemaless`: the types of JSON records without schema, which are refused without
    it.
    """

    def __init__(
        self,
        schemas: SchemaSource,
        rules: Mapping[str, Rules] | None = None,
        schemaless: SchemalessTypes | None = None,
        placeholder: str = UNAVAILABLE_VALUE,
    ) -> None:
        self._schemas = schemas
        self._rules = rules or {}
        self._placeholder = placeholder.encode()
        self.schemaless = schemaless
        self.json_schemas = JsonSchemas()
        self._readers: dict[int, Reader] = {}
        self._tables: dict[tuple[str, int, int], Table] = {}
        self._lock = Lock()

    def decode(self, chunk: Chunk) -> DecodedChunk:
        """The chunk's changes, cut where the writer schema of value or key changes.

        Raises Unavailable while the registry is away, UnsupportedChange for what this version can't carry without
        loss: nothing of the chunk is decoded then.
        """
        return _Decoding(self, chunk).run()

    def reader(self, kind: int) -> Reader:
        """The reader of a writer schema. Raises BadRecord if the registry has no such schema."""
        reader = self._readers.get(kind)
        if reader is None:
            with self._lock:
                try:
                    reader = self._readers.get(kind) or self._new_reader(kind)
                except SchemaError as error:
                    raise BadRecord(f"the writer schema {kind} can't be used: {error}") from error
                self._readers[kind] = reader
        return reader

    def _new_reader(self, kind: int) -> Reader:
        if kind >= 0:
            return AvroReader(self._schemas.writer_schema(kind))
        found = self.json_schemas.type(kind)
        return JsonReader(found.type, whole=found.whole)

    def table(self, topic: str, key_kind: int, value_kind: int) -> Table:
        """The table of a topic as two writer schemas describe it (`key_kind` TOMBSTONE: no key)."""
        table = self._tables.get((topic, key_kind, value_kind))
        if table is None:
            key: ConnectType | None = None if key_kind == TOMBSTONE else self.reader(key_kind).type
            schema_id = value_kind if value_kind >= 0 else None
            value, rules = self.reader(value_kind).type, self._rules.get(topic)
            table = table_of(value, key, schema_id, topic, rules, self._placeholder)
            self._tables[topic, key_kind, value_kind] = table
        return table


class _Decoding:
    """One chunk on its way."""

    def __init__(self, decoder: DebeziumDecoder, chunk: Chunk) -> None:
        self._decoder = decoder
        self._chunk = chunk
        types, topic = decoder.schemaless, chunk.topic
        self._values = self._framed(chunk.values, lambda _: types.value(topic) if types else None)
        self._keys = self._framed(chunk.keys, lambda names: types.key(topic, names) if types else None)
        self._rejected: dict[int, str] = {}
        self._skipped: Counter[str] = Counter()
        self._fallback_rows = 0
        self._parts: list[tuple[int, TableSchema, pa.Table]] = []

    def run(self) -> DecodedChunk:
        kind = self._values.kind
        tombstones = int((kind == TOMBSTONE).sum())
        if tombstones:
            self._skipped["tombstone"] = tombstones
        self._reject(np.flatnonzero(kind == FOREIGN), "the value is neither Avro in Confluent's wire format nor JSON")
        self._reject(np.flatnonzero(kind == BROKEN_JSON), _BROKEN)
        for rows in self._runs(np.flatnonzero((kind >= 0) | (kind <= FIRST_JSON))):
            self._run_of_one_schema(rows)
        chunk = self._chunk
        changes = []
        for number, (_, schema, table) in enumerate(self._parts):
            first = self._parts[number][0] if number else chunk.first
            end = self._parts[number + 1][0] if number + 1 < len(self._parts) else chunk.next
            changes.append(ChangeBatch(chunk.topic, chunk.partition, first, end, schema, table))
        rejected = tuple(Rejected(i, BadRecord(f"{self._say(i)}: {why}")) for i, why in sorted(self._rejected.items()))
        return DecodedChunk(tuple(changes), rejected, self._skipped, self._fallback_rows)

    def _framed(self, records: list[bytes | None], schemaless: TypeOf) -> Frames:
        try:
            return self._decoder.json_schemas.narrow(join(records), schemaless)
        except UnsupportedChange as error:
            chunk = self._chunk
            raise UnsupportedChange(
                f"topic {chunk.topic}, partition {chunk.partition}, offsets {chunk.first} to {chunk.next}: {error}"
            ) from error

    def _runs(self, rows: Rows) -> Iterator[Rows]:
        """Cut where the schema of the value or of the key changes."""
        if not len(rows):
            return iter(())
        values, keys = self._values.kind[rows], self._keys.kind[rows]
        cuts = np.flatnonzero((values[1:] != values[:-1]) | (keys[1:] != keys[:-1])) + 1
        return iter(np.split(rows, cuts))

    def _run_of_one_schema(self, rows: Rows) -> None:
        value_kind, key_kind = int(self._values.kind[rows[0]]), int(self._keys.kind[rows[0]])
        try:
            reader = self._decoder.reader(value_kind)
        except BadRecord as error:
            self._reject(rows, str(error))
            return
        name = reader.type.name or reader.type.kind
        if name in SKIPPED:
            self._skipped[SKIPPED[name]] += len(rows)
        elif not is_envelope(reader.type):
            self._reject(rows, f"the value ({name}) is no Debezium change event")
        elif key_kind in (FOREIGN, BROKEN_JSON):
            self._reject(rows, "the key is neither Avro in Confluent's wire format nor JSON with schema")
        else:
            self._changes(reader, rows, key_kind, value_kind)

    def _changes(self, reader: Reader, rows: Rows, key_kind: int, value_kind: int) -> None:
        try:
            table = self._decoder.table(self._chunk.topic, key_kind, value_kind)
        except BadRecord as error:
            self._reject(rows, str(error))
            return
        tables = [self._block(reader, table, key_kind, block) for block in _blocks(self._values, rows)]
        whole = tables[0] if len(tables) == 1 else pa.concat_tables(tables, promote_options="default")
        self._parts.append((int(self._chunk.offsets[rows[0]]), table.schema, whole))

    def _block(self, reader: Reader, table: Table, key_kind: int, rows: Rows) -> pa.Table:
        columns, faults, slow = reader.read(self._values, rows, table.want)
        self._fallback_rows += slow
        nothing = Nothing(len(rows))
        source = columns.get("source", nothing)
        times = source.children if isinstance(source, Structs) else {}
        events = Events(
            columns.get("op", nothing),
            columns.get("after", nothing),
            columns.get("before", nothing),
            times.get("ts_us", nothing),
            times.get("ts_ms", nothing),
            len(rows),
            faults,
        )

        def keys(some: Rows) -> tuple[list[Raw], Faults]:
            key_reader = self._decoder.reader(key_kind)
            found, wrong, slow_keys = key_reader.read(self._keys, rows[some], True)
            self._fallback_rows += slow_keys
            return [found[name] for name in table.schema.key], wrong

        def say(row: int) -> str:
            return self._say(int(rows[row]))

        def key_changed(row: int) -> bool:
            return any(name == KEY_CHANGED for name, _ in self._chunk.headers[rows[row]])

        outcome = rows_of(events, table, self._chunk.offsets[rows], keys, say, key_changed)
        if outcome.messages:
            self._skipped["message"] += outcome.messages
        for row, reason in outcome.faults.items():
            self._rejected[int(rows[row])] = reason
        return outcome.rows

    def _reject(self, rows: Rows, reason: str) -> None:
        for row in rows.tolist():
            self._rejected[row] = reason

    def _say(self, index: int) -> str:
        return f"topic {self._chunk.topic}, partition {self._chunk.partition}, offset {self._chunk.offsets[index]}"


def _blocks(frames: Frames, rows: npt.NDArray[np.intp]) -> Iterator[Rows]:
    """Parts of a run that fit the processor's caches, and Arrow's 32-bit offsets."""
    first = 0
    while first < len(rows):
        end = min(first + _BLOCK_ROWS, len(rows))
        limit = int(frames.start[rows[first]]) + _BLOCK_BYTES
        end = max(first + 1, min(end, int(np.searchsorted(frames.end[rows[first:end]], limit)) + first))
        yield rows[first:end]
        first = end
