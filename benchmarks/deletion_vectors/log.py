"""A Delta table's log: replaying it, and adding a version to it by put-if-absent.

Only what the study needs: checkpoints of the first kind (one Parquet file or several parts), no sidecars.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from deltalake.schema import Schema

from benchmarks.deletion_vectors.vectors import Vector

Action = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Store:
    """A table's folder on a disk or in an object store. `put_new` is false if the file was there already."""

    fs: pafs.FileSystem
    root: str
    put_new: Callable[[str, bytes], bool]

    def read(self, path: str) -> bytes:
        with self.fs.open_input_file(f"{self.root}/{path}") as stream:
            return bytes(stream.read())

    def open(self, path: str) -> pa.NativeFile:
        return self.fs.open_input_file(f"{self.root}/{path}")

    def write(self, path: str, content: bytes) -> None:
        if isinstance(self.fs, pafs.LocalFileSystem):
            Path(self.root, path).parent.mkdir(parents=True, exist_ok=True)
        with self.fs.open_output_stream(f"{self.root}/{path}") as stream:
            stream.write(content)

    def delete(self, path: str) -> None:
        self.fs.delete_file(f"{self.root}/{path}")

    def exists(self, path: str) -> bool:
        return bool(self.fs.get_file_info(f"{self.root}/{path}").type == pafs.FileType.File)

    def names(self, folder: str = "") -> list[str]:
        """The names of the files of a folder of the table."""
        found = self.fs.get_file_info(pafs.FileSelector(f"{self.root}/{folder}".rstrip("/"), allow_not_found=True))
        return sorted(info.base_name for info in found if info.type == pafs.FileType.File)


def local_store(folder: Path) -> Store:
    """A folder: a hard link to a whole file fails if the name is taken."""

    def put_new(path: str, content: bytes) -> bool:
        beside = folder / Path(path).parent / f".{uuid4().hex}.tmp"
        beside.write_bytes(content)
        try:
            os.link(beside, folder / path)
        except FileExistsError:
            return False
        finally:
            beside.unlink()
        return True

    return Store(pafs.LocalFileSystem(), str(folder), put_new)


def s3_store(bucket: str, prefix: str, endpoint: str, user: str, password: str, *, client: str = "obstore") -> Store:
    """A folder of a bucket, over plain HTTP; `client` makes the conditional puts: obstore or boto3."""
    fs = pafs.S3FileSystem(
        access_key=user, secret_key=password, endpoint_override=endpoint, region="us-east-1", scheme="http"
    )
    put_new = (_obstore if client == "obstore" else _boto3)(bucket, prefix, endpoint, user, password)
    return Store(fs, f"{bucket}/{prefix}", put_new)


def _obstore(bucket: str, prefix: str, endpoint: str, user: str, password: str) -> Callable[[str, bytes], bool]:
    stores, obstore = import_module("obstore.store"), import_module("obstore")
    store = stores.S3Store(
        bucket, prefix=prefix, endpoint=endpoint, access_key_id=user, secret_access_key=password, region="us-east-1",
        virtual_hosted_style_request=False, client_options={"allow_http": True},
    )  # fmt: skip

    def put_new(path: str, content: bytes) -> bool:
        try:
            obstore.put(store, path, content, mode="create")
        except import_module("obstore.exceptions").AlreadyExistsError:
            return False
        return True

    return put_new


def _boto3(bucket: str, prefix: str, endpoint: str, user: str, password: str) -> Callable[[str, bytes], bool]:
    errors = import_module("botocore.exceptions")
    client = import_module("boto3").client(
        "s3", endpoint_url=endpoint, aws_access_key_id=user, aws_secret_access_key=password, region_name="us-east-1"
    )

    def put_new(path: str, content: bytes) -> bool:
        try:
            client.put_object(Bucket=bucket, Key=f"{prefix}/{path}", Body=content, IfNoneMatch="*")
        except errors.ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] in (409, 412):
                return False
            raise
        return True

    return put_new


@dataclass(frozen=True)
class LogicalFile:
    """A data file of the table and the vector of its rows that are gone; `path` is as in the log (a URI)."""

    path: str
    size: int
    partition: dict[str, str | None]
    stats: str
    vector: Vector | None
    modified: int

    @cached_property
    def rows(self) -> int:
        """Rows in the Parquet file, with those that are gone."""
        return int(json.loads(self.stats)["numRecords"])

    @property
    def location(self) -> str:
        """Where it lies below the table's folder."""
        return unquote(self.path)

    @property
    def identity(self) -> str:
        """What names exactly these rows."""
        return f"{self.path}|{self.vector.id if self.vector else ''}"

    def add(self, *, changes: bool = True) -> Action:
        found: dict[str, Any] = {
            "path": self.path,
            "partitionValues": self.partition,
            "size": self.size,
            "modificationTime": self.modified,
            "dataChange": changes,
            "stats": self.stats,
        }
        if self.vector is not None:
            found["deletionVector"] = self.vector.action()
        return {"add": found}

    def remove(self, now: int, *, changes: bool = True) -> Action:
        found: dict[str, Any] = {
            "path": self.path,
            "deletionTimestamp": now,
            "dataChange": changes,
            "extendedFileMetadata": True,
            "partitionValues": self.partition,
            "size": self.size,
        }
        if self.vector is not None:
            found["deletionVector"] = self.vector.action()
        return {"remove": found}


@dataclass(frozen=True)
class Tombstone:
    """A removed logical file, and when it went (milliseconds)."""

    path: str
    vector: Vector | None
    at: int


