"""`cdc verify`: is every sink's table equal to its source?"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from config.environment import load_settings
from config.errors import LakewardError
from verify.compare import Difference
from verify.output import DifferenceFile, text
from verify.report import Comparison, Report
from verify.run import verify_pipeline


@click.command()
@click.argument("pipeline", type=click.Path(path_type=Path))
@click.option(
    "--platform-config", type=click.Path(path_type=Path), help="platform.yaml; default: ./platform.yaml if there."
)
@click.option(
    "--timeout", default=120.0, show_default=True, help="Seconds to wait for connector and sinks to catch up."
)
@click.option("--limit", default=20, show_default=True, help="Differing rows of each kind to print per table.")
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="All differing rows: ….parquet, ….json."
)
@click.option(
    "--repair",
    is_flag=True,
    help="Have the connector send missing and different rows again, and delete rows that the source no longer has.",
)
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
def verify(
    pipeline: Path,
    platform_config: Path | None,
    timeout: float,
    limit: int,
    output: Path | None,
    repair: bool,
    form: str,
) -> None:
    """Compare the source with the tables of PIPELINE's sinks while both change, and say which rows differ.

    Exit status: 0 equal, 1 different, 2 could not tell (something out of reach or too far behind).
    """
    try:
        settings = load_settings(pipeline, platform_config)
        say = (lambda text: click.echo(text, err=True)) if form == "table" else (lambda _: None)
        with DifferenceFile(output) if output is not None else nullcontext() as file:
            report = asyncio.run(
                verify_pipeline(
                    settings.pipeline,
                    settings.platform,
                    timeout=timeout,
                    examples=limit,
                    say=say,
                    output=file,
                    repair=repair,
                )
            )
    except LakewardError as error:
        click.secho(f"could not tell: {error}", fg="red", err=True)
        sys.exit(2)
    if form == "json":
        plain = {"exit_status": report.exit_status, "tables": [asdict(verdict) for verdict in report.verdicts]}
        click.echo(json.dumps(plain, indent=1, default=text))
    else:
        show(report)
    sys.exit(report.exit_status)


def show(report: Report) -> None:
    """A line per table and sink, then the differences."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    headings = ("missing", "extra", "doubled", "different", "verdict")
    table = Table("sink", "table", "rows at the source", "rows in the sink", *headings)
    for verdict in report.verdicts:
        found = verdict.comparison
        if found is None:
            table.add_row(verdict.sink_id, verdict.table, *[""] * 6, "could not tell")
            continue
        counts = [f"{n:,}" for n in _counts(found)]
        table.add_row(verdict.sink_id, verdict.table, *counts, "equal" if found.equal else "DIFFERENT")
    console.print(table)
    for verdict in report.verdicts:
        if verdict.unclear:
            reason = f"{verdict.sink_id} {verdict.table}: could not tell: {verdict.unclear}"
            console.print(reason, highlight=False, soft_wrap=True, markup=False)
        for note in verdict.notes:
            console.print(f"{verdict.sink_id} {verdict.table}: {note}", highlight=False, soft_wrap=True, markup=False)
        for difference in verdict.comparison.examples if verdict.comparison else ():
            line = f"{verdict.sink_id} {verdict.table}: {_readable(difference)}"
            console.print(line, highlight=False, soft_wrap=True, markup=False)


def _readable(difference: Difference) -> str:
    key = ", ".join(f"{name}={value!r}" for name, value in difference.key.items())
    columns = "; ".join(f"{name}: source {a!r}, sink {b!r}" for name, (a, b) in difference.columns.items())
    return f"{difference.kind} {key}" + (f": {columns}" if columns else "")


def _counts(found: Comparison) -> tuple[int, ...]:
    return found.source_rows, found.sink_rows, found.missing, found.extra, found.doubled, found.different
