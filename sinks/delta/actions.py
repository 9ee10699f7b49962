"""What the table's log is made of, and the table that its actions lead to (Delta protocol, "Actions")."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any
from urllib.parse import quote, unquote

import pyarrow as pa
from deltalake.schema import Schema

from sinks.delta.vectors import Vector
from sinks.owners import Owner, owner_of

Action = Mapping[str, Mapping[str, Any]]
"""One line of a commit: the kind, and its body."""

_RECORDS = re.compile(r'"numRecords"\s*:\s*(\d+)')
_TIGHT = '"tightBounds":true'
_SAFE = "/=!$&'()*+,;@~"
"""Characters of a path that its URI in the log has as they are."""


@dataclass(frozen=True)
class DataFile:
    """A data file of the table and the vector of its rows that are gone.

    `path` is as in the log, a URI. `settled` says what a commit of another writer left last: the vector's id and, if
    the file was there before, the commit's version. What this sink's own commits take away doesn't change it.
    """

    path: str
    size: int
    partition: Mapping[str, str | None]
    stats: str | None
    vector: Vector | None
    modified: int
    settled: str = ""

    @classmethod
    def new(cls, location: str, size: int, partition: Mapping[str, str | None], stats: str) -> DataFile:
        """A file that was just written to `location`, below the table's folder."""
        return cls(quote(location, safe=_SAFE), size, partition, stats, None, now_ms())

    @classmethod
    def of_action(cls, body: Mapping[str, Any]) -> DataFile:
        """From an `add`."""
        vector = Vector.of_action(body.get("deletionVector"))
        return cls(
            body["path"], body["size"], dict(body["partitionValues"]), body.get("stats"), vector,
            body["modificationTime"], vector.id if vector else "",
        )  # fmt: skip

    @cached_property
    def rows(self) -> int | None:
        """Rows in the Parquet file, with those that are gone; None if its writer didn't tell."""
        found = _RECORDS.search(self.stats or "")
        return None if found is None else int(found[1])

    @property
    def dead(self) -> int:
        """How many of the rows are gone."""
        return 0 if self.vector is None else self.vector.cardinality

    @property
    def location(self) -> str:
        """Where it lies below the table's folder."""
        return unquote(self.path)

    @cached_property
    def owner(self) -> Owner | None:
        """The Kafka partition whose rows it holds, None for a file of another writer."""
        return owner_of(self.path)

    @cached_property
    def group(self) -> tuple[tuple[str, str | None], ...]:
        """What files that may be merged have in common: the table partition."""
        return tuple(sorted(self.partition.items()))

    @property
    def identity(self) -> str:
        """What changes with the live rows of a Kafka partition that another one doesn't share."""
        return f"{self.path}|{self.vector.id if self.vector and self.owner else self.settled}"

    def with_vector(self, vector: Vector, rows: int) -> DataFile:
        """The same file, of `rows` rows, with more of them gone: its bounds needn't be met by a row any more."""
        return replace(self, vector=vector, stats=_wide(self.stats, rows))

    def add(self, *, changes: bool) -> Action:
        """The action that brings it; `changes` says whether rows change by it, or only move."""
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

    def remove(self, now: int, *, changes: bool) -> Action:
        """The action that takes it away (milliseconds since 1970)."""
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


def _wide(stats: str | None, rows: int) -> str:
    """Statistics of a file once a vector took rows away (Delta protocol, "Per-file Statistics", `tightBounds`)."""
    if stats is not None and '"tightBounds":false' in stats:
        return stats
    if stats is not None and stats.count(_TIGHT) == 1:
        return stats.replace(_TIGHT, '"tightBounds":false')
    return f'{{"numRecords":{rows},"tightBounds":false}}'  # of a writer that didn't tell; without bounds none is wrong


@dataclass
class Snapshot:
    """The table at one version. `ours` says whether a commit was made by this sink; a version of -1 is no table.

    `given_up` says of data and vector files (by location) when a version stopped needing them last, in milliseconds
    since 1970: the log's tombstones, but a file that is touched again and again is there once. `read_whole_at`: the
    version of the checkpoint that it was begun with; of commits up to there `settled` doesn't tell.
    """

    ours: Callable[[Iterable[Action]], bool] = lambda _: False
    version: int = -1
    read_whole_at: int = -1
    at: int = 0
    protocol: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    transactions: dict[str, int] = field(default_factory=dict)
    files: dict[str, DataFile] = field(default_factory=dict)
    given_up: dict[str, int] = field(default_factory=dict)
    _owned: dict[Owner | None, dict[str, DataFile]] = field(default_factory=lambda: defaultdict(dict))

    def apply(self, version: int, actions: Iterable[Action]) -> None:
        """Take in a commit, or a part of a checkpoint (Delta protocol, "Action Reconciliation"). Removes go first: an
        add and a remove of one path in one commit mean another vector."""
        found = [(kind, body) for action in actions for kind, body in action.items()]
        ours = self.ours([{kind: body} for kind, body in found])
        before = {}
        for _, body in (item for item in found if item[0] == "remove"):
            vector = Vector.of_action(body.get("deletionVector"))
            known = self.files.get(body["path"])
            if known is not None and known.vector == vector:
                before[known.path] = self.files.pop(known.path)
                del self._owned[known.owner][known.path]
            for location in (unquote(body["path"]), vector.path if vector else None):
                if location is not None:
                    at = body.get("deletionTimestamp") or 0
                    self.given_up[location] = max(at, self.given_up.get(location, 0))
        for kind, body in found:
            if kind == "add":
                file = DataFile.of_action(body)
                known = before.get(file.path) or self.files.get(file.path)
                if known is not None:  # by another writer: rows may have come back, be it with the vector of before
                    file = replace(file, settled=known.settled if ours else f"{file.settled}@{version}")
                self.files[file.path] = file
                self._owned[file.owner][file.path] = file
            elif kind == "txn":
                self.transactions[body["appId"]] = body["version"]
            elif kind == "metaData":
                self.metadata = {**body, "configuration": dict(body.get("configuration") or {})}
            elif kind == "protocol":
                self.protocol = body
            elif kind == "commitInfo":
                self.at = body.get("timestamp") or self.at
        self.version = version

    def files_of(self, owner: Owner) -> Iterator[DataFile]:
        """The files that may hold rows of a Kafka partition: its own, and those that other engines wrote."""
        yield from self._owned.get(owner, {}).values()
        yield from self._owned.get(None, {}).values()

    @property
    def foreign_files(self) -> Collection[str]:
        """Paths of the files that other writers wrote."""
        return self._owned.get(None, {}).keys()

    @property
    def locations(self) -> set[str]:
        """The data and vector files of this version."""
        vectors = {file.vector.path for file in self.files.values() if file.vector is not None}
        return {file.location for file in self.files.values()} | {path for path in vectors if path is not None}

    @property
    def columns(self) -> pa.Schema:
        """The table's columns, those of its partitions included."""
        return _columns(self.metadata["schemaString"])

    @property
    def partition_columns(self) -> tuple[str, ...]:
        """The columns that it is partitioned by."""
        return tuple(self.metadata["partitionColumns"])

    @property
    def properties(self) -> Mapping[str, str]:
        """The table's properties."""
        properties: Mapping[str, str] = self.metadata["configuration"]
        return properties


@lru_cache(maxsize=64)
def _columns(schema: str) -> pa.Schema:
    return pa.schema(Schema.from_json(schema).to_arrow())


def now_ms() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1_000)
