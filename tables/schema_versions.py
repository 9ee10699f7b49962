"""The Faust table `schema_versions`: what the registry had of each subject when a worker last looked.

Kept in RocksDB on every worker (a global table), so that a restarted worker sees what was registered while it was away,
and any worker's stats page shows the history. Written by the agent `schemas` only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import faust

NAME = "schema_versions"

KEPT_VERSIONS = 20
"""The newest versions of a subject that are kept: the table's records stay small however often a schema changes."""


@dataclass(frozen=True)
class SeenVersion:
    """A version of a subject. `seen_at`: when a worker met it (ISO 8601, UTC). `compatible`: what the registry said of
    it and its predecessors; None for what was there at the first look."""

    version: int
    schema_id: int
    seen_at: str
    compatible: bool | None = None


def define_schema_versions(app: faust.App) -> Any:
    """The table, to be called once while the app is built; as `sink_watermarks`, it has one changelog partition that
    every worker writes to."""
    return app.GlobalTable(
        NAME,
        partitions=1,
        recovery_buffer_size=1,
        use_partitioner=True,
        help="Per subject of the schema registry: its versions.",
    )


def stored(versions: list[SeenVersion]) -> Mapping[str, Any]:
    """The table's value, as JSON holds it; oldest version first."""
    return {"versions": [asdict(version) for version in versions[-KEPT_VERSIONS:]]}


def parsed(value: Mapping[str, Any] | None) -> list[SeenVersion] | None:
    """The inverse of `stored`; None for a subject that nobody has looked at."""
    return None if value is None else [SeenVersion(**version) for version in value["versions"]]
