"""What the contract suite asks of a sink's harness.

A new sink joins the suite with a file `tests/contract/<name>_harness.py` that has `HARNESSES`: names of (sink, mode)
mapped to a callable that takes an empty scratch folder and returns a `SinkHarness` over a destination of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from contract_events import TOPIC

from config.evolution import SchemaEvolution
from sinks.base import Sink, Target

DEFAULT = SchemaEvolution()


class SinkHarness(Protocol):
    """One destination table, and what a test must be able to do to it."""

    upsert: bool
    """The table is written by key; otherwise it is a change log."""

    examples: int
    """How many random change logs the suite tries (by the cost of a commit)."""

    widens: bool
    """The format can widen a column in place."""

    def new_sink(self, topics: tuple[str, ...] = (TOPIC,), policies: SchemaEvolution = DEFAULT) -> Sink:
        """A fresh writer on this destination, not opened: another process, or the same one after a restart, with these
        policies for schema changes."""

    def rows(self) -> list[dict[str, Any]]:
        """All rows as a reader sees them that shares no code with the sink; empty if there is no table."""

    def drop(self) -> None:
        """Remove the table, as somebody else might."""

    def around_next_commit(
        self, before: Callable[[], None] | None = None, after: Callable[[], None] | None = None
    ) -> AbstractContextManager[None]:
        """While entered: call `before` once just before the next commit is sent to the destination (and after the
        sink read what the commit builds on), `after` once just after it landed there, before the sink knows.

        `before` may write through another sink (the race is lost then); `after` may raise (a lost response).
        """


Factory = Callable[[Path], SinkHarness]


def target(topics: tuple[str, ...], name: str) -> Target:
    """The target that every harness uses, for the table `name`."""
    return Target("contract", "lake", topics, name)
