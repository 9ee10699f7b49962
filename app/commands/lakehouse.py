"""`cdc lakehouse`: the lake tables of a pipeline."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from app.commands.options import pipeline_argument, platform_option
from config.environment import Settings, load_settings
from sinks.factory import KEY_INDEX, plan_tables
from sinks.status import SIZES, TableStatus
from tables.index_usage import IndexUsage, index_usage


@dataclass(frozen=True)
class Found:
    """A table's status, and the keys and bytes of it in the key indexes of this machine's workers (0: none here)."""

    status: TableStatus
    index_keys: int
    index_bytes: int


@click.group()
def lakehouse() -> None:
    """The lake tables of a pipeline."""


@lakehouse.command()
@pipeline_argument()
@platform_option()
@click.option("--format", "style", type=click.Choice(["table", "json"]), default="table", show_default=True)
def status(pipeline: Path, platform_config: Path | None, style: str) -> None:
    """Show what each table of PIPELINE's sinks consists of, and what its upkeep will do next and when.

    Reads the tables themselves, so no worker needs to run. Nobody has to act on what it shows: small and dirty files
    are rewritten by the workers. The key index is shown as far as workers of this machine have it (CDC_DATA_DIR).
    """
    settings = load_settings(pipeline, platform_config)
    indexes = _indexes(settings)
    found: list[Found] = []
    missing: list[str] = []
    for plan in plan_tables(settings.pipeline, settings.sinks):
        table = plan.status()
        if table is None:
            missing.append(f"{plan.target.sink_id} {plan.target.name}: no commit yet")
            continue
        keys = sum(index.keys[table.table_id] for index in indexes)
        found.append(Found(table, keys, sum(index.bytes_of(table.table_id) for index in indexes)))
    if style == "json":
        content = [{**asdict(f.status), "index_keys": f.index_keys, "index_bytes": f.index_bytes} for f in found]
        click.echo(json.dumps(content, ensure_ascii=False, indent=2, default=str))
    else:
        _show(found)
        for line in missing:
            click.echo(line)


def _indexes(settings: Settings) -> list[IndexUsage]:
    folders = sorted((settings.data_dir / settings.app_id).glob(f"worker-*/{KEY_INDEX}"))
    return [usage for usage in map(index_usage, folders) if usage is not None]


def _show(found: Sequence[Found]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 180)
    sizes = " / ".join([*(f"<{_size(bound)}" for bound in SIZES), "larger"])
    table = Table(
        "sink", "table", "rows", "data", f"files {sizes}", "dead rows", "dirty", "deletes", "manifests", "snapshots",
        "metadata", "index",
    )  # fmt: skip
    for each in found:
        status, files = each.status, each.status.files
        table.add_row(
            status.sink_id,
            status.table,
            f"{status.rows:,}",
            _size(files.bytes),
            " / ".join(map(str, files.by_size)),
            f"{files.dead_rows:,}",
            str(files.dirty),
            f"{status.deletes.count} ({status.deletes.positions:,})",
            str(status.manifests),
            str(status.snapshots),
            _size(status.metadata_bytes),
            f"{each.index_keys:,} keys, {_size(each.index_bytes)}" if each.index_keys else "-",
        )
    console.print(table)
    for each in found:
        for upkeep in each.status.upkeep:
            line = f"{each.status.sink_id} {each.status.table}: {upkeep.what}: {upkeep.when}"
            console.print(line, highlight=False, soft_wrap=True)


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GB"
