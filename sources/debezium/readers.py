"""Readers turn framed records of one schema into raw columns: one kind per wire format."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sources.debezium import avro
from sources.debezium.avro_schema import Node, parse
from sources.debezium.connect_types import ConnectType
from sources.debezium.frames import PREFIX, Frames
from sources.debezium.raw import Raw

Faults = dict[int, str]


class Reader(Protocol):
    """Reads records of the Connect type `type`."""

    type: ConnectType

    def read(self, frames: Frames, rows: npt.NDArray[np.intp], want: avro.Want) -> tuple[dict[str, Raw], Faults, int]:
        """The wanted fields of the records `rows` (ascending), what is wrong with which of them (numbered as `rows`
        is), and how many took a path per record."""


class AvroReader:
    """Confluent-framed Avro of one writer schema. Raises SchemaError if the schema is none."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._node: Node = parse(schema)
        self._slack = avro.slack(self._node)
        self.type = self._node.type

    def read(self, frames: Frames, rows: npt.NDArray[np.intp], want: avro.Want) -> tuple[dict[str, Raw], Faults, int]:
        """See Reader. There is no path per record."""
        data, start, end = frames.window(rows, self._slack)
        columns, faults = avro.decode(self._node, data, start + PREFIX, end, want)
        return columns, faults, 0
