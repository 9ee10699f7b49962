"""What the decoder has to yield, worked out record by record with fastavro and orjson; and the samples.

Written from Debezium's documentation, sharing no code with the decoder.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Context, Decimal
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import orjson

from config.errors import BadRecord
from sources.changes import Chunk

DATA = Path(__file__).parents[2] / "data" / "debezium"
Record = tuple[bytes | None, bytes | None]


class Schemas:
    """Writer schemas in memory, as a registry that knows nothing else."""

    def __init__(self, schemas: dict[int, Any]) -> None:
        self.schemas = schemas

    def writer_schema(self, schema_id: int) -> dict[str, Any]:
        if schema_id not in self.schemas:
            raise BadRecord(f"no schema has the id {schema_id}")
        schema: dict[str, Any] = self.schemas[schema_id]
        return schema


def chunk(records: Sequence[Record], topic: str = "t.s.users", offsets: Sequence[int] | None = None) -> Chunk:
    """A chunk of (key, value) records; without `offsets` they follow each other from 0."""
    where = np.array(range(len(records)) if offsets is None else offsets, np.int64)
    last = int(where[-1]) + 1 if len(where) else 0
    keys, values = [key for key, _ in records], [value for _, value in records]
    return Chunk(topic, 0, 1, 0, last, where, np.zeros_like(where), keys, values, [()] * len(records), 0)


def avro_samples(registry: str) -> tuple[Schemas, dict[str, list[Record]]]:
    """A registry's schemas and the real records of its topics."""
    schemas = json.loads((DATA / f"{registry}_schemas.json").read_text())
    topics: dict[str, list[Record]] = {}
    for line in (DATA / f"{registry}.jsonl").read_text().splitlines():
        record = json.loads(line)
        key, value = (bytes.fromhex(record[k]) if record[k] else None for k in ("key", "value"))
        topics.setdefault(record["topic"], []).append((key, value))
    return Schemas({int(i): schema for i, schema in schemas.items()}), topics


def json_samples() -> dict[str, list[Record]]:
    """Real JSON records, each with its schema."""
    schemas = json.loads((DATA / "pgs_schemas.json").read_text())
    topics: dict[str, list[Record]] = {}
    for line in (DATA / "pgs.jsonl").read_text().splitlines():
        record = json.loads(line)
        both = []
        for part in ("key", "value"):
            it = record[part]
            both.append(it and orjson.dumps({"schema": schemas[it["schema"]], "payload": it["payload"]}))
        topics.setdefault(record["topic"], []).append((both[0], both[1]))
    return topics


def write_avro(schema: dict[str, Any], schema_id: int, record: dict[str, Any]) -> bytes:
    """A record in Confluent's wire format."""
    body = io.BytesIO()
    fastavro.schemaless_writer(body, fastavro.parse_schema(schema), record)
    return b"\0" + schema_id.to_bytes(4) + body.getvalue()


def expected_row(schemas: Schemas, record: Record) -> dict[str, Any] | None:
    """The source columns of a record's row, with `_cdc_op` and `_cdc_ts`; None for a tombstone."""
    key, value = record
    if value is None:
        return None
    if value[:1] == b"{":
        return _expected(_from_json(value), _from_json(key) if key else None)
    return _expected(_from_avro(schemas, value), _from_avro(schemas, key) if key else None)


def _expected(value: tuple[Any, dict[str, Any]], key: tuple[Any, dict[str, Any]] | None) -> dict[str, Any]:
    payload, columns = value
    row = dict.fromkeys(columns)
    if payload["op"] == "t":
        pass
    elif payload["op"] != "d":
        row |= {name: to_python(columns[name], it) for name, it in payload["after"].items() if name in columns}
    elif key is not None:
        row |= {name: to_python(key[1][name], it) for name, it in key[0].items()}
    else:
        row |= {name: to_python(columns[name], it) for name, it in payload["before"].items()}
    row["_cdc_op"] = payload["op"]
    row["_cdc_ts"] = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=payload["source"]["ts_us"])
    return row


def _from_avro(schemas: Schemas, record: bytes) -> tuple[Any, dict[str, Any]]:
    """Value and columns of one framed record; raises if its bytes aren't exactly one value."""
    raw = schemas.writer_schema(int.from_bytes(record[1:5]))
    body = io.BytesIO(record[5:])
    value = fastavro.schemaless_reader(body, fastavro.parse_schema(_plain(raw)), None)
    if body.tell() != len(record) - 5:
        raise ValueError("bytes are left over")
    fields = {f["name"]: f["type"] for f in raw["fields"]}
    row = next(b for b in fields["before"] if b != "null")["fields"] if "before" in fields else raw["fields"]
    return value, {f["name"]: f["type"] for f in row}


