"""What Faust needs before an agent writes a table for the first time."""

from __future__ import annotations

from typing import Any

import faust


async def changelog_known(app: faust.App, table: Any) -> None:
    """Wait until the brokers tell of the table's changelog: Faust asks the producer for its partition, and fails while
    no broker knows a topic that was just made."""
    await app.producer._ensure_producer().partitions_for(table.changelog_topic.get_topic_name())
