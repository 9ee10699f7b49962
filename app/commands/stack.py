"""`cdc stack`: the local stack without Docker."""

from __future__ import annotations

import sys
from pathlib import Path
from time import monotonic

import click
import psutil
from rich.console import Console
from rich.table import Table

from stack import dist, manager
from stack.ports import default_ports
from stack.supervisor import SERVICES

STATE = click.option(
    "--state", type=click.Path(path_type=Path), default=Path(".stack"), show_default=True, help="The stack's folder."
)


@click.group()
def stack() -> None:
    """Kafka, Connect with Debezium, registry, PostgreSQL, MariaDB, S3 and an Iceberg catalog, as local processes."""


@stack.command()
@STATE
@click.option("--only", help=f"Just these and what they need: {', '.join(SERVICES)}.")
@click.option("--port-offset", default=0, show_default=True, help="Added to every default port.")
@click.option("--fresh", is_flag=True, help="Forget all data first.")
def up(state: Path, only: str | None, port_offset: int, fresh: bool) -> None:
    """Start the stack (what isn't running yet) and wait until it is healthy.

    The services run in the background. One that dies is started again, five times at most; `cdc stack status` shows
    it. `cdc stack down` stops them; the data stays, unless the next `up` says --fresh.
    """
    began = monotonic()
    if fresh:
        manager.wipe(state)
    names = {name.strip() for name in only.split(",")} if only else None
    manager.up(state, names, ports=default_ports(port_offset), say=click.echo)
    click.echo(f"up after {monotonic() - began:.1f} s; addresses and passwords are in {state}/endpoints.json")


@stack.command()
@STATE
def down(state: Path) -> None:
    """Stop everything that `up` started."""
    manager.down(state, click.echo)
    click.echo("down")


@stack.command()
@STATE
@click.pass_context
def status(ctx: click.Context, state: Path) -> None:
    """Show each service's state; exit status 1 unless all that were started are ready."""
    found = manager.statuses(state)
    table = Table("service", "state", "port", "pid", "memory", "note")
    total = 0
    for name, entry in found.items():
        pid = entry.get("pid")
        memory = _memory(pid) if pid else 0
        total += memory
        note = entry.get("error") or (f"{entry['restarts']} restarts" if entry.get("restarts") else "")
        table.add_row(name, entry["state"], str(entry["port"]), str(pid or ""), f"{memory >> 20} MB", note)
    if not found:
        click.echo("nothing is running; start it by `cdc stack up`")
        ctx.exit(1)
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    click.echo(f"{total >> 20} MB resident; logs in {state}/logs")
    ctx.exit(0 if all(entry["state"] == "ready" for entry in found.values()) else 1)


@stack.command()
def prepare() -> None:
    """Download what the stack runs on, without starting anything."""
    dist.prepare(dist.ALL, click.echo)


def _memory(pid: int) -> int:
    """Resident bytes of a process and its children (shared pages counted once per process)."""
    try:
        process = psutil.Process(pid)
        return sum(p.memory_info().rss for p in (process, *process.children(recursive=True)))
    except psutil.NoSuchProcess:
        return 0