def _plain(schema: Any) -> Any:
    """Without logical types: their meaning is worked out below."""
    if isinstance(schema, list):
        return [_plain(branch) for branch in schema]
    if isinstance(schema, dict):
        return {
            k: _plain(v) if k in ("type", "fields", "items") else v for k, v in schema.items() if k != "logicalType"
        }
    return schema


def _from_json(record: bytes) -> tuple[Any, dict[str, Any]]:
    document = orjson.loads(record)
    fields = {f["field"]: f for f in document["schema"]["fields"]}
    row = fields["before"]["fields"] if "before" in fields else document["schema"]["fields"]
    return document["payload"], {f["field"]: f for f in row}


def to_python(type_: Any, value: Any) -> Any:
    """A value as Arrow's to_pylist should give it, by its Avro or Connect type."""
    if value is None:
        return None
    is_json = isinstance(type_, dict) and ("field" in type_ or "optional" in type_)
    if isinstance(type_, list):
        type_ = next(b for b in type_ if b != "null")
    kind = type_ if isinstance(type_, str) else type_["type"]
    if isinstance(kind, dict):
        return to_python(kind, value)
    parameters = {} if isinstance(type_, str) else type_.get("parameters") or type_.get("connect.parameters") or {}
    name = None if isinstance(type_, str) else type_.get("name") if is_json else type_.get("connect.name")
    if kind == "array":
        return [to_python(type_["items"], item) for item in value]
    if kind == "map":
        return [(key, to_python(type_["values"], item)) for key, item in value.items()]
    if kind == "bytes" and isinstance(value, str):
        value = base64.b64decode(value)
    if name == "io.debezium.data.VariableScaleDecimal":
        unscaled = base64.b64decode(value["value"]) if isinstance(value["value"], str) else value["value"]
        return f"{_decimal(unscaled, value['scale']):f}"
    if kind == "record":
        return {f["name"]: to_python(f["type"], value[f["name"]]) for f in type_["fields"]}
    if kind == "struct":
        return {f["field"]: to_python(f, value[f["field"]]) for f in type_["fields"]}
    if kind in ("float", "double", "float32", "float64"):
        return float(value)
    return _logical(name, parameters, value)


def _decimal(unscaled: bytes, scale: int) -> Decimal:
    return Decimal(int.from_bytes(unscaled, signed=True)).scaleb(-scale, Context(prec=1000))


def _logical(name: str | None, parameters: dict[str, str], value: Any) -> Any:
    epoch = datetime(1970, 1, 1)  # noqa: DTZ001 - timestamps without time zone
    match (name or "").rpartition(".")[2]:
        case "Decimal":
            return _decimal(value, int(parameters["scale"]))
        case "Date":
            return date(1970, 1, 1) + timedelta(days=value)
        case "Time":
            return (epoch + timedelta(milliseconds=value)).time()
        case "MicroTime":
            return (epoch + timedelta(microseconds=value)).time()
        case "Timestamp":
            return epoch + timedelta(milliseconds=value)
        case "MicroTimestamp":
            return epoch + timedelta(microseconds=value)
        case "NanoTime":
            return (epoch + timedelta(microseconds=value // 1000)).time()
        case "NanoTimestamp":
            return epoch + timedelta(microseconds=value // 1000)
        case "ZonedTimestamp":
            return datetime.fromisoformat(value)
        case "IsoDate":
            return date.fromisoformat(value.removesuffix("Z"))
        case "IsoTime":
            return time.fromisoformat(value.removesuffix("Z"))
        case "IsoTimestamp":
            return datetime.fromisoformat(value.removesuffix("Z"))
    return value


def same(left: Any, right: Any) -> bool:
    """Equality in which NaN equals itself and 1 isn't True."""
    if isinstance(left, float) and isinstance(right, float):
        return np.array(left).tobytes() == np.array(right).tobytes() or (left != left and right != right)
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, datetime | date | time | Decimal):
        return bool(left == right) and str(left).partition("+")[0] == str(right).partition("+")[0]
    return type(left) is type(right) and bool(left == right)
