"""The Faust schema of source topics: an event's value is the `Chunk` itself, nothing is deserialized per message."""

from __future__ import annotations

from typing import Any

import faust
from faust.types import EventT, Message


class ChunkSchema(faust.Schema):
    """Hands the consumer's chunk through as the event's value."""

    def compile(self, app: faust.App, **_options: Any) -> Any:
        """The decode function that Faust calls for each message."""
        create_event = app.create_event

        async def decode(message: Message, *, propagate: bool = False) -> EventT:  # noqa: ARG001 - Faust's signature
            return create_event(None, message.value, message.headers, message)

        return decode
