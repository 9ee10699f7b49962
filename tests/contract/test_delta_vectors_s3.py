"""Deletion vectors on an S3 store: the whole contract, and writers that really race."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pytest
from contract_base import TP0, TP1, commit, committed, opened, updates
from contract_checks import CHECKS, checks_for
from contract_events import TOPIC, canonical, changes, folded, order
from contract_harness import target
from delta_harness import DeltaHarness, RacyVectorSink
from deltalake import DeltaTable, QueryBuilder

from config.errors import ConfigurationError, Unavailable
from config.evolution import SchemaEvolution
from config.pipeline import DeltaConfig
from sinks.base import Sink
from sinks.delta.folder import Folder
from stack.manager import Endpoint
from stack.places import bucket, storage_options
from stack.readers import Store, connect_duckdb
from tables.key_index import KeyIndex


class S3Harness(DeltaHarness):
    """A table in a folder of its own of the one bucket."""

    def __init__(self, folder: Path, store: Endpoint, **settings: Any) -> None:
        super().__init__("upsert", folder)
        self.store = store
        self.uri = f"{bucket(store)}/contract/vectors-{uuid4().hex[:10]}/orders"
        self.options = storage_options(store)
        self.config = DeltaConfig(
            table_uri=self.uri,
            write_mode="upsert",
            upserts="deletion_vectors",
            storage_options=self.options,
            **settings,
        )

    def new_sink(self, topics: tuple[str, ...] = (TOPIC,), policies: SchemaEvolution | None = None) -> Sink:
        config = self.config if policies is None else self.config.model_copy(update={"schema_evolution": policies})
        folder = self.free.pop() if self.free else self.folder / f"index-{next(self._numbers)}"
        sink = RacyVectorSink(config, target(topics, self.uri), KeyIndex.shared(folder))
        sink.folder, sink.harness = folder, self
        return sink

    def rows(self) -> list[dict[str, Any]]:
        if not any(self.objects()):
            return []
        read = QueryBuilder().register("t", DeltaTable(self.uri, storage_options=self.options))
        rows = canonical(pa.table(read.execute("SELECT * FROM t").read_all()).to_pylist())
        store = Store(self.store.url, str(self.store.user), str(self.store.password), self.store.more["region"])
        with connect_duckdb(store, delta=True) as connection:
            found = connection.execute(f"SELECT * FROM delta_scan('{self.uri}')").to_arrow_table().to_pylist()
        assert canonical(found) == rows
        return rows

    def objects(self) -> Iterator[str]:
        return (file.path for file in Folder(self.uri, self.options).files())

    def drop(self) -> None:
        Folder(self.uri, self.options).delete(list(self.objects()))


@pytest.mark.parametrize("name", checks_for(upsert=True))
def test_sink_keeps_the_contract_on_s3(name: str, s3: Endpoint, tmp_path: Path) -> None:
    CHECKS[name][0](S3Harness(tmp_path, s3))


def test_put_if_absent_has_one_winner(s3: Endpoint, tmp_path: Path) -> None:
    harness = S3Harness(tmp_path, s3)
    folder = Folder(harness.uri, harness.options)
    for n in range(30):
        won: list[str] = []
        start = threading.Barrier(6)

        def race(me: int, n: int = n, won: list[str] = won, start: threading.Barrier = start) -> None:
            start.wait()
            if folder.put_new(f"races/{n}", str(me).encode() * 5_000) is not None:
                won.append(str(me))

        threads = [threading.Thread(target=race, args=(me,)) for me in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert folder.read(f"races/{n}").decode() == won[0] * 5_000


def test_tags_say_whether_a_file_is_still_the_same(s3: Endpoint, tmp_path: Path) -> None:
    """The remembered log is believed by the tag of its newest file: the put's, the read's and the look's are one."""
    harness = S3Harness(tmp_path, s3)
    for folder in (Folder(harness.uri, harness.options), Folder(str(tmp_path / "t"), {})):
        tag = folder.put_new("a", b"one")
        assert tag is not None
        assert folder.tag("a") == tag == folder.read_tagged("a")[1]
        folder.put("a", b"three")
        assert folder.tag("a") != tag
        folder.delete(["a", "b"])
        assert folder.tag("a") is None


