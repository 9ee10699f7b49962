"""Mending what differs: rows that are missing or different are read from the source again (`verify.signals`), and rows
that only an upsert table has are deleted from it (`verify.removal`)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic

from config.errors import ConfigurationError, LakewardError
from config.pipeline import PipelineConfig
from verify.finding import Finding
from verify.progress import Say
from verify.removal import remove
from verify.signals import ROWS_AT_ONCE, ask_for, conditions, whole_table

_PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0)


class Repair:
    """Asks for rows again and waits, for `timeout` seconds at most, until they don't differ any more; then deletes what
    the source no longer has."""

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
        """Signal for every table with rows that can be sent again, and look at these again until they are equal; then
        delete the rows that only a table has (`ROWS_AT_ONCE` of each at most).

        Raises ConfigurationError for more rows than `ROWS_AT_ONCE` in a table, or if the signalling table can't be
        written.
        """
        wanted = [finding for finding in findings if finding.repairable]
        _check_number(wanted)
        asked: set[str] = set()
        for finding in wanted:
            pair = finding.pair
            for condition in conditions(pair.source, pair.table, finding.repairable_keys()):
                if condition not in asked:
                    asked.add(condition)
                    self._say(f"{pair.table.name}: asking for rows again, {condition[:60]}…")
                    await ask_for(pair.source, self._signal_table, pair.table.name, condition)
            finding.repaired = finding.repairable
        deadline = monotonic() + self._timeout
        pauses = iter(_PAUSES)
        while any(finding.repairable for finding in wanted) and monotonic() < deadline:
            await asyncio.sleep(next(pauses, _PAUSES[-1]))
            for finding in wanted:
                if finding.repairable:
                    await finding.look_again()
        for finding in findings:
            if finding.removable:
                await self._remove(finding)

    async def _remove(self, finding: Finding) -> None:
        if finding.unseen:
            finding.kept = "the source may have them, not visible yet"
            return
        self._say(f"{finding.pair.name}: deleting rows that the source no longer has")
        try:
            finding.removed = await asyncio.to_thread(remove, finding.pair, finding.last, finding.whole.before)
        except LakewardError as error:
            finding.kept = str(error)
        await finding.look_again()


def _check_number(findings: Sequence[Finding]) -> None:
    for finding in findings:
        if finding.repairable > ROWS_AT_ONCE:
            raise ConfigurationError(
                f"{finding.pair.name}: {finding.repairable:,} rows are missing or different; --repair reads up to"
                f" {ROWS_AT_ONCE:,} of a table again. Send an incremental snapshot of the whole table"
                f" (`{whole_table(finding.pair.table.name)}` as data of an execute-snapshot signal), or snapshot it"
                " anew into a new table"
            )