@dataclass
class Snapshot:
    """The table at one version."""

    version: int = -1
    protocol: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    transactions: dict[str, int] = field(default_factory=dict)
    files: dict[str, LogicalFile] = field(default_factory=dict)
    tombstones: dict[tuple[str, str], Tombstone] = field(default_factory=dict)

    def apply(self, version: int, actions: Iterable[Action]) -> None:
        """Take in a commit. Removes go first: an add and a remove of one path in one commit mean another vector."""
        found = [(kind, body) for action in actions for kind, body in action.items()]
        for _, body in (item for item in found if item[0] == "remove"):
            vector = Vector.of_action(body.get("deletionVector"))
            known = self.files.get(body["path"])
            if known is not None and known.vector == vector:
                del self.files[body["path"]]
            at = body.get("deletionTimestamp") or 0
            self.tombstones[body["path"], vector.id if vector else ""] = Tombstone(body["path"], vector, at)
        for kind, body in found:
            if kind == "add":
                file = LogicalFile(
                    body["path"], body["size"], dict(body["partitionValues"]), body.get("stats") or "{}",
                    Vector.of_action(body.get("deletionVector")), body["modificationTime"],
                )  # fmt: skip
                self.files[file.path] = file
                self.tombstones.pop((file.path, file.vector.id if file.vector else ""), None)
            elif kind == "txn":
                self.transactions[body["appId"]] = body["version"]
            elif kind == "metaData":
                self.metadata = body
            elif kind == "protocol":
                self.protocol = body
        self.version = version


def create(store: Store, columns: pa.Schema, partition_by: Sequence[str], *, feed: bool) -> None:
    """Version 0. Not by delta-rs: with `delta.enableDeletionVectors` it asks for the feature `variantType`, too, which
    Spark 3.5 doesn't know; and adding the feature to a table of writer version 4 loses `changeDataFeed`."""
    local = any(pa.types.is_timestamp(kind) and kind.tz is None for kind in columns.types)
    shared = ["deletionVectors", *(["timestampNtz"] if local else [])]
    protocol = {
        "minReaderVersion": 3,
        "minWriterVersion": 7,
        "readerFeatures": shared,
        "writerFeatures": [*shared, "appendOnly", "invariants", "changeDataFeed"],
    }
    metadata = {
        "id": str(uuid4()),
        "format": {"provider": "parquet", "options": {}},
        "schemaString": Schema.from_arrow(columns).to_json(),
        "partitionColumns": list(partition_by),
        "createdTime": now_ms(),
        "configuration": {
            "delta.enableDeletionVectors": "true",
            "delta.enableChangeDataFeed": str(feed).lower(),
            "delta.checkpointInterval": "20",
            "delta.deletedFileRetentionDuration": "interval 1 hours",
        },
    }
    info = {"timestamp": now_ms(), "operation": "CREATE TABLE", "operationParameters": {}, "engineInfo": "lakeward"}
    store.fs.create_dir(f"{store.root}/_delta_log", recursive=True)
    actions: list[Action] = [{"commitInfo": info}, {"protocol": protocol}, {"metaData": metadata}]
    if write_commit(store, 0, actions) is None:
        raise FileExistsError(f"{store.root} is a Delta table already")


def name_of(version: int) -> str:
    """The log's file of a version."""
    return f"_delta_log/{version:020d}.json"


def read_commit(store: Store, version: int) -> list[Action] | None:
    """The actions of a version, None if there is no such version yet."""
    try:
        raw = store.read(name_of(version))
    except FileNotFoundError:
        return None
    return [json.loads(line) for line in raw.splitlines() if line]


def load(store: Store) -> Snapshot:
    """The newest version, from the last checkpoint and the commits after it."""
    snapshot = Snapshot()
    if "_last_checkpoint" in store.names("_delta_log"):
        last = json.loads(store.read("_delta_log/_last_checkpoint"))
        for name in _checkpoint_files(last):
            snapshot.apply(last["version"], _checkpoint_actions(store, name))
    follow(store, snapshot)
    return snapshot


def follow(store: Store, snapshot: Snapshot) -> list[list[Action]]:
    """Bring the snapshot to the newest version; returns the commits that were taken in."""
    taken = []
    while (actions := read_commit(store, snapshot.version + 1)) is not None:
        snapshot.apply(snapshot.version + 1, actions)
        taken.append(actions)
    return taken


def write_commit(store: Store, version: int, actions: Iterable[Action]) -> int | None:
    """Put the version if it isn't there; its size in bytes, None if it was."""
    content = "".join(json.dumps(action, separators=(",", ":")) + "\n" for action in actions).encode()
    return len(content) if store.put_new(name_of(version), content) else None


def now_ms() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1_000)


def with_vector(file: LogicalFile, vector: Vector, stats: str) -> LogicalFile:
    """The same data file with more rows gone."""
    return replace(file, vector=vector, stats=stats)


def _checkpoint_files(last: Mapping[str, Any]) -> list[str]:
    version, parts = last["version"], last.get("parts")
    if "v2Checkpoint" in last:
        raise NotImplementedError("checkpoints with sidecars")
    if not parts:
        return [f"_delta_log/{version:020d}.checkpoint.parquet"]
    return [f"_delta_log/{version:020d}.checkpoint.{n:010d}.{parts:010d}.parquet" for n in range(1, parts + 1)]


def _checkpoint_actions(store: Store, name: str) -> list[Action]:
    with store.open(name) as stream:
        rows = pq.read_table(stream, columns=["protocol", "metaData", "txn", "add", "remove"]).to_pylist()
    return [{kind: _maps(body)} for row in rows for kind, body in row.items() if body is not None]


def _maps(body: dict[str, Any]) -> dict[str, Any]:
    """Parquet's maps come as lists of pairs."""
    return body | {name: dict(body[name] or ()) for name in ("partitionValues", "configuration") if name in body}
