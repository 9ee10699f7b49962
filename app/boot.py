"""The order in which a worker's services start: pages first, then what is waited for, then Kafka.

While the broker or a destination is away at start, the worker waits; its pages answer meanwhile (`/healthz` 200,
`/readyz` 503), so that a supervisor doesn't kill a worker that is rightly waiting.
"""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from faust.app.base import BootStrategy
from mode import Service

GC_THRESHOLDS = (100_000, 20, 10)
"""Objects made before a collection of the youngest; collections of one generation before one of the next."""


def collect_garbage_rarely() -> None:
    """Take what the start has made out of garbage collection, and collect the rest less often.

    A fetch makes hundreds of thousands of objects without cycles; with Python's thresholds the collector looks at
    them, and at everything else, over and over: that was half of the CPU that reading took.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


class Arrival(Service):
    """Has started when `reach` has returned, or the app is stopping."""

    def __init__(self, reach: Callable[[], Awaitable[None]], app: Any) -> None:
        self._reach = reach
        self._app = app
        super().__init__(beacon=app.beacon)

    async def on_start(self) -> None:
        await self._app.wait(self._reach())


class WaitingBoot(BootStrategy):
    """Faust's order, with the web server and `app.arrival` before the producer."""

    def server(self) -> Iterable[Any]:
        yield from self.sensors()
        yield from self.web_server()
        yield self.app.arrival
        yield from self.kafka_producer()
        yield from self.kafka_consumer()
        yield from self.agents()
        yield from self.kafka_conductor()
        yield from self.tables()
