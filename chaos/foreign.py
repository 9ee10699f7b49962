"""What other programs do to a table while a pipeline writes it, by PyIceberg and delta-rs alone.

None of it changes what the table has to hold in the end."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from deltalake import DeltaTable
from pyiceberg.table import Table

from config.pipeline import IcebergConfig
from sinks.factory import TablePlan
from sinks.iceberg.catalog import connect

LEFT = 5
"""Snapshots that stay when old ones are expired, and how far a rollback goes at most."""


def touch(plans: Sequence[TablePlan], number: int) -> str:
    """Do something to one of the tables; returns what was done, or why it wasn't: it may lose a race."""
    rng = random.Random(number)
    plan = rng.choice(plans)
    where = f"{plan.target.sink_id} {plan.target.name}"
    try:
        if isinstance(plan.settings, IcebergConfig):
            table = connect(plan.settings).load_table(plan.target.name)
            return f"{where}: {rng.choice((_rewrite, _roll_back, _expire))(table, rng)}"
        delta = DeltaTable(plan.target.name, storage_options=plan.settings.storage_options)
        return f"{where}: {rng.choice((_compact, _checkpoint))(delta)}"
    except Exception as error:  # whatever a library raises that lost a race, or whose store is away
        return f"{where}: not done: {type(error).__name__}: {str(error)[:200]}"


def _rewrite(table: Table, _: random.Random) -> str:
    """All rows into new files, as a compaction does."""
    rows = table.scan().to_arrow()
    table.overwrite(rows)
    return f"{len(rows)} rows rewritten"


def _roll_back(table: Table, rng: random.Random) -> str:
    """To an earlier snapshot, whose offsets come with it."""
    current = table.current_snapshot()
    snapshots: list[int] = []
    while current is not None and current.parent_snapshot_id is not None and len(snapshots) < LEFT:
        current = table.snapshot_by_id(current.parent_snapshot_id)
        if current is not None:
            snapshots.append(current.snapshot_id)
    if not snapshots:
        return "no snapshot to go back to"
    back = rng.randrange(len(snapshots))
    table.manage_snapshots().rollback_to_snapshot(snapshots[back]).commit()
    return f"rolled back by {back + 1} snapshots"


def _expire(table: Table, _: random.Random) -> str:
    """All snapshots but the newest few."""
    snapshots = sorted(table.snapshots(), key=lambda snapshot: snapshot.sequence_number or 0)
    kept = {ref.snapshot_id for ref in table.refs().values()}
    old = [snapshot.snapshot_id for snapshot in snapshots[:-LEFT] if snapshot.snapshot_id not in kept]
    if old:
        table.maintenance.expire_snapshots().by_ids(old).commit()
    return f"{len(old)} snapshots expired"


def _compact(table: DeltaTable) -> str:
    done: dict[str, Any] = table.optimize.compact()
    return f"{done['numFilesRemoved']} files compacted to {done['numFilesAdded']}"


def _checkpoint(table: DeltaTable) -> str:
    table.create_checkpoint()
    return f"checkpoint at version {table.version()}"
