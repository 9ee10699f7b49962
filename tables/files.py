"""The RocksDB files under Faust's tables."""

from __future__ import annotations

from contextlib import suppress
from typing import Any


def give_up_files(table: Any) -> None:
    """Close a table's databases, which Faust opens again when it next needs them: after a disk was full or failed,
    RocksDB writes nothing more until then. What they lack by then is in the table's changelog topic."""
    databases: dict[int, Any] = table.data._dbs
    for partition in list(databases):
        with suppress(Exception):  # it can't be written to
            databases.pop(partition).close()
