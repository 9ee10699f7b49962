"""A worker's exit status tells which error ended it."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from aiokafka.errors import NodeNotReadyError, TopicAuthorizationFailedError

from config.errors import LakewardError, PipelineStopped, exit_status, last_words

GUARANTEES = Path(__file__).parents[2] / "docs" / "guarantees.md"


Error = TypeVar("Error", bound=LakewardError)


def subclasses(kind: type[Error]) -> Iterator[type[Error]]:
    for found in kind.__subclasses__():
        yield found
        yield from subclasses(found)


def test_every_error_that_stops_a_pipeline_has_a_status_of_its_own() -> None:
    kinds: list[type[PipelineStopped]] = [PipelineStopped, *subclasses(PipelineStopped)]
    statuses = [kind.exit_status for kind in kinds]
    assert len(set(statuses)) == len(kinds) > 5
    assert not {0, 1, 2, *range(126, 256)} & set(statuses)


def test_defects_and_lack_of_memory_or_disk_are_told_apart() -> None:
    assert exit_status(KeyError("x")) == os.EX_SOFTWARE
    assert exit_status(MemoryError()) == os.EX_OSERR
    assert exit_status(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))) == os.EX_IOERR
    assert exit_status(Exception("IO error: No space left on device: While appending")) == os.EX_IOERR


def test_lack_of_memory_is_said_with_the_way_out() -> None:
    assert last_words(MemoryError()).startswith("memory ran out (no room): give")
    assert "(malloc of size 9 failed)" in last_words(MemoryError("malloc of size 9 failed"))
    assert last_words(PipelineStopped("why")) == "why"


def test_a_broker_that_went_away_is_told_from_one_that_refuses() -> None:
    assert exit_status(NodeNotReadyError()) == os.EX_TEMPFAIL
    assert exit_status(TopicAuthorizationFailedError()) == os.EX_SOFTWARE


def test_the_documented_statuses_are_those_of_the_code() -> None:
    documented = dict(re.findall(r"^\| `(\w+)` \| (\d+) \|", GUARANTEES.read_text(), re.MULTILINE))
    here = {kind.__name__: str(kind.exit_status) for kind in subclasses(LakewardError)}
    assert {name: here[name] for name in documented} == documented
    assert {kind.__name__ for kind in subclasses(PipelineStopped)} <= documented.keys()
