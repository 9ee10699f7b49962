"""The agent `watermarks`: keeps the table `sink_watermarks` from the writers' receipts.

Faust tables are written in agents only, so the writers' commits come here over an in-memory channel. A watermark
that a crash, or a disk that is full, loses is replaced by the next commit's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import faust
import structlog

from agents.changelog import changelog_known
from agents.writer import Commit
from tables.files import give_up_files
from tables.sink_watermarks import watermark, watermark_key

log = structlog.get_logger("lakeward.watermarks")

AGENT_NAME = "watermarks"


def register_watermarks_agent(app: faust.App, table: Any) -> Callable[[str, Commit], Awaitable[None]]:
    """Register the agent; returns what a writer's commits are handed to."""
    channel = app.channel()

    async def watermarks(stream: Any) -> None:
        """Keep the table sink_watermarks."""
        await changelog_known(app, table)
        async for sink_id, commit in stream:
            receipt = commit.receipt
            try:
                for tp, offset in receipt.next_offsets.items():
                    table[watermark_key(sink_id, tp)] = watermark(offset, receipt.version, receipt.committed_at)
            except Exception as error:  # RocksDB's, by rocksdict, which raises plain Exception
                log.warning("watermark.not_written", sink=sink_id, version=receipt.version, error=str(error))
                give_up_files(table)
            else:
                log.info("watermark.written", sink=sink_id, version=receipt.version)

    app.agent(channel, name=AGENT_NAME)(watermarks)

    async def announce(sink_id: str, commit: Commit) -> None:
        await channel.send(value=(sink_id, commit))

    return announce
