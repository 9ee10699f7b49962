"""What can go wrong with the local stack: one error, whose message says what and where to look."""

from __future__ import annotations

from config.errors import LakewardError


class StackError(LakewardError):
    """The stack, or one of its services, can't run; the message names the log file or the way out."""
