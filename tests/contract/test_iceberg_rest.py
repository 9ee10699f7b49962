"""The Iceberg sink keeps the sink contract over a REST catalog with its warehouse in an S3 store."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from contract_base import commit, committed, expected, inserts, opened, updates
from contract_checks import CHECKS, checks_for
from contract_events import batch, changes, folded, order
from contract_harness import target
from iceberg_harness import NAME
from iceberg_kills import tidied_under_kills
from iceberg_upkeep import counts, needed, present, small_sizes
from pyarrow.fs import FileSelector, FileType, S3FileSystem
from rest_harness import RestHarness

from config.errors import ConfigurationError, Unavailable
from config.pipeline import IcebergConfig
from sinks.iceberg.sink import IcebergSink
from stack.manager import Endpoint

CASES = [
    pytest.param(mode, name, id=f"{mode}-{name}")
    for mode in ("append", "upsert")
    for name in checks_for(upsert=mode == "upsert")
]


@pytest.mark.parametrize(("mode", "name"), CASES)
def test_sink_keeps_the_contract(mode: Any, name: str, tmp_path: Path, rest_catalog: Endpoint, s3: Endpoint) -> None:
    CHECKS[name][0](RestHarness(mode, tmp_path, rest_catalog, s3))


@pytest.mark.parametrize("mode", ["append", "upsert"])
def test_partitioned_table_in_the_object_store(mode: Any, tmp_path: Path, rest_catalog: Endpoint, s3: Endpoint) -> None:
    harness = RestHarness(mode, tmp_path, rest_catalog, s3, partition_by=("name", "day(at)"))
    parts = inserts(0, 4), changes([order("u", 0, "moved %/= ü"), order("d", 10)], 4), inserts(0, 2, partition=1)
    with closing(opened(harness)) as sink:
        for part in parts:
            sink.write(batch(part))
    assert harness.rows() == expected(harness, *parts)
    assert set(committed(harness).values()) == {6, 2}


@pytest.mark.parametrize("partition_by", [(), ("bucket(3, id)",)], ids=["plain", "bucketed"])
def test_upsert_tables_are_tidied_in_the_object_store(
    partition_by: tuple[str, ...], tmp_path: Path, rest_catalog: Endpoint, s3: Endpoint
) -> None:
    """Files stay few, and those that nothing needs any more go from the store, too."""
    grace = {"lakeward.reader-grace-seconds": "0"}
    harness = RestHarness("upsert", tmp_path, rest_catalog, s3, partition_by=partition_by, table_properties=grace)
    parts = [inserts(0, 40), *updates(60, keys=30, start=40)]
    most = 0
    with small_sizes():
        with closing(opened(harness)) as sink:
            for part in parts:
                commit(sink, part)
                most = max(most, sum(counts(present(harness))))
        assert harness.rows() == folded(*parts)
        assert most < (20 if not partition_by else 60)
        assert _in_store(harness, s3) == {path.removeprefix("s3://") for path in needed(present(harness))}


def test_killed_while_tidying_in_the_object_store(tmp_path: Path, rest_catalog: Endpoint, s3: Endpoint) -> None:
    parts = updates(8)
    steps = tidied_under_kills(
        tmp_path, lambda folder: RestHarness("upsert", folder, rest_catalog, s3), [], parts[:6], parts[6:]
    )
    assert len(steps) > 4


def _in_store(harness: RestHarness, s3: Endpoint) -> set[str]:
    """The paths (bucket/key) of all files under the table's location."""
    store = S3FileSystem(
        access_key=s3.user,
        secret_key=s3.password,
        endpoint_override=s3.address,
        scheme="http",
        region=s3.more["region"],
    )
    location = present(harness).metadata.location.removeprefix("s3://")
    found = store.get_file_info(FileSelector(location, recursive=True))
    return {info.path for info in found if info.type == FileType.File}


def test_wrong_keys_of_the_store_are_a_configuration_error(
    tmp_path: Path, rest_catalog: Endpoint, s3: Endpoint
) -> None:
    harness = RestHarness("append", tmp_path, rest_catalog, s3)
    config = IcebergConfig(**{**harness.config.model_dump(), "s3_secret_access_key": "wrong-and-not-shown"})
    sink = IcebergSink(config, target(("t",), f"{config.table_namespace}.{NAME}"), None)
    with closing(sink), pytest.raises(ConfigurationError, match="s3_") as error:
        sink.open()
        sink.write(batch(inserts(0, 1)))
    assert "not-shown" not in str(error.value)


def test_store_that_is_away_is_unavailable(tmp_path: Path, rest_catalog: Endpoint, s3: Endpoint) -> None:
    harness = RestHarness("append", tmp_path, rest_catalog, s3)
    config = IcebergConfig(**{**harness.config.model_dump(), "s3_endpoint": "http://127.0.0.1:1"})
    sink = IcebergSink(config, target(("t",), f"{config.table_namespace}.{NAME}"), None)
    with closing(sink), pytest.raises(Unavailable, match=rest_catalog.url):
        sink.open()
        sink.write(batch(inserts(0, 1)))
