"""An object store and a catalog that are away, slow, throttled, lose answers or hide what was written: said in the log,
got over without a hand, and every table exact."""

from __future__ import annotations

import time
from functools import partial

import pytest
from test_two_workers import alone

from chaos.pipeline import SINKS, StoredPipeline
from chaos.unruly import Fault
from stack.worker_log import WorkerLog

SAID_WITHIN = 60.0
"""Seconds from a fault to a line in the log that names it."""
LASTS = 7.0
"""Seconds."""
FAULTY_SHARE = {"answers lost": 0.3, "objects hidden": 0.3}
"""Of all requests, so that some steps are passed; the others meet all."""


STORE: tuple[Fault, ...] = ("away", "slow", "throttled", "answers lost", "objects hidden")
CATALOG: tuple[Fault, ...] = ("away", "slow", "throttled", "answers lost")


@pytest.mark.parametrize(("service", "faults"), [("store", STORE), ("catalog", CATALOG)], ids=["store", "catalog"])
def test_outages_are_said_and_got_over(service: str, faults: tuple[Fault, ...], stored: StoredPipeline) -> None:
    unruly, worker = stored.unruly[service], stored.worker()
    touched = SINKS if service == "store" else [sink for sink in SINKS if sink.startswith("iceberg")]
    stored.load.send(2_000)
    worker.start()
    log = WorkerLog(worker)
    stored.catch_up(log)
    stored.load.start(per_second=100)
    for fault in faults:
        said_before = len(list(worker.events("pipeline.sink_write_error")))
        began = time.monotonic()
        unruly.misbehave(fault, FAULTY_SHARE.get(fault, 1.0))
        if fault in ("away", "throttled"):

            def said() -> bool:
                new = list(worker.events("pipeline.sink_write_error"))[said_before:]  # noqa: B023 - called here
                return {str(error["writer"]).split(" → ")[0] for error in new} >= set(touched)

            worker.wait_for(said, f"word of a {service} that is {fault}", SAID_WITHIN)
            print(f"{service} {fault}: said by each sink after {time.monotonic() - began:.1f} s")  # noqa: T201
        log.wait_for(lambda: time.monotonic() > began + LASTS, "the fault's time", 2 * LASTS)  # noqa: B023 - called here
        unruly.behave()
        assert unruly.hits(fault), fault
        over, ends = time.monotonic(), stored.load.ends
        log.wait_for(partial(log.reached, ends, *SINKS), f"everything, after {fault}", 120)
        print(f"{service} {fault}: {unruly.hits(fault)} requests; fresh after {time.monotonic() - over:.1f} s")  # noqa: T201
    stored.load.stop()
    alone(log, stored)
    stored.catch_up(log)
    assert worker.terminate() == 0
    stored.assert_tables_exact()
