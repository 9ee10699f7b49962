"""Who gets which partitions, by the group's leader."""

from __future__ import annotations

from collections.abc import Mapping

import faust

from sources.kafka.assignor import even_assignor

SOURCES = ("shop.customers", "shop.orders")
CHANGELOG = "shop-worker-marks-changelog"


class Cluster:
    """What the leader's broker tells of partitions."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        self._counts = counts

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return set(range(self._counts[topic])) if topic in self._counts else None


def worker(web_port: int) -> faust.App:
    assignor = even_assignor(frozenset(SOURCES))
    app = faust.App(
        "shop-worker", broker="kafka://nowhere:9", PartitionAssignor=assignor, store="memory://", web_port=web_port
    )
    app.GlobalTable("marks", partitions=1)
    return app


def assigned(counts: Mapping[str, int], members: tuple[str, ...]) -> dict[str, set[tuple[str, int]]]:
    """The partitions of each member, as the group's protocol carries them."""
    app = worker(6066)
    metadata = app.assignor.metadata({*SOURCES, CHANGELOG})
    found = app.assignor.assign(Cluster(counts), dict.fromkeys(members, metadata))
    return {
        member: {(topic, n) for topic, partitions in protocol.assignment for n in partitions}
        for member, protocol in found.items()
    }


def test_source_partitions_are_dealt_out_evenly_and_everybody_reads_the_changelog() -> None:
    found = assigned({"shop.customers": 1, "shop.orders": 3, CHANGELOG: 1}, ("a", "b"))
    changelog = {(CHANGELOG, 0)}
    assert found == {
        "a": {("shop.customers", 0), ("shop.orders", 1)} | changelog,
        "b": {("shop.orders", 0), ("shop.orders", 2)} | changelog,
    }


def test_changelog_of_which_no_broker_tells_yet_is_assigned_all_the_same() -> None:
    """Faust fails here, and the worker would wait for its group without a word."""
    found = assigned({"shop.orders": 1}, ("a",))
    assert found == {"a": {("shop.orders", 0), (CHANGELOG, 0)}}


def test_sources_that_do_not_exist_yet_are_left_out() -> None:
    assert assigned({CHANGELOG: 1}, ("a",)) == {"a": {(CHANGELOG, 0)}}


def test_static_member_that_is_back_at_another_web_address_takes_its_assignment_of_before() -> None:
    before, after = worker(6066), worker(6067)
    metadata = before.assignor.metadata({*SOURCES, CHANGELOG})
    counts = {"shop.customers": 1, "shop.orders": 3, CHANGELOG: 1}
    protocol = before.assignor.assign(Cluster(counts), {"a": metadata})["a"]
    after.assignor.on_assignment(protocol)
    assert {tuple(tp) for tp in after.assignor.assigned_actives()} >= {("shop.customers", 0), ("shop.orders", 2)}
