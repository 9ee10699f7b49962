"""How a program that has started a stack ends."""

from __future__ import annotations

import signal
import sys


def exit_on_sigterm() -> None:
    """From now on SIGTERM ends this program as Ctrl-C does: what it has started is stopped. Exit status 143."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
