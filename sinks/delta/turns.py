"""Taking turns at an upsert table: who lost a race reserves the next commit, so that a slow MERGE isn't lost forever.

Two MERGEs of one version can't both land, and the quicker one would win each time. So a writer whose commit was lost
puts a reservation into the table's log, by a small commit that hardly loses: the transaction identifier

    lakeward/{pipeline_id}/{sink_id}/turn   version = until when, in microseconds since 1970 (0: free)

Other writers that see it wait until it is given back (by the commit that it was taken for) or until it expires (its
holder died). It is a courtesy: nothing but speed rests on it or on the clocks, since each commit is a compare-and-swap
anyway. As long as nobody races, no reservation is made and nothing is paid.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from deltalake import Transaction

from config.errors import Unavailable
from sinks.base import Target
from sinks.delta.state import TableState

_POLL_SECONDS = 0.1
_LONGEST_SECONDS = 120.0
"""Bounds one reservation, and how long a write waits for those of others before it reports Unavailable."""


class Turns:
    """One writer's view of the reservations of its table."""

    def __init__(self, target: Target) -> None:
        self._name = target.name
        self._app_id = f"lakeward/{target.pipeline_id}/{target.sink_id}/turn"
        self._mine = 0
        self._lost_after = 0.0

    def lost(self, seconds: float) -> None:
        """A commit that took so long lost its race."""
        self._lost_after = seconds

    @property
    def wanted(self) -> bool:
        """A race was lost and no reservation is held."""
        return self._lost_after > 0 and not self._mine

    def reservation(self) -> Transaction:
        """The identifier that reserves the next commit for three times as long as the lost one took."""
        lasts = min(3 * self._lost_after + 1, _LONGEST_SECONDS)
        return Transaction(self._app_id, int((time.time() + lasts) * 1e6))

    def reserved(self, reservation: Transaction) -> None:
        """The reservation has landed."""
        self._mine = reservation.version

    def release(self) -> list[Transaction]:
        """The identifiers with which the reserved commit gives the turn back."""
        return [Transaction(self._app_id, 0)] if self._mine else []

    def landed(self) -> None:
        """The commit has landed, and gave the turn back."""
        self._mine, self._lost_after = 0, 0.0

    def needless(self) -> None:
        """Others had written the whole batch; a turn that is held serves the next one, or expires."""
        self._lost_after = 0.0

    def taken(self, state: TableState) -> bool:
        """Whether another writer has a turn now."""
        until = state.transaction(self._app_id) or 0
        return until != self._mine and until / 1e6 >= time.time()

    def wait(self, load: Callable[[], TableState | None]) -> TableState | None:
        """The table, once no other writer has a turn at it. Raises Unavailable after two minutes of others' turns."""
        deadline = time.monotonic() + _LONGEST_SECONDS
        while True:
            state = load()
            until = 0 if state is None else (state.transaction(self._app_id) or 0)
            if until != self._mine:
                # expired, given back, or taken over by somebody who saw it expired
                self._mine = 0
            if until == self._mine or until / 1e6 < time.time():
                return state
            if time.monotonic() > deadline:
                raise Unavailable(f"Delta table {self._name}: other writers have had their turns for too long")
            time.sleep(_POLL_SECONDS)
