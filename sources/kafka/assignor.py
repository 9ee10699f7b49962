"""Partition assignment: source partitions are dealt out evenly, whatever their topics' partition counts.

Faust's own assignor gives partition n of all topics with equally many partitions to the same worker, because its
tables are co-partitioned with their sources. Here a table isn't (`sink_watermarks` is global), so twenty topics of
one partition would all land on one worker. Internal topics stay with Faust's assignor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from faust.assignor import PartitionAssignor


class EvenAssignor(PartitionAssignor):
    """Deals source partitions, sorted, to members, sorted: stable while membership is."""

    def _perform_assignment(self, cluster: Any, member_metadata: Any) -> Any:
        self._cluster = cluster
        return super()._perform_assignment(cluster, member_metadata)

    @classmethod
    def _get_copartitioned_groups(cls, topics: set[str], cluster: Any, subscriptions: Any) -> Any:
        return super()._get_copartitioned_groups({t for t in topics if not cls.is_source(t)}, cluster, subscriptions)

    def _global_table_standby_assignments(self, assignments: Any, partitions_by_topic: Mapping[str, int]) -> Any:
        members = sorted(assignments)
        source_partitions = sorted(
            (topic, partition)
            for topic in self.sources
            for partition in self._cluster.partitions_for_topic(topic) or ()
        )
        for index, (topic, partition) in enumerate(source_partitions):
            assignments[members[index % len(members)]].actives.setdefault(topic, []).append(partition)
        return super()._global_table_standby_assignments(assignments, partitions_by_topic)

    sources: frozenset[str] = frozenset()

    @classmethod
    def is_source(cls, topic: str) -> bool:
        """Whether this class deals the topic's partitions itself."""
        return topic in cls.sources


def even_assignor(sources: frozenset[str]) -> type[EvenAssignor]:
    """An assignor class for these source topics (Faust instantiates the class itself)."""
    return type("EvenAssignor", (EvenAssignor,), {"sources": sources})
