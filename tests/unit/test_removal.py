"""Which rows a repair deletes: only those whose records stood in the topic before the source was found to lack them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from sources.changes import CDC_OFFSET, CDC_PARTITION, TopicPartition
from verify import removal
from verify.finding import Finding
from verify.look import Limits, Look

TOPIC = "shop.public.orders"
TABLE = pa.table(
    {
        "id": [1, 2, 3, 4, 4],
        CDC_PARTITION: pa.array([0, 0, 1, 0, 0], pa.int32()),
        CDC_OFFSET: pa.array([7, 12, 3, 8, 9], pa.int64()),
    }
)


def found(*extra: int, **counts: int) -> Look:
    before = {TopicPartition(TOPIC, 0): 10, TopicPartition(TOPIC, 1): 4}
    keys = [pa.table({"id": pa.array(extra, pa.int64())})]
    return Look("", (), counts={"extra": len(extra), **counts}, extra=keys, before=before)  # type: ignore[dict-item]


def pair(*, is_log: bool = False) -> Any:
    return SimpleNamespace(plan=None, topic=TOPIC, is_log=is_log)


@pytest.mark.parametrize(
    ("extra", "places"),
    [
        ([1], {0: [7]}),
        ([1, 3], {0: [7], 1: [3]}),
        ([2], {}),  # it has come since
        ([1, 2], {0: [7]}),
        ([4], {0: [8, 9]}),  # there twice
        ([5], {}),  # gone already
    ],
)
def test_a_row_that_has_come_since_stays(
    monkeypatch: pytest.MonkeyPatch, extra: list[int], places: dict[int, list[int]]
) -> None:
    lake = SimpleNamespace(read=lambda names, take: take(TABLE.select(names)))
    monkeypatch.setattr(removal, "open_lake", lambda *_: lake)
    deleted: list[Any] = []
    monkeypatch.setattr(removal, "_delete", lambda _, places: deleted.append(dict(places)))
    look = found(*extra)
    assert removal.remove(pair(), look, look.before) == sum(map(len, places.values()))
    assert deleted == ([places] if places else [])


@pytest.mark.parametrize(
    ("look", "is_log", "removable"),
    [
        (found(1), False, True),
        (found(1), True, False),
        (found(), False, False),
        (found(1, missing=1), False, False),
        (found(1, different=1), False, False),
    ],
)
def test_nothing_is_deleted_while_rows_are_missing_nor_from_a_change_log(
    look: Look, is_log: bool, removable: bool
) -> None:
    assert Finding(pair(is_log=is_log), Limits(20, 20), look, look).removable is removable


def test_transactions_that_neither_look_has_seen_are_those_named_before_both() -> None:
    whole, last = found(1), found(1)
    whole.unseen, last.unseen = frozenset({"process 1", "process 2"}), frozenset({"process 2", "process 3"})
    finding = Finding(pair(), Limits(20, 20), whole, last)
    assert finding.unseen == {"process 2"}
