"""Partition assignment: source partitions are dealt out evenly, whatever their topics' partition counts.

Faust's own assignor gives partition n of all topics with equally many partitions to the same worker, because its
tables are co-partitioned with their sources. Here a table isn't (`sink_watermarks` is global), so twenty topics of
one partition would all land on one worker. Internal topics stay with Faust's assignor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from faust.assignor import PartitionAssignor
from faust.assignor.client_assignment import ClientMetadata


class EvenAssignor(PartitionAssignor):
    """Deals source partitions, sorted, to members, sorted: stable while membership is."""

    def on_assignment(self, assignment: Any) -> None:
        """A static member (KIP-345) that is back within its session gets its assignment of before, which names its web
        address of before: it may have another one now, where workers share a host. Faust would fail on that."""
        told = ClientMetadata.loads(self._decompress(assignment.user_data))
        told.url = str(self._url)
        assignment.user_data = self._compress(told.dumps())
        super().on_assignment(assignment)

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
        counts = {**self._created_changelogs(), **partitions_by_topic}
        return super()._global_table_standby_assignments(assignments, counts)

    def _created_changelogs(self) -> dict[str, int]:
        """The changelogs that this worker has created, whether or not a broker tells of them already.

        Faust fails on one that isn't in the metadata yet, and aiokafka waits in silence for somebody to take that
        error. The consumer waits for the metadata of what it is assigned.
        """
        topics = [table.changelog_topic for table in self.app.tables.data.values() if table.is_global]
        return {topic.get_topic_name(): topic.partitions or self.app.conf.topic_partitions for topic in topics}

    sources: frozenset[str] = frozenset()

    @classmethod
    def is_source(cls, topic: str) -> bool:
        """Whether this class deals the topic's partitions itself."""
        return topic in cls.sources


def even_assignor(sources: frozenset[str]) -> type[EvenAssignor]:
    """An assignor class for these source topics (Faust instantiates the class itself)."""
    return type("EvenAssignor", (EvenAssignor,), {"sources": sources})
