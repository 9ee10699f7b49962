"""Faust's recovery of tables, which begins anew when brokers were away in the middle of it."""

from __future__ import annotations

from typing import Any

import structlog
from faust.tables.manager import TableManager
from faust.tables.recovery import RebalanceAgain, Recovery, ServiceStopped

log = structlog.get_logger("lakeward.tables")


class PatientRecovery(Recovery):  # type: ignore[misc]  # Faust is untyped here
    """Faust gives each step of a recovery a time limit, and takes one that outlasts it for the end of the worker: no
    rebalance is followed any more then, and nothing ends either."""

    async def _wait(self, coro: Any, timeout: Any = None) -> None:
        try:
            await super()._wait(coro, timeout)
        except ServiceStopped:
            if self.should_stop:
                raise
            log.warning("recovery.begun_anew", reason=f"brokers didn't answer within {timeout:g} s")
            self.signal_recovery_start.set()
            raise RebalanceAgain from None


class Tables(TableManager):  # type: ignore[misc]  # as above
    """Faust's tables, with that recovery."""

    _recovery: PatientRecovery | None

    @property
    def recovery(self) -> Recovery:
        if self._recovery is None:
            self._recovery = PatientRecovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery
