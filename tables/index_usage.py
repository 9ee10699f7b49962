"""How large key indexes are, looked at from outside: while their worker runs, or when it doesn't."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from rocksdict import AccessType, Options, Rdict

from tables.key_index import IndexedFile


@dataclass(frozen=True)
class IndexUsage:
    """The keys of each table (by its id), as of the last flush, and the bytes on disk of all of them together."""

    keys: Counter[str]
    bytes: int

    def bytes_of(self, table_id: str) -> int:
        """A table's share of the disk, by its keys."""
        total = self.keys.total()
        return round(self.bytes * self.keys[table_id] / total) if total else 0


def index_usage(path: Path) -> IndexUsage | None:
    """None if there is no index at `path`, or if it changes too fast to be read from outside."""
    if not (path / "CURRENT").exists():
        return None
    try:
        database = Rdict(str(path), Options(raw_mode=True), access_type=AccessType.read_only())
    except Exception:  # rocksdict raises plain Exception; its worker may just have replaced a file
        return None
    keys: Counter[str] = Counter()
    try:
        tables = {json.loads(v)["number"]: json.loads(k[1:])[0] for k, v in _entries(database, b"M")}
        for key, value in _entries(database, b"F"):
            file = IndexedFile.decode(value)
            keys[tables.get(int.from_bytes(key[1:5], "big"), "")] += file.rows - file.dead
    finally:
        database.close()
    return IndexUsage(keys, sum(file.stat().st_size for file in path.iterdir() if file.is_file()))


def _entries(database: Rdict, kind: bytes) -> Iterator[tuple[bytes, bytes]]:
    return takewhile(lambda entry: entry[0].startswith(kind), database.items(from_key=kind))
