"""The grammar of `partition_by`: a column, or a transform of one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

Transform = Literal["identity", "year", "month", "day", "hour", "bucket", "truncate"]

WITH_ARGUMENT = ("bucket", "truncate")
GRAMMAR = "a column, year(c), month(c), day(c), hour(c), bucket(16, c) or truncate(4, c)"

_CALL = re.compile(r"^(?P<transform>\w+)\s*\(\s*(?P<inner>[^()]*?)\s*\)$")


@dataclass(frozen=True)
class PartitionField:
    """One field of a partition spec; `argument` is bucket's number of buckets or truncate's width."""

    column: str
    transform: Transform = "identity"
    argument: int | None = None

    def __str__(self) -> str:
        if self.transform == "identity":
            return self.column
        inner = self.column if self.argument is None else f"{self.argument}, {self.column}"
        return f"{self.transform}({inner})"


def parse_partition_field(text: str) -> PartitionField:
    """Read one entry of `partition_by`. Raises ValueError, saying what is allowed."""
    text = text.strip()
    call = _CALL.match(text)
    if call is None:
        if not text or re.search(r"[(),]", text):
            raise ValueError(f"{text!r} is not a partition field; allowed: {GRAMMAR}")
        return PartitionField(text)
    name, arguments = call["transform"].lower(), [part.strip() for part in call["inner"].split(",")]
    transform = next((known for known in get_args(Transform) if known == name), None)
    if transform is None:
        raise ValueError(f"{text!r}: no transform {call['transform']!r}; allowed: {GRAMMAR}")
    if transform in WITH_ARGUMENT:
        if len(arguments) != 2 or not arguments[0].isdecimal() or int(arguments[0]) < 1 or not arguments[1]:
            raise ValueError(f"{text!r}: write {transform}(N, column) with a whole number N >= 1")
        return PartitionField(arguments[1], transform, int(arguments[0]))
    if len(arguments) != 1 or not arguments[0]:
        raise ValueError(f"{text!r}: write {transform}(column)")
    return PartitionField(arguments[0], transform)


def parse_partition_fields(texts: tuple[str, ...]) -> tuple[PartitionField, ...]:
    """Read a whole `partition_by`. Raises ValueError for a wrong or repeated entry."""
    fields = tuple(parse_partition_field(text) for text in texts)
    for index, field in enumerate(fields):
        if field in fields[:index]:
            raise ValueError(f"{field} is there twice")
    return fields
