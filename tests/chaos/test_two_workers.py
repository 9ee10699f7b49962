"""Two workers share four partitions; one dies, or leaves, or comes back, under load: nothing lost, nothing doubled."""

from __future__ import annotations

import shutil

from chaos.pipeline import SINKS, ChaosPipeline
from stack.worker import WorkerProcess
from stack.worker_log import WorkerLog


def share(logs: dict[str, WorkerLog], chaos: ChaosPipeline) -> None:
    """Wait until the workers hold two partitions each, and each has committed to every sink since."""

    def shared() -> bool:
        for log in logs.values():
            log.read()
        held = [set(log.assigned) for log in logs.values()]
        return [len(partitions) for partitions in held] == [2, 2] and set.union(*held) == set(chaos.load.ends)

    first = next(iter(logs.values()))
    first.wait_for(shared, "two partitions for each worker", 240)
    for log in logs.values():
        floor = dict(log.committed)
        log.wait_for(
            lambda: all(log.committed[sink] > floor.get(sink, 0) for sink in SINKS),  # noqa: B023 - called here
            "a commit of each sink",
        )


def alone(log: WorkerLog, chaos: ChaosPipeline) -> None:
    """Wait until a worker holds all partitions."""
    log.wait_for(lambda: set(log.assigned) == set(chaos.load.ends), "all partitions", 240)


def test_partitions_of_a_killed_or_stopped_worker_go_to_the_other_exactly_where_it_was(chaos: ChaosPipeline) -> None:
    workers = {name: chaos.worker(name) for name in ("left", "right")}
    logs: dict[str, WorkerLog] = {}

    def start(name: str) -> None:
        workers[name].start()
        logs[name] = WorkerLog(workers[name])

    def kill_in_commit(name: str, sink: str) -> None:
        logs[name].wait_for(lambda: logs[name].in_commit(sink), f"commit of {sink}")
        workers[name].kill()

    chaos.load.send(2_000)
    chaos.load.start(per_second=400)
    start("left")
    alone(logs["left"], chaos)
    start("right")
    share(logs, chaos)

    kill_in_commit("left", "iceberg-upsert")
    alone(logs["right"], chaos)
    start("left")
    share(logs, chaos)

    kill_in_commit("right", "delta-upsert")  # and back before anybody noticed
    start("right")
    share(logs, chaos)

    assert workers["left"].terminate() == 0
    alone(logs["right"], chaos)
    chaos.load.stop()
    finish(workers["right"], logs["right"], chaos)


def test_a_worker_that_froze_beyond_its_session_writes_nothing_twice(chaos: ChaosPipeline) -> None:
    """A zombie: it wakes with buffered rows and a commit under way for partitions that are another worker's by now."""
    frozen, other = chaos.worker("frozen"), chaos.worker("other")
    chaos.load.send(2_000)
    chaos.load.start(per_second=400)
    frozen.start()
    frozen_log = WorkerLog(frozen)
    alone(frozen_log, chaos)
    frozen_log.wait_for(lambda: frozen_log.in_commit("iceberg-upsert"), "commit of iceberg-upsert")
    frozen.freeze()
    other.start()
    other_log = WorkerLog(other)
    alone(other_log, chaos)
    passed = other_log.committed.copy()
    other_log.wait_for(
        lambda: all(other_log.committed[sink] > passed[sink] for sink in SINKS), "a commit of each sink after it"
    )
    frozen.thaw()
    share({"frozen": frozen_log, "other": other_log}, chaos)
    chaos.load.stop()
    assert frozen.terminate() == 0
    alone(other_log, chaos)
    finish(other, other_log, chaos)


def test_a_copied_data_directory_is_another_workers(chaos: ChaosPipeline) -> None:
    """Neither throws the other out of the group (static membership), and what the copy knows of keys isn't believed."""
    chaos.load.send(2_000)
    first = chaos.worker("first")
    first.start()
    chaos.catch_up(WorkerLog(first))
    assert first.terminate() == 0
    copy = chaos.folder / "copied-data"
    shutil.copytree(chaos.data, copy)
    chaos.load.send(2_000)
    first.start()
    chaos.catch_up(WorkerLog(first))
    chaos.load.start(per_second=400)
    second = chaos.worker("second", data=copy)
    second.start()
    logs = {"first": WorkerLog(first), "second": WorkerLog(second)}
    share(logs, chaos)
    assert not list(second.events("index.damaged"))
    chaos.load.stop()
    assert first.terminate() == 0
    alone(logs["second"], chaos)
    finish(second, logs["second"], chaos)


def finish(worker: WorkerProcess, log: WorkerLog, chaos: ChaosPipeline) -> None:
    """Let the last worker write the rest, and look at the tables."""
    chaos.catch_up(log)
    assert worker.terminate() == 0
    chaos.assert_tables_exact()
