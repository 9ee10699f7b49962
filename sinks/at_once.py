"""Requests to a store, several at a time: over a network each one costs more than its bytes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

REQUESTS_AT_ONCE = 8

T = TypeVar("T")
U = TypeVar("U")
K = TypeVar("K")


def at_once(function: Callable[[T], U], items: Iterable[T]) -> list[U]:
    """The results of requests to the store, several at a time, in the order of the items; raises what one raised."""
    items = list(items)
    if len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        return list(pool.map(function, items))


def at_once_by(function: Callable[..., U], items: Sequence[tuple[K, tuple[Any, ...]]]) -> dict[K, list[U]]:
    """The same of items (key, arguments), the results by key; a key without items has none."""
    found: dict[K, list[U]] = defaultdict(list)
    for (key, _), result in zip(items, at_once(lambda item: function(*item[1]), items), strict=True):
        found[key].append(result)
    return found
