"""Workers that die in the middle: every change of a store, a catalog or a log can be the last one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from contract_base import commit, expected, opened
from contract_harness import SinkHarness

from sinks.base import Sink
from sources.changes import ChangeBatch

Places = Iterable[tuple[type, str]]
"""Methods that change something outside of the process."""


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it, and nothing is tidied up behind it."""


@contextmanager
def killed_at(step: int, places: Places) -> Iterator[list[str]]:
    """The `step`-th of these changes, and all after it, don't happen any more."""
    steps: list[str] = []

    def counted(kind: type, name: str) -> Callable[..., Any]:
        original = getattr(kind, name)

        def around(*args: Any, **more: Any) -> Any:
            steps.append(name)
            if len(steps) > step:
                raise Killed
            return original(*args, **more)

        return around

    with pytest.MonkeyPatch.context() as patch:
        for kind, name in places:
            patch.setattr(kind, name, counted(kind, name))
        yield steps


def tidied_under_kills(
    places: Places,
    folder: Path,
    make: Callable[[Path], SinkHarness],
    begin: Callable[[Sink], None],
    before: list[ChangeBatch],
    after: list[ChangeBatch],
) -> int:
    """Kill a worker at each change that one tidying step makes; return how many there are.

    The changes are counted, not listed: as often as it takes `make` makes a table in a new folder, `begin` writes
    `before`, and a call of `tidy` is cut short one change later than the last time. The rows are right then, and once
    `after` is written.
    """
    step, survived = 0, False
    while not survived:
        place = folder / str(step)
        place.mkdir()
        harness = make(place)
        with closing(opened(harness)) as sink:
            begin(sink)
            with killed_at(step, places) as steps:
                try:
                    sink.tidy()
                    survived = True
                except Killed:
                    pass
        assert harness.rows() == expected(harness, *before)
        with closing(opened(harness)) as sink:
            commit(sink, *after)
        assert harness.rows() == expected(harness, *before, *after)
        step += 1
    return len(steps)
