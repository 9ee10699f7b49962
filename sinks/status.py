"""What a sink's table consists of, and what its upkeep will do next: read from the table, not from a worker."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

SIZES = (64 << 10, 1 << 20, 16 << 20)
"""Bytes that part the sizes of data files."""


@dataclass(frozen=True)
class Upkeep:
    """Something that the worker will do for the table by itself: what, and when."""

    what: str
    when: str


@dataclass(frozen=True)
class Files:
    """Data files: how many, their bytes, how many there are of each size (below 64 kB, 1 MB, 16 MB; larger), and rows
    in them that are deleted. `dirty` files have more deleted rows than the worker leaves in a file for long."""

    count: int
    bytes: int
    by_size: tuple[int, int, int, int]
    dead_rows: int = 0
    dirty: int = 0


@dataclass(frozen=True)
class Deletes:
    """Position-delete files: how many, the positions in them, their bytes."""

    count: int
    positions: int
    bytes: int


@dataclass(frozen=True)
class TableStatus:
    """One table of one sink.

    `version`: snapshot id or version. `rows`: those that readers see. `snapshots`: those that time travel reaches (of
    Delta: versions whose log is there). `metadata_bytes`: what a reader reads before the first data file.
    `manifests`, `retired_files` (that wait for their removal) and `deletes` are Iceberg's.
    """

    sink_id: str
    table: str
    table_id: str
    version: str
    committed_at: datetime
    rows: int
    files: Files
    snapshots: int
    metadata_bytes: int
    upkeep: tuple[Upkeep, ...]
    deletes: Deletes = Deletes(0, 0, 0)
    manifests: int = 0
    retired_files: int = 0


def by_size(sizes: Iterable[int]) -> tuple[int, int, int, int]:
    """How many files there are of each size."""
    counts = [0, 0, 0, 0]
    for size in sizes:
        counts[sum(size >= bound for bound in SIZES)] += 1
    return counts[0], counts[1], counts[2], counts[3]
