"""How a worker ends: by a signal, or by an error; its last log line and its exit status say which.

SIGTERM and SIGINT flush: what is buffered is committed within `shutdown_grace_seconds`. A second signal ends the
process at once, which loses nothing either: the next worker reads from the tables' offsets on.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from typing import NoReturn

import faust
import structlog

from config.errors import exit_status, last_words

log = structlog.get_logger("lakeward.worker")


LINGERING_SECONDS = 5.0


def _end(status: int) -> None:
    """Nothing is left to do: a thread that an error kept from being stopped must not keep the process."""
    time.sleep(LINGERING_SECONDS)
    os._exit(status)


class LakewardWorker(faust.Worker):
    """Faust's worker, which knows why it ends."""

    _ended_by: signal.Signals | None = None

    def _on_sigint(self) -> None:
        self._end_by(signal.SIGINT)
        super()._on_sigint()

    def _on_sigterm(self) -> None:
        self._end_by(signal.SIGTERM)
        super()._on_sigterm()

    def _end_by(self, number: signal.Signals) -> None:
        if self._ended_by is not None:
            status = 128 + number
            log.warning("worker.ended", exit_status=status, reason=f"a second signal ({number.name}): ended at once")
            logging.shutdown()
            os._exit(status)
        self._ended_by = number

    def execute_from_commandline(self) -> NoReturn:
        """Run until the end. Raises SystemExit with the status of what ended it."""
        try:
            super().execute_from_commandline()
        except SystemExit as end:  # Faust's own status is 1 for whatever went wrong
            ended = end
        status = self._farewell(ended)
        threading.Thread(target=_end, args=(status,), daemon=True).start()
        raise SystemExit(status) from None

    def _farewell(self, end: SystemExit) -> int:
        error = self.crash_reason or end.__context__
        if isinstance(error, Exception | MemoryError):
            status = exit_status(error)
            log.critical("worker.ended", exit_status=status, reason=type(error).__name__, error=last_words(error))
            return status
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        log.info("worker.ended", exit_status=status, reason=self._ended_by.name if self._ended_by else "stopped")
        return status
