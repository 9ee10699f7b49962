"""The order in which a worker's services start: pages first, then what is waited for, then Kafka.

While the broker or a destination is away at start, the worker waits; its pages answer meanwhile (`/healthz` 200,
`/readyz` 503), so that a supervisor doesn't kill a worker that is rightly waiting.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from faust.app.base import BootStrategy
from mode import Service


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
