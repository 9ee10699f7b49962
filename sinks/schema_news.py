"""The log lines of schema changes that a sink has met: each is told once, after the commit that follows it."""

from __future__ import annotations

import structlog

from sinks.evolution import Evolution, Told

log = structlog.get_logger("lakeward.schema")

_LOSSY = frozenset({"drop", "rename"})


class SchemaNews:
    """What was told of one table since this worker started."""

    def __init__(self, table: str) -> None:
        self._table = table
        self._told: set[Told] = set()

    def tell(self, plan: Evolution) -> None:
        """Log what is new in a plan that has landed; a warning where a column gets no values any more."""
        for item in plan.told:
            if item in self._told:
                continue
            self._told.add(item)
            finding = item.finding
            warn = finding.kind in _LOSSY or item.policy == "freeze"
            (log.warning if warn else log.info)(
                "schema.table_changed", table=self._table, topic=item.topic, schema_id=item.schema_id,
                kind=finding.kind, column=finding.column, policy=item.policy, reason=str(finding),
            )  # fmt: skip
