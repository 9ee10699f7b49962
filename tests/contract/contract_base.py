"""What the checks of the sink contract share: their registry, and the ways in which they use a sink."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from contract_events import (
    TOPIC,
    batch,
    changes,
    folded,
    log_rows,
    order,
)
from contract_harness import Factory, SinkHarness
from hypothesis import HealthCheck, Phase, settings
from structlog.testing import capture_logs

from config.errors import Unavailable
from config.evolution import SchemaEvolution
from sinks.base import Batch, Receipt, Sink
from sources.changes import ChangeBatch, TopicPartition

Check = Callable[[SinkHarness], None]
TP0, TP1 = TopicPartition(TOPIC, 0), TopicPartition(TOPIC, 1)

CHECKS: dict[str, tuple[Check, Literal["both", "append", "upsert"]]] = {}


def check(mode: Literal["both", "append", "upsert"] = "both") -> Callable[[Check], Check]:
    """Register a check under its name, for the write modes that it applies to."""

    def register(function: Check) -> Check:
        CHECKS[function.__name__] = (function, mode)
        return function

    return register


def checks_for(*, upsert: bool) -> list[str]:
    mode = "upsert" if upsert else "append"
    return [name for name, (_, wanted) in CHECKS.items() if wanted in ("both", mode)]


def expected(harness: SinkHarness, *parts: ChangeBatch) -> list[dict[str, Any]]:
    return folded(*parts) if harness.upsert else log_rows(*parts)


def opened(
    harness: SinkHarness, topics: tuple[str, ...] = (TOPIC,), policies: Mapping[str, str] | str | None = None
) -> Sink:
    """A fresh writer; `policies` for schema changes as a pipeline file has them."""
    sink = harness.new_sink(topics, SchemaEvolution.model_validate(policies or {}))
    sink.open()
    return sink


def committed(harness: SinkHarness, *partitions: TopicPartition) -> dict[TopicPartition, int]:
    """The destination's offsets, as a new process reads them."""
    with closing(opened(harness)) as sink:
        return sink.committed(partitions or (TP0, TP1))


def write_until_acknowledged(sink: Sink, todo: Batch) -> Receipt:
    """Write as the agents do: an Unavailable destination is asked again with the same batch."""
    for _ in range(4):
        try:
            return sink.write(todo)
        except Unavailable:
            continue
    return sink.write(todo)


def inserts(first: int, count: int, *, partition: int = 0) -> ChangeBatch:
    """Creates of keys that no other offset or partition uses."""
    rows = [order("c", 10 * offset + partition) for offset in range(first, first + count)]
    return changes(rows, first, partition=partition)


def write(sink: Sink, todo: Batch) -> None:
    """For a hook: write through another sink."""
    sink.write(todo)


def updates(count: int, *, keys: int = 20, partition: int = 0, seed: int = 1, start: int = 0) -> list[ChangeBatch]:
    """Batches of a few random changes of few keys; each partition has keys of its own."""
    rng = np.random.default_rng(seed)
    parts, offset = [], start
    for n in range(count):
        chosen = rng.choice(keys, size=int(rng.integers(1, 6)), replace=False).tolist()
        rows = [order("d" if rng.random() < 0.2 else "u", 2 * k + partition, f"{n}") for k in chosen]
        parts.append(changes(rows, offset, partition=partition))
        offset += len(rows)
    return parts


def commit(sink: Sink, *parts: ChangeBatch) -> None:
    for part in parts:
        sink.write(batch(part))
        sink.tidy()


@contextmanager
def rebuilds(*expected_rows: int) -> Iterator[None]:
    """Inside, exactly these rebuilds of an index happen, of so many rows each."""
    with capture_logs() as logs:
        yield
    assert [entry["rows"] for entry in logs if entry["event"] == "index.rebuilt"] == list(expected_rows)


def damage(folder: Path) -> None:
    """Overwrite the middle of each table file of a RocksDB: it opens, and reading finds the damage."""
    for file in folder.glob("*.sst"):
        content = bytearray(file.read_bytes())
        content[8 : max(16, len(content) // 2)] = b"\xaa" * (max(16, len(content) // 2) - 8)
        file.write_bytes(content)


def random_examples(factory: Factory) -> settings:
    """Settings of a property of a sink: as many examples as its harness can afford."""
    with TemporaryDirectory() as probe:
        examples = factory(Path(probe)).examples
    return settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
    )
