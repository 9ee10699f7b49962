"""The error tree: one branch per reaction that an error asks for.

    LakewardError
    ├── ConfigurationError      fix the configuration (a file, an option, an existing table that doesn't fit)
    ├── Unavailable             retry later: a service is away, throttles or lost a race
    ├── BadRecord               set the record aside: dead letter, the rest of the chunk goes on
    └── PipelineStopped         stop: going on would lose or invent data
        ├── UnsupportedChange   a type, an operation or a schema change that this version can't carry losslessly
        ├── RecordsRefused      some records can't be applied by this sink: dead letters, or stop
        │   ├── ValuesUnknown   they lack values that the destination doesn't have either
        │   └── SchemaRefused   they have a schema that the sink's `schema_evolution` sets aside
        ├── OffsetGap           records between the destination's offset and the batch are missing
        ├── OffsetBeyondLog     the destination is ahead of the log: the topic was created anew
        ├── DestinationChanged  the table was replaced, or lost its offsets, while it was being written
        └── KeyMoved            a key may live in two Kafka partitions: order between them isn't known

Every message names the thing (topic, partition, offset, column, file) and the way out. Anything else that is
raised is a defect: the worker crashes with it and restarts from the destination's offsets.

`exit_status` is a worker's that is ended by the error: public, so that supervisors and alerts can tell them apart.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import ClassVar

_DISK = re.compile("no space left|quota exceeded|too many open files|read-only file system|input/output error", re.I)


class LakewardError(Exception):
    """Base of all errors that Lakeward raises on purpose."""

    exit_status: ClassVar[int] = os.EX_SOFTWARE


class ConfigurationError(LakewardError):
    """The user's configuration, or a table that it names, has to be changed before the pipeline can run."""

    exit_status = os.EX_CONFIG


class Unavailable(LakewardError):
    """A service didn't answer, throttled, or a commit lost a race: the same call may succeed later.

    `retry_after` is the number of seconds that the service asked to be left alone, if it said so.
    """

    exit_status = os.EX_TEMPFAIL

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BadRecord(LakewardError):
    """One record can't be read; it belongs into the dead-letter topic, with this error's text as the reason."""


class PipelineStopped(LakewardError):
    """Going on would lose or invent data; an operator has to decide. The message says what the choices are."""

    exit_status = 80


class UnsupportedChange(PipelineStopped):
    """A column type, an operation or a schema change that can't be carried without loss."""

    exit_status = 81


class RecordsRefused(PipelineStopped):
    """A sink can't apply some records, and nothing of their batch was written.

    `records`: by (topic, partition, offset) why. Where there is a dead-letter topic they go there, and the rest of the
    batch is written.
    """

    exit_status = 82

    def __init__(self, records: Mapping[tuple[str, int, int], str]) -> None:
        super().__init__(next(iter(records.values())))
        self.records = records


class ValuesUnknown(RecordsRefused):
    """Changes lack values that the source didn't send and that the destination doesn't have."""

    exit_status = 83


class SchemaRefused(RecordsRefused):
    """Changes have a schema that isn't the table's, and the sink's policy for that kind of change is `quarantine`."""

    exit_status = 84


class OffsetGap(PipelineStopped):
    """A batch starts after the destination's next wanted offset: records between them would be lost."""

    exit_status = 85


class OffsetBeyondLog(PipelineStopped):
    """The destination's next wanted offset lies beyond the end of the log."""

    exit_status = 86


class DestinationChanged(PipelineStopped):
    """The destination table was dropped, replaced or robbed of its offsets while the pipeline ran."""

    exit_status = 87


class KeyMoved(PipelineStopped):
    """A key's events may be in more than one Kafka partition, so their order is unknown."""

    exit_status = 88


def exit_status(error: BaseException) -> int:
    """The status of a worker that an error ended: 70 for a defect, 71 when memory ran out, 74 for a disk, 75 for what
    aiokafka calls retriable (a broker went away in the middle of a start)."""
    if isinstance(error, LakewardError):
        return error.exit_status
    if isinstance(error, MemoryError):
        return os.EX_OSERR
    if getattr(error, "retriable", False):
        return os.EX_TEMPFAIL
    return os.EX_IOERR if is_of_disk(error) else os.EX_SOFTWARE


def last_words(error: BaseException) -> str:
    """What the last line of the log says of an error that ends a worker."""
    if isinstance(error, MemoryError):
        found = str(error) or "no room"
        return f"memory ran out ({found}): give the worker more, fewer tables to write, or a smaller max_buffered_bytes"
    return str(error) or repr(error)


def is_of_disk(error: BaseException) -> bool:
    """Whether a disk that is full or fails, or a limit on files, is behind an error: libraries say it in words only."""
    return _DISK.search(str(error)) is not None
