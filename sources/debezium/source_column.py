"""A column of a source table, as the database's catalogue has it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SourceColumn:
    """`logged`: the stream of changes has it, not only a snapshot."""

    name: str
    nullable: bool
    logged: bool = True
