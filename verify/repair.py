"""Mending what differs: rows that are missing or different are read from the source again, by Debezium.

A row in the signalling table (`source.signal_table`) asks the connector for an incremental snapshot of a table under
the condition that it is one of some keys. The rows come through Kafka like every change, in order with those that
happen meanwhile, and all sinks of the pipeline take them in.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from time import monotonic
from uuid import uuid4

from config.errors import ConfigurationError
from config.pipeline import PipelineConfig
from verify.finding import Finding
from verify.progress import Say
from verify.sql_keys import in_parts

REPAIR_ROWS = 20_000
"""Rows of a table that a repair reads again at most."""
_PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0)


class Repair:
    """Asks for rows again and waits, for `timeout` seconds at most, until they don't differ any more."""

    def __init__(self, pipeline: PipelineConfig, timeout: float, say: Say) -> None:
        """Raises ConfigurationError if the pipeline has no signalling table."""
        if pipeline.source.signal_table is None:
            raise ConfigurationError(
                "--repair asks the connector by its signalling table: create one at the source (id varchar(64), type"
                " varchar(32), data text), name it as source.signal_table (schema.table) in the pipeline file, and run"
                " `cdc deploy`"
            )
        self._signal_table = pipeline.source.signal_table
        self._timeout = timeout
        self._say = say

    async def mend(self, findings: Sequence[Finding]) -> None:
        """Signal for every table with rows that can be sent again, and look at these again until they are equal.

        Raises ConfigurationError for more rows than `REPAIR_ROWS` in a table, or if the signalling table can't be
        written.
        """
        wanted = [finding for finding in findings if finding.repairable]
        _check_number(wanted)
        asked: set[str] = set()
        for finding in wanted:
            for condition in _conditions(finding):
                if condition not in asked:
                    asked.add(condition)
                    await self._signal(finding, condition)
            finding.repaired = finding.repairable
        deadline = monotonic() + self._timeout
        pauses = iter(_PAUSES)
        while any(finding.repairable for finding in wanted) and monotonic() < deadline:
            await asyncio.sleep(next(pauses, _PAUSES[-1]))
            for finding in wanted:
                if finding.repairable:
                    await finding.look_again()

    async def _signal(self, finding: Finding, condition: str) -> None:
        table = finding.pair.table.name
        data = {
            "data-collections": [table],
            "type": "incremental",
            "additional-conditions": [{"data-collection": table, "filter": condition}],
        }
        self._say(f"{table}: asking for rows again, {condition[:60]}…")
        await finding.pair.source.signal(
            self._signal_table, [(f"lakeward-{uuid4().hex}", "execute-snapshot", json.dumps(data))]
        )


def _check_number(findings: Sequence[Finding]) -> None:
    for finding in findings:
        if finding.repairable > REPAIR_ROWS:
            raise ConfigurationError(
                f"{finding.pair.name}: {finding.repairable:,} rows are missing or different; --repair reads up to"
                f" {REPAIR_ROWS:,} of a table again. Send an incremental snapshot of the whole table"
                ' (`{"data-collections": ["' + finding.pair.table.name + '"], "type": "incremental"}` as data of an'
                " execute-snapshot signal), or snapshot it anew into a new table"
            )


def _conditions(finding: Finding) -> list[str]:
    """SQL conditions that hold for the keys, in key order."""
    pair = finding.pair
    parts = in_parts(finding.repairable_keys(), pair.table.key)
    return [pair.source.key_filter(pair.table, part) for part in parts]
