"""Requests to a store, several at a time: over a network each one costs more than its bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

REQUESTS_AT_ONCE = 8

T = TypeVar("T")
U = TypeVar("U")


def at_once(function: Callable[[T], U], items: Iterable[T]) -> list[U]:
    """The results of requests to the store, several at a time, in the order of the items; raises what one raised."""
    items = list(items)
    if len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        return list(pool.map(function, items))
