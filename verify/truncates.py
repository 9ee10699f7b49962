"""Truncates in a change log: what they cover goes before the log is folded."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sources.changes import CDC_OFFSET, CDC_OP, CDC_PARTITION, TRUNCATE
from verify.report import Unclear


class Truncates:
    """Takes the truncates out of a log that passes in batches, in any order.

    A truncate's record has no key, so it is in any one of a topic's partitions; only in a topic that uses a single one
    is it known which changes came before it.
    """

    def __init__(self, partitions: int = 1) -> None:
        """`partitions`: how many the topic is known to have; those that rows are of count in any case."""
        self._known = partitions
        self._seen: set[int] = set()
        self._last = -1

    def without(self, log: pa.Table) -> pa.Table:
        """The changes of rows; the truncates among them are kept in mind."""
        self._seen.update(pc.unique(log.column(CDC_PARTITION)).to_pylist())
        marks = pc.equal(log.column(CDC_OP), TRUNCATE)
        truncates = log.column(CDC_OFFSET).filter(marks).to_numpy()
        if not len(truncates):
            return log
        self._last = max(self._last, int(np.max(truncates)))
        return log.filter(pc.invert(marks))

    @property
    def any(self) -> bool:
        """Whether there were truncates. Raises Unclear if their place among the other changes isn't known."""
        if self._last >= 0 and max(self._known, len(self._seen)) > 1:
            raise Unclear("its log has a truncate and several partitions: nobody knows their order")
        return self._last >= 0

    def surviving(self, log: pa.Table) -> pa.Table:
        """Those changes that no truncate covers, once the whole log has passed."""
        return log.filter(pc.greater(log.column(CDC_OFFSET), self._last)) if self.any else log
