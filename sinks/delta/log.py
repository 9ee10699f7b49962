"""The log of a table that Lakeward commits to by itself: its newest version, and one more by put-if-absent.

The newest version is remembered and followed commit by commit. It begins with the last classic checkpoint; those with
sidecars come with a feature that `protocol` refuses. Whether the remembered log is still the table's is told by the tag
of the newest file that was read of it: a table that was dropped, made anew, or left alone for so long that its log was
cleaned up is read from the beginning.

A commit whose version is taken looks at the winner. If that touched neither our Kafka partitions nor what any partition
rests on, ours is put as the next version: workers with different partitions don't wait for each other. If the winner is
our own commit (its `txnId`), only the store's answer had been lost.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import orjson
from deltalake.exceptions import CommitFailedError

from config.errors import ConfigurationError, Unavailable
from sinks.base import Target
from sinks.delta import protocol
from sinks.delta.actions import Action, Snapshot, now_ms
from sinks.delta.folder import Folder
from sinks.delta.storage import shown_older
from sinks.owners import Owner, owner_of

_LOG = "_delta_log"
_HINT = f"{_LOG}/_last_checkpoint"
_CLASSIC = re.compile(r"(\d{20})\.checkpoint(?:\.(\d{10})\.(\d{10}))?\.parquet$")
_MAPS = ("partitionValues", "configuration")
_KINDS = ("protocol", "metaData", "txn", "add", "remove")
_REBASES = 100
"""Commits of others that one of ours may be put behind, before it begins anew."""
LOOK_SECONDS = 600.0
"""A commit lands on a version that was looked at no longer ago: the log of a writer that slept may have been cleaned up
meanwhile, and to put a version that is long gone would succeed."""
_ROWS = 4096
"""Actions of a checkpoint that are Python objects at one time."""


@dataclass(frozen=True)
class Stake:
    """What a commit rests on: the offsets (their identifiers) and the files of Kafka partitions. Nothing at all may
    come between a commit that is `alone` and the version that it was made for."""

    app_ids: frozenset[str] = frozenset()
    owners: frozenset[Owner] = frozenset()
    alone: bool = False

    def is_lost_to(self, winner: Iterable[Action]) -> bool:
        """Whether a commit that landed first takes away what ours rests on. A file of another writer, which may hold
        rows of any partition, concerns everybody."""
        if self.alone:
            return True
        for action in winner:
            for kind, body in action.items():
                if kind in ("metaData", "protocol") or (kind == "txn" and body["appId"] in self.app_ids):
                    return True
                if kind in ("add", "remove"):
                    owner = owner_of(body["path"])
                    if owner is None or owner in self.owners:
                        return True
        return False


ALONE = Stake(alone=True)


class TableLog:
    """The log below a table's folder, as one sink reads and continues it. Raises as `Folder` does, and
    ConfigurationError for a table that can't be kept right."""

    def __init__(self, folder: Folder, target: Target) -> None:
        self._folder = folder
        self._name = target.name
        self._ours = f"lakeward/{target.pipeline_id}/{target.sink_id}/"
        self._snapshot: Snapshot | None = None
        self._newest = ("", "")
        self._looked_at = 0.0
        self._checked: tuple[object, object] | None = None

    def look(self) -> Snapshot | None:
        """The table as it is now, None if there is none. The same object each time, brought to the newest version."""
        newest, self._looked_at = self._newest, time.time()
        path, tag = newest
        if self._snapshot is None or self._folder.tag(path) != tag:
            try:
                self._snapshot = self._anew(self._snapshot)
            except BaseException:
                self._newest = newest  # of what is known, not of what was read in vain
                raise
        if self._snapshot is not None:
            self._follow(self._snapshot)
            self._check(self._snapshot)
        return self._snapshot

    @property
    def known(self) -> Snapshot | None:
        """The table as `look` or a commit showed it last."""
        return self._snapshot

    def create(self, actions: Iterable[Action]) -> bool:
        """Make the table; False if there is one."""
        return self._folder.put_new(_name(0), _lines(actions)) is not None

    def commit(self, operation: str, actions: Sequence[Action], stake: Stake) -> int:
        """Put one more version behind the one that `look` showed last; returns its number.

        Raises CommitFailedError if it was lost to another commit, and nothing landed.
        """
        snapshot = self._snapshot
        assert snapshot is not None
        if time.time() - self._looked_at > LOOK_SECONDS:
            raise CommitFailedError(f"{self._name} was looked at too long ago")
        info = commit_info(operation)
        whole = [info, *actions]
        content = _lines(whole)
        for version in range(snapshot.version + 1, snapshot.version + 1 + _REBASES):
            path = _name(version)
            tag = self._folder.put_new(path, content)
            if tag is None:
                winner, tag = self._read(path)
                if any(a.get("commitInfo", {}).get("txnId") == info["commitInfo"]["txnId"] for a in winner):
                    self._take_in(snapshot, version, whole, tag)
                    return version
                if stake.is_lost_to(winner):
                    raise CommitFailedError(f"{path} of {self._name} came first")
                self._take_in(snapshot, version, winner, tag)
                continue
            self._take_in(snapshot, version, whole, tag)
            return version
        raise CommitFailedError(f"{_REBASES} commits in a row came first to {self._name}")

    def between(self, first: int, last: int) -> list[Sequence[Action]] | None:
        """The commits of the versions [first, last]; None if the log doesn't have them all any more."""
        try:
            return [self._read(_name(version))[0] for version in range(first, last + 1)]
        except FileNotFoundError:
            return None

    def files(self) -> dict[str, int]:
        """The log's files and their bytes."""
        return {file.path.removeprefix(f"{_LOG}/"): file.size for file in self._folder.files(_LOG)}

    # -- reading

    def _anew(self, known: Snapshot | None) -> Snapshot | None:
        """The table, read from the beginning. An older version than the known one must not be believed: files of
        the newest commits would be removed by it."""
        try:
            found = self._load()
        except FileNotFoundError as error:  # cleaned up while it was read
            raise Unavailable(f"Delta table {self._name}: its log changed while it was read: {error}") from error
        if found and known and found.version < known.version and found.metadata["id"] == known.metadata["id"]:
            raise shown_older(self._name, found.version, known.version)
        return found

    def _load(self) -> Snapshot | None:
        snapshot = Snapshot(self._is_ours)
        checkpoint = self._last_checkpoint()
        if checkpoint is not None:
            version, paths = checkpoint
            for path in paths:
                for actions in self._checkpoint(path):
                    snapshot.apply(version, actions)
            snapshot.read_whole_at = version
            self._newest = paths[-1], self._folder.tag(paths[-1]) or ""
        self._follow(snapshot)
        if snapshot.version >= 0 and not (snapshot.protocol and snapshot.metadata):
            raise Unavailable(f"Delta table {self._name}: its log is cut short at the beginning")
        return snapshot if snapshot.version >= 0 else None

    def _follow(self, snapshot: Snapshot) -> None:
        while True:
            path = _name(snapshot.version + 1)
            try:
                actions, tag = self._read(path)
            except FileNotFoundError:
                return
            self._take_in(snapshot, snapshot.version + 1, actions, tag)

    def _take_in(self, snapshot: Snapshot, version: int, actions: Sequence[Action], tag: str) -> None:
        snapshot.apply(version, actions)
        self._newest = _name(version), tag

    def _read(self, path: str) -> tuple[list[Action], str]:
        raw, tag = self._folder.read_tagged(path)
        return [orjson.loads(line) for line in raw.splitlines() if line], tag

    def _last_checkpoint(self) -> tuple[int, list[str]] | None:
        """The version of the last checkpoint and the files of it; by the hint if there is one."""
        try:
            hint = orjson.loads(self._folder.read(_HINT))
        except FileNotFoundError:
            return self._listed_checkpoint()
        if "v2Checkpoint" in hint:
            raise ConfigurationError(
                f"Delta table {self._name} has v2 checkpoints, which Lakeward's commits with deletion vectors can't"
                " keep up with. Drop that feature (Spark: ALTER TABLE … DROP FEATURE v2Checkpoint), set upserts: merge,"
                " or let Lakeward create a new table"
            )
        version, parts = hint["version"], hint.get("parts")
        stem = f"{_LOG}/{version:020d}.checkpoint"
        if not parts:
            return version, [f"{stem}.parquet"]
        return version, [f"{stem}.{n:010d}.{parts:010d}.parquet" for n in range(1, parts + 1)]

    def _listed_checkpoint(self) -> tuple[int, list[str]] | None:
        if self._folder.tag(_name(0)) is not None:
            return None
        whole: dict[tuple[int, int], list[str]] = {}
        for file in self._folder.files(_LOG):
            found = _CLASSIC.search(file.path)
            if found is not None:
                whole.setdefault((int(found[1]), int(found[3] or 1)), []).append(file.path)
        complete = [(version, sorted(paths)) for (version, parts), paths in whole.items() if len(paths) == parts]
        return max(complete, default=None)

    def _checkpoint(self, path: str) -> Iterator[list[Action]]:
        parquet = self._folder.parquet(path)
        kinds = [kind for kind in _KINDS if kind in parquet.schema_arrow.names]
        for rows in parquet.iter_batches(_ROWS, columns=kinds):
            yield [
                {kind: _with_maps(body)}
                for row in rows.to_pylist()
                for kind, body in row.items()
                if body is not None
            ]  # fmt: skip

    def _check(self, snapshot: Snapshot) -> None:
        seen = (snapshot.protocol, snapshot.metadata)
        if self._checked is None or seen[0] is not self._checked[0] or seen[1] is not self._checked[1]:
            protocol.check(self._name, snapshot.protocol, snapshot.metadata)
            self._checked = seen

    def _is_ours(self, actions: Iterable[Action]) -> bool:
        return any(body["appId"].startswith(self._ours) for a in actions for kind, body in a.items() if kind == "txn")


def commit_info(operation: str) -> dict[str, dict[str, Any]]:
    """The action that says what a commit was; its `txnId` is found nowhere else."""
    return {
        "commitInfo": {
            "timestamp": now_ms(),
            "operation": operation,
            "operationParameters": {},
            "isBlindAppend": False,
            "engineInfo": "lakeward",
            "txnId": str(uuid4()),
        }
    }


def _name(version: int) -> str:
    return f"{_LOG}/{version:020d}.json"


def _lines(actions: Iterable[Action]) -> bytes:
    return b"".join(orjson.dumps(action) + b"\n" for action in actions)


def _with_maps(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """An action of a checkpoint: Parquet's maps come as lists of pairs."""
    found = {**body, **{name: dict(body[name] or ()) for name in _MAPS if name in body}}
    if "format" in body:
        found["format"] = {**body["format"], "options": dict(body["format"].get("options") or ())}
    return found