def test_writers_that_really_race_on_s3_lose_and_double_nothing(s3: Endpoint, tmp_path: Path) -> None:
    harness = S3Harness(tmp_path, s3)
    failures: list[BaseException] = []
    ours, theirs = updates(20), updates(20, partition=1)

    def run(parts: list[Any]) -> None:
        try:
            with closing(opened(harness)) as sink:
                for part in parts:
                    for _ in range(20):
                        try:
                            commit(sink, part)
                            break
                        except Unavailable:
                            continue
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(parts,)) for parts in (ours, theirs, [*ours[:5]])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert harness.rows() == folded(*ours, *theirs)
    assert committed(harness) == {TP0: ours[-1].next, TP1: theirs[-1].next}


@pytest.mark.usefixtures("small_tiers")
def test_partitions_and_upkeep_on_s3(s3: Endpoint, tmp_path: Path) -> None:
    properties = {"delta.deletedFileRetentionDuration": "interval 0 seconds", "delta.checkpointInterval": "5"}
    harness = S3Harness(tmp_path, s3, partition_by=("name",), table_properties=properties)
    names = ["it's %/=?", "on hold", "plain"]
    parts = [changes([order("u", n % 7, names[n % 3]), order("d", n % 5)], 2 * n) for n in range(30)]
    with closing(opened(harness)) as sink:
        commit(sink, *parts)
    assert harness.rows() == folded(*parts)
    assert any("checkpoint" in path for path in harness.objects())
    assert sum(path.endswith(".parquet") for path in harness.objects()) < 60


def test_wrong_keys_are_a_configuration_error(s3: Endpoint, tmp_path: Path) -> None:
    harness = S3Harness(tmp_path, s3)
    wrong = {**harness.options, "AWS_SECRET_ACCESS_KEY": "wrong-and-not-shown"}
    harness.config = harness.config.model_copy(update={"storage_options": wrong})
    with pytest.raises(ConfigurationError, match="the store refuses") as error:
        harness.new_sink().open()
    assert "not-shown" not in str(error.value)


def test_folder_below_which_readers_find_no_vectors_is_refused(s3: Endpoint, tmp_path: Path) -> None:
    harness = S3Harness(tmp_path, s3)
    harness.uri += " of today"
    with pytest.raises(ConfigurationError, match=r"orders of today: .*no spaces.*upserts: merge"):
        harness.new_sink().open()


def test_store_that_is_away_is_unavailable(tmp_path: Path) -> None:
    options = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "not-shown",
               "AWS_REGION": "us-east-1", "retry_timeout": "1s", "timeout": "5s"}  # fmt: skip
    uri = "s3://lake/orders"
    config = DeltaConfig(table_uri=uri, write_mode="upsert", upserts="deletion_vectors", storage_options=options)
    harness = DeltaHarness("upsert", tmp_path)
    sink = RacyVectorSink(config, target((TOPIC,), uri), KeyIndex.shared(tmp_path / "index"))
    sink.folder, sink.harness = tmp_path / "index", harness
    with closing(sink), pytest.raises(Unavailable, match=r"s3://lake/orders: the store can't be reached") as error:
        sink.open()
    assert "not-shown" not in str(error.value)


@pytest.mark.parametrize(("options", "match"), [({"retry_timeout": "soon"}, "500ms"), ({"aws_frob": "1"}, "frob")])
def test_store_options_that_are_not_known_are_named(options: dict[str, str], match: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=match):
        Folder("s3://lake/orders", {"aws_region": "us-east-1", **options})
