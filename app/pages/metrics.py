"""`/metrics`: the snapshot in Prometheus' text format (version 0.0.4), written by hand.

Series with a partition are of this worker's partitions only, so that sums over workers count nothing twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from app.snapshot import PartitionView, Snapshot


class Sample(NamedTuple):
    """One line: labels and value; None is left out."""

    labels: dict[str, object]
    value: float | None


def exposition(snapshot: Snapshot) -> str:
    """The text that Prometheus scrapes."""
    return "".join(_lines(snapshot))


def _lines(snapshot: Snapshot) -> Iterator[str]:
    worker, sinks, topics = snapshot.worker, snapshot.sinks, snapshot.topics
    mine = [p for p in snapshot.partitions if p.mine]
    ends = {(p.topic, p.partition): p.log_end for p in mine}
    who: dict[str, object] = {"pipeline": snapshot.pipeline_id, "worker": worker.id, "state": snapshot.state.name}
    yield from _metric("info", "gauge", "Which pipeline and worker this is, and its state.", [Sample(who, 1)])
    yield from _metric(
        "healthy", "gauge", "0 while a sink or Kafka fails.", [Sample({}, snapshot.state.level != "error")]
    )
    yield from _metric("uptime_seconds", "gauge", "Since the pipeline started.", [Sample({}, worker.uptime_seconds)])
    yield from _metric("partitions", "gauge", "Kafka partitions of this worker.", [Sample({}, worker.partitions)])
    yield from _metric(
        "under_way_bytes", "gauge", "Fetched and not yet in every sink.", [Sample({}, worker.bytes_under_way)]
    )
    yield from _metric("under_way_budget_bytes", "gauge", "The bound of that.", [Sample({}, worker.bytes_budget)])
    yield from _metric("rows_total", "counter", "Rows committed.", (Sample(_labels(p), p.rows) for p in mine))
    yield from _metric(
        "next_offset",
        "gauge",
        "Watermark: the next offset that the sink wants.",
        (Sample(_labels(p), p.next_offset) for p in mine),
    )
    yield from _metric(
        "log_end_offset",
        "gauge",
        "The next offset of the log.",
        (Sample({"topic": topic, "partition": number}, end) for (topic, number), end in ends.items()),
    )
    yield from _metric(
        "lag_rows", "gauge", "Offsets between watermark and log end.", (Sample(_labels(p), p.lag_rows) for p in mine)
    )
    yield from _metric(
        "lag_seconds",
        "gauge",
        "Greatest age of what the sink doesn't have; 0 when it has everything.",
        (Sample(_labels(p), p.lag_seconds) for p in mine),
    )
    yield from _metric(
        "commits_total", "counter", "Commits landed.", (Sample({"sink": s.sink_id}, s.totals.commits) for s in sinks)
    )
    yield from _metric(
        "last_commit_timestamp_seconds",
        "gauge",
        "When the last commit landed.",
        (Sample({"sink": s.sink_id}, t.timestamp() if (t := s.totals.last_commit) else None) for s in sinks),
    )
    yield from _metric(
        "last_commit_seconds",
        "gauge",
        "How long the last commit took.",
        (Sample(_labels(p), p.commit_seconds) for p in mine),
    )
    yield from _metric(
        "sink_up",
        "gauge",
        "0 while the sink can't write.",
        (Sample({"sink": s.sink_id}, s.status in ("running", "idle")) for s in sinks),
    )
    yield from _metric(
        "sink_errors_total",
        "counter",
        "Failed attempts.",
        (Sample({"sink": s.sink_id}, s.error.count if s.error else 0) for s in sinks),
    )
    for name, text in (
        ("records", "Records decoded."),
        ("changes", "Changes found in them."),
        ("rejected", "Records set aside: they can't be read."),
        ("fallback", "Records decoded one by one."),
    ):
        yield from _metric(
            f"decode_{name}_total", "counter", text, (Sample({"topic": t.topic}, getattr(t, name)) for t in topics)
        )
    yield from _metric(
        "decode_skipped_total",
        "counter",
        "Records that carry no change, by kind; `reread`: rows that the source was asked to send again.",
        (Sample({"topic": t.topic, "kind": kind}, count) for t in topics for kind, count in t.skipped.items()),
    )


def _labels(partition: PartitionView) -> dict[str, object]:
    return {"sink": partition.sink_id, "topic": partition.topic, "partition": partition.partition}


def _metric(name: str, kind: str, text: str, samples: Iterable[Sample]) -> Iterator[str]:
    full = f"lakeward_{name}"
    yield f"# HELP {full} {text}\n# TYPE {full} {kind}\n"
    for labels, value in samples:
        if value is not None:
            inside = ",".join(f'{key}="{_escaped(str(item))}"' for key, item in labels.items())
            yield f"{full}{{{inside}}} {_number(value)}\n" if inside else f"{full} {_number(value)}\n"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
