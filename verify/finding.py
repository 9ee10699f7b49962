"""What is known of one table in one sink after the looks at it."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from config.errors import LakewardError
from verify.look import Limits, Look, Pair, Wanted, look
from verify.report import Comparison, Unclear, Verdict

_EXTRA = (
    "{n} only in the sink: the source has deleted them, and no record tells of it. `cdc verify --repair` deletes them"
    " from the table, once no row is missing or different"
)
_EXTRA_IN_LOG = (
    "{n} only in the sink's change log: the source has nothing to send again. Insert and delete a row of the key at the"
    " source, so that its delete travels"
)
_DOUBLED = (
    "{n} in the sink more than once, which sending them again can't mend: delete all rows of the key from the table"
    " (DELETE in Spark, DeltaTable.delete), then run `cdc verify --repair`"
)


_UNSEEN = (
    "changes that are logged but not visible may explain it: {names} was there before the first look and is still. Once"
    " it has ended (is a synchronous standby away?), run it again"
)


@dataclass
class Finding:
    """`whole`: the look at all rows. `last`: the newest look at those that differed."""

    pair: Pair
    limits: Limits
    whole: Look
    last: Look
    repaired: int = 0
    """Rows that the source was asked to send again."""
    removed: int = 0
    """Rows that the source no longer has, deleted from the sink's table."""
    kept: str | None = None
    """Why they couldn't be deleted."""
    unclear: str | None = None
    """Why a later look couldn't tell."""

    @property
    def repairable(self) -> int:
        """Rows that differ and that the source can send again."""
        return self.last.counts.get("missing", 0) + self.last.counts.get("different", 0)

    def repairable_keys(self) -> pa.Table:
        """Their keys (of more than `limits.repairs` only so many and one)."""
        return pa.concat_tables(self.last.repairable)

    @property
    def removable(self) -> bool:
        """Whether rows that only the sink has can be taken for rows that the source has deleted: not if others are
        missing, or changes couldn't be read. A change log is no place to delete rows from."""
        clear = not self.repairable and not self.last.uncertain and self.unclear is None
        return clear and not self.pair.is_log and self.last.counts.get("extra", 0) > 0

    @property
    def unseen(self) -> frozenset[str]:
        """Transactions that may have logged, before the first look, what no look has seen (`SourceReader.unseen`)."""
        return self.whole.unseen & self.last.unseen

    async def look_again(self) -> None:
        """See which of the rows that differed do so still."""
        try:
            self.last = await look(Wanted(self.pair, self.last), self.limits)
        except (Unclear, LakewardError) as error:
            self.unclear = str(error)
        else:
            self.unclear = None

    def verdict(self) -> Verdict:
        """For the report."""
        counts = {kind: self.last.counts.get(kind, 0) for kind in ("missing", "extra", "doubled", "different")}
        examples = tuple(self.last.first.rows(self.limits.examples)) if self.last.first is not None else ()
        source_rows, sink_rows = self.whole.rows
        comparison = Comparison(source_rows, sink_rows, **counts, examples=examples)
        notes = list(self.whole.notes)
        if self.repaired:
            notes.append(f"{self.repaired:,} rows were sent again; {self.repairable:,} of them differ still")
        if self.removed:
            notes.append(f"{self.removed:,} row(s) that the source no longer has were deleted from the table")
        if self.kept is not None:
            notes.append(f"rows that only the sink has couldn't be deleted: {self.kept}")
        if self.unseen and any(counts.values()):
            notes.append(_UNSEEN.format(names=", ".join(sorted(self.unseen)[:5])))
        for kind, text in (("extra", _EXTRA_IN_LOG if self.pair.is_log else _EXTRA), ("doubled", _DOUBLED)):
            if counts[kind]:
                notes.append(text.format(n=f"{counts[kind]:,} row(s) are"))
        pair = self.pair
        target = pair.plan.target
        return Verdict(
            target.sink_id, pair.table.name, target.name, comparison, None, self.whole.position, tuple(notes)
        )
