"""Values that databases have and lake tables don't, and what becomes of each: a table of docs/types.md."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SpecialValue:
    """One of them: where it occurs, what Debezium sends, what is stored by default, and as `misfit: text`."""

    source: str
    value: str
    wire: str
    stored: str
    text: str


SPECIAL_VALUES: tuple[SpecialValue, ...] = ()
