"""What a worker remembers on its own machine and in the consumer group decides nothing: the tables own the offsets."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from rocksdict import Options, Rdict

from chaos.load import Load
from chaos.pipeline import SESSION_TIMEOUT, SINKS, ChaosPipeline
from stack.manager import Endpoints
from stack.worker_log import WorkerLog
from tables.index_database import FORMAT, FORMAT_KEY


@pytest.fixture(scope="module")
def written(streaming: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChaosPipeline]:
    """A pipeline whose worker has written everything and was stopped."""
    pipeline = ChaosPipeline(tmp_path_factory.mktemp("state"), streaming, Load(streaming))
    try:
        pipeline.load.send(3_000)
        run_to_the_end(pipeline)
        yield pipeline
    finally:
        pipeline.close()


def delete_data(chaos: ChaosPipeline) -> None:
    assert list(chaos.data.rglob("key-index"))
    shutil.rmtree(chaos.data)


def overwrite_data(chaos: ChaosPipeline) -> None:
    """Each file has its size and other bytes."""
    for path in data_files(chaos):
        path.write_bytes(random.Random(path.name).randbytes(path.stat().st_size))


def cut_data(chaos: ChaosPipeline) -> None:
    for path in data_files(chaos):
        os.truncate(path, path.stat().st_size // 2)


def make_data_newer(chaos: ChaosPipeline) -> None:
    """As a version of Lakeward would leave it whose key index has another format."""
    (index,) = chaos.data.rglob("key-index")
    database = Rdict(str(index), Options(raw_mode=True))
    assert database.get(FORMAT_KEY) == FORMAT
    database.put(FORMAT_KEY, b"999")
    database.close()


def data_files(chaos: ChaosPipeline) -> list[Path]:
    """What RocksDB keeps there."""
    found = [path for path in chaos.data.rglob("*") if path.is_file() and path.name not in ("lock", "instance-id")]
    assert {"key-index", "sink_watermarks-0.db"} <= {path.parent.name for path in found}
    return found


def move_group_ahead(chaos: ChaosPipeline) -> None:
    set_group(chaos, chaos.load.ends)


def move_group_beyond_the_log(chaos: ChaosPipeline) -> None:
    set_group(chaos, {tp: end + 100_000 for tp, end in chaos.load.ends.items()})


def move_group_behind(chaos: ChaosPipeline) -> None:
    set_group(chaos, dict.fromkeys(chaos.load.ends, 1))


def forget_group(chaos: ChaosPipeline) -> None:
    when_empty(lambda: chaos.admin.delete_consumer_groups([chaos.group])[chaos.group].result(10))
    assert group_offsets(chaos) == dict.fromkeys(chaos.load.ends, -1001) or not group_offsets(chaos)


TAMPERS = [
    delete_data,
    overwrite_data,
    cut_data,
    make_data_newer,
    move_group_ahead,
    move_group_beyond_the_log,
    move_group_behind,
    forget_group,
]


@pytest.mark.parametrize("tamper", TAMPERS)
def test_the_tables_alone_say_where_to_go_on(written: ChaosPipeline, tamper: Callable[[ChaosPipeline], None]) -> None:
    stood = written.load.ends
    written.load.send(2_000)
    tamper(written)
    log = run_to_the_end(written)
    assert log.first_assigned == {tp: dict.fromkeys(SINKS, end) for tp, end in stood.items()}
    assert log.rows == dict.fromkeys(SINKS, written.load.changes_since(2_000))
    written.assert_tables_exact()


def run_to_the_end(chaos: ChaosPipeline) -> WorkerLog:
    """A worker's life from its start until it has written everything and told the group."""
    worker = chaos.worker()
    worker.start()
    log = WorkerLog(worker)
    chaos.catch_up(log)
    log.wait_for(lambda: group_offsets(chaos) == chaos.load.ends, "the group's offsets", 30)
    assert worker.terminate() == 0
    log.read()
    return log


def group_offsets(chaos: ChaosPipeline) -> dict[str, int]:
    """`topic/partition` -> the group's offset."""
    asked = ConsumerGroupTopicPartitions(chaos.group)
    found = chaos.admin.list_consumer_group_offsets([asked])[chaos.group].result(10).topic_partitions
    return {f"{tp.topic}/{tp.partition}": tp.offset for tp in found if tp.topic == chaos.load.topic}


def set_group(chaos: ChaosPipeline, offsets: dict[str, int]) -> None:
    wanted = [TopicPartition(chaos.load.topic, int(tp.rsplit("/", 1)[1]), offset) for tp, offset in offsets.items()]

    def alter() -> None:
        asked = ConsumerGroupTopicPartitions(chaos.group, wanted)
        for tp in chaos.admin.alter_consumer_group_offsets([asked])[chaos.group].result(10).topic_partitions:
            if tp.error is not None:
                raise KafkaException(tp.error)

    when_empty(alter)
    assert group_offsets(chaos) == offsets


def when_empty(change: Callable[[], object]) -> None:
    """Repeat until the broker allows it: a static member stays in the group for its session timeout."""
    deadline = time.monotonic() + 5 * SESSION_TIMEOUT
    while True:
        try:
            change()
        except KafkaException as error:
            if error.args[0].code() not in (KafkaError.NON_EMPTY_GROUP, KafkaError.UNKNOWN_MEMBER_ID):
                raise
            assert time.monotonic() < deadline, error
            time.sleep(0.1)
        else:
            return
