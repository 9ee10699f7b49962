"""What RocksDB tells of a database, be it the key index or one of Faust's tables."""

from __future__ import annotations

from rocksdict import Rdict, ReadOptions


def is_in_use(error: Exception) -> bool:
    """Whether a database couldn't be opened because it is open already: rocksdict says it in words only."""
    return "lock file" in str(error) or "lock hold by current process" in str(error)


def entries_from(database: Rdict, start: bytes, options: ReadOptions | None = None) -> list[tuple[bytes, bytes]]:
    """All entries from a key on, in order. Raises rocksdict's Exception for entries that are damaged."""
    found = []
    entries = database.iter(options)
    try:
        entries.seek(start)
        while entries.valid():
            found.append((entries.key(), entries.value()))
            entries.next()
        entries.status()  # damage ends an iteration like the end of the data does
    finally:
        del entries  # an error's traceback would hold it, and it the database's lock
    return found
