"""What a comparison found: verdicts, and the exit status that they make."""

from __future__ import annotations

from dataclasses import dataclass

from verify.compare import Difference


class Unclear(Exception):
    """Whether a table is equal can't be told; the text says why."""


class ColumnsChanged(Unclear):
    """The sink's table got other columns, or came to be, while it was looked at."""


@dataclass(frozen=True)
class Comparison:
    """Rows on each side (of a change log: those of the table that it describes), how many keys differ in which way, and
    the first of the differences, in key order of each kind."""

    source_rows: int
    sink_rows: int
    missing: int
    extra: int
    doubled: int
    different: int
    examples: tuple[Difference, ...]

    @property
    def differences(self) -> int:
        """Keys that differ, in whatever way."""
        return self.missing + self.extra + self.doubled + self.different

    @property
    def equal(self) -> bool:
        """Whether both sides hold the same rows."""
        return not self.differences


@dataclass(frozen=True)
class Verdict:
    """What was found of one table in one sink; `unclear` says why it couldn't be told, if so.

    `position`: the place in the source's log as of which the tables were compared. `notes`: what wasn't compared, and
    how differences that a repair can't mend are mended.
    """

    sink_id: str
    table: str
    target: str
    comparison: Comparison | None
    unclear: str | None = None
    position: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """All verdicts."""

    verdicts: tuple[Verdict, ...]

    @property
    def exit_status(self) -> int:
        """0 equal, 1 different, 2 could not tell."""
        if any(verdict.unclear for verdict in self.verdicts):
            return 2
        return 0 if all(v.comparison is not None and v.comparison.equal for v in self.verdicts) else 1
