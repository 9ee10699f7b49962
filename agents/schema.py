"""The agent `schemas`: watches the registry's subjects of the captured tables, so that operators know of a change
before its first row.

What it meets is kept in the table `schema_versions`. What is there at the first look is the baseline; after a restart,
what was registered meanwhile is told as well. It decides nothing about rows: that is done where they are written, by
the writer schema of each record. A registry that is away is asked again at the next interval, and never stops anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import faust
import structlog

from agents.changelog import changelog_known
from agents.pipeline import Pipeline
from config.errors import LakewardError, PipelineStopped
from config.registry import CompatibilityMode
from sources.schema_registry import SchemaRegistry
from tables.schema_versions import KEPT_VERSIONS, SeenVersion, parsed, stored

log = structlog.get_logger("lakeward.schema")

AGENT_NAME = "schemas"


def subjects_of(topics: Sequence[str]) -> tuple[str, ...]:
    """The registry's subjects of these topics' keys and values (Confluent's TopicNameStrategy)."""
    return tuple(f"{topic}-{part}" for topic in topics for part in ("key", "value"))


class SchemaWatch:
    """Looks at subjects. `table` maps a subject to what is kept of it; `mode`, if set, is what the registry is to
    enforce; `stop` says whether a newest version that isn't compatible ends the pipeline."""

    def __init__(
        self,
        registry: SchemaRegistry,
        table: Any,
        subjects: Sequence[str],
        *,
        mode: CompatibilityMode | None = None,
        stop: bool = False,
    ) -> None:
        self._registry = registry
        self._table = table
        self._subjects = subjects
        self._mode = mode
        self._stop = stop
        self._enforced: set[str] = set()

    async def look(self) -> None:
        """Look at every subject once. Raises PipelineStopped for an incompatible version that is to stop it."""
        for subject in self._subjects:
            try:
                await self._look_at(subject)
            except PipelineStopped:
                raise
            except LakewardError as error:
                log.debug("schema.registry_unavailable", subject=subject, error=str(error))

    async def close(self) -> None:
        """Let go of the registry."""
        await self._registry.close()

    async def _look_at(self, subject: str) -> None:
        numbers = await self._registry.versions(subject)
        if not numbers:
            return
        if self._mode is not None and subject not in self._enforced:
            await self._registry.set_mode(subject, self._mode)
            self._enforced.add(subject)
        known = parsed(self._table.get(subject))
        if known is None:
            self._table[subject] = stored(await self._baseline(subject, numbers))
            return
        kept = [version for version in known if version.version in numbers]
        if kept != known:  # some were deleted in the registry
            self._table[subject] = stored(kept)
        last = max((version.version for version in known), default=0)
        for number in (n for n in numbers if n > last):
            seen = await self._met(subject, number, [n for n in numbers if n < number])
            if seen is not None:
                kept.append(seen)
                self._table[subject] = stored(kept)  # each for itself: none is told twice
        if self._stop and kept and kept[-1].compatible is False:
            raise PipelineStopped(
                f"subject {subject}: version {kept[-1].version} (schema id {kept[-1].schema_id}) breaks the registry's"
                " compatibility rule, and stop_on_incompatible_schema is true. Delete that version in the registry, or"
                " register one that is compatible; or set stop_on_incompatible_schema to false, so that each sink's"
                " schema_evolution decides"
            )

    async def _baseline(self, subject: str, numbers: Sequence[int]) -> list[SeenVersion]:
        found = [await self._registry.version(subject, number) for number in numbers[-KEPT_VERSIONS:]]
        return [SeenVersion(item.version, item.schema_id, _now()) for item in found if item is not None]

    async def _met(self, subject: str, number: int, before: Sequence[int]) -> SeenVersion | None:
        """Tell of a new version; None if it is gone already."""
        found = await self._registry.version(subject, number)
        if found is None:
            return None
        compatible = await self._registry.is_compatible(found, before)
        facts = {
            "subject": subject,
            "previous_version": before[-1] if before else None,
            "new_version": number,
            "schema_id": found.schema_id,
            "compatible": compatible,
        }
        (log.info if compatible else log.warning)("schema.version_changed", **facts)
        if not compatible:
            log.error("schema.incompatible_change_detected", **facts)
        return SeenVersion(number, found.schema_id, _now(), compatible)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def register_schema_agent(
    app: faust.App,
    table: Any,
    new_watch: Callable[[Any], SchemaWatch],
    pipeline: Callable[[], Pipeline],
    interval: float,
) -> None:
    """Register the agent, which looks once the table is there and then every `interval` seconds."""
    channel = app.channel(maxsize=1)
    watches: list[SchemaWatch] = []

    async def schemas(stream: Any) -> None:
        """Keep the table schema_versions."""
        watch = new_watch(table)
        watches.append(watch)
        async for _ in stream:
            try:
                await watch.look()
            except Exception as error:
                if app.should_stop:
                    log.info("schema.not_looked_at", reason="the worker ends", error=repr(error))
                    return  # the client is closed while it looks
                await pipeline().fail(error, agent=AGENT_NAME)
                raise

    app.agent(channel, name=AGENT_NAME)(schemas)

    @app.task
    async def begin() -> None:
        await app.tables.recovery.completed.wait()  # an empty table would make a baseline of everything
        await changelog_known(app, table)
        while not app.should_stop:
            await channel.send(value="look")
            await app.sleep(interval)

    async def close(*_: Any, **__: Any) -> None:
        for watch in watches:
            await watch.close()

    app.on_before_shutdown.connect(close, weak=False)
