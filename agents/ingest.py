"""The ingest agents: one per (topic, sink), each handing its topic's chunks to its sink's writer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import faust

from agents.pipeline import Pipeline
from sources.changes import Chunk
from sources.kafka.chunk_schema import ChunkSchema


def agent_name(topic: str, sink_id: str) -> str:
    """How `faust agents` and logs name the agent that brings a topic to a sink."""
    return f"ingest:{topic}->{sink_id}"


def register_ingest_agents(
    app: faust.App, feeds: Iterable[tuple[str, str]], pipeline: Callable[[], Pipeline]
) -> list[str]:
    """Register an agent for each (topic, sink id); returns their names."""
    return [_register(app, topic, sink_id, pipeline) for topic, sink_id in feeds]


def _register(app: faust.App, topic: str, sink_id: str, pipeline: Callable[[], Pipeline]) -> str:
    async def ingest(stream: Any) -> None:
        async for chunk in stream.noack():  # the group's offset comes from the ledger, not from acks
            await ingest_chunk(pipeline(), chunk, sink_id)

    name = agent_name(topic, sink_id)
    ingest.__doc__ = f"Bring {topic} to {sink_id}."
    source = app.topic(topic, schema=ChunkSchema(), acks=False)
    app.agent(source, name=name)(ingest)
    return name


async def ingest_chunk(pipeline: Pipeline, chunk: Chunk, sink_id: str) -> None:
    """Hand one chunk over. An agent that failed would be restarted and skip events: any error ends the worker."""
    try:
        await pipeline.ingest(chunk, sink_id)
    except Exception as error:
        await pipeline.fail(error, agent=agent_name(chunk.topic, sink_id))
        raise
