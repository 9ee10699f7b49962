"""Mending rows that only a sink has: they are deleted from its upsert table.

Nobody tells of a row that was deleted at the source while there was no connector, or no slot, to see it. Such a row is
known by three things: two snapshots of the source in a row don't have its key, its record stood in the topic before the
first of them began, and no transaction that might have written it was under way all the time. It is deleted by the
place of its record (`_cdc_partition`, `_cdc_offset`), so that a row of the same key which has come since stays,
whatever is written meanwhile.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import sleep

import polars as pl
import pyarrow as pa
from deltalake.exceptions import CommitFailedError
from pyiceberg.expressions import BooleanExpression
from pyiceberg.expressions.parser import parse

from config.errors import ConfigurationError, Unavailable
from config.pipeline import DeltaConfig, IcebergConfig
from sinks.delta.storage import load, storage_options, store_errors
from sinks.iceberg.catalog import CommitConflict, connect, sorted_errors
from sources.changes import CDC_OFFSET, CDC_PARTITION, TopicPartition
from verify.lake import open_lake
from verify.look import Look, Pair

ATTEMPTS = 30
PAUSE_SECONDS = 0.2

Places = Mapping[int, Sequence[int]]
"""Offsets of records by Kafka partition."""


def remove(pair: Pair, found: Look, before: Mapping[TopicPartition, int]) -> int:
    """Delete the rows that only the table has, as `found`, and whose records stood in the topic `before` these ends;
    say how many they were.

    Raises Unavailable if the store is, or if the worker's commits come first each time; ConfigurationError for a table
    that mayn't be written so.
    """
    places = _places(pair, found, before)
    if places:
        _delete(pair, places)
    return sum(map(len, places.values()))


def _places(pair: Pair, found: Look, before: Mapping[TopicPartition, int]) -> Places:
    lake = open_lake(pair.plan, pair.topic, ())
    if lake is None:
        return {}
    keys = _frame(pa.concat_tables(found.extra))
    places: dict[int, list[int]] = defaultdict(list)

    def take(rows: pa.Table) -> None:
        mine = _frame(rows).join(keys, on=keys.columns, how="semi", nulls_equal=True)
        for partition, offset in mine.select(CDC_PARTITION, CDC_OFFSET).iter_rows():
            if offset < before.get(TopicPartition(pair.topic, partition), 0):
                places[partition].append(offset)

    lake.read([*keys.columns, CDC_PARTITION, CDC_OFFSET], take)
    return places


def _delete(pair: Pair, places: Places) -> None:
    condition = " OR ".join(
        f"({CDC_PARTITION} = {partition} AND {CDC_OFFSET} IN ({', '.join(map(str, offsets))}))"
        for partition, offsets in places.items()
    )
    target, settings = pair.plan.target, pair.plan.settings
    attempt: Callable[[], None]
    if isinstance(settings, IcebergConfig):
        attempt = partial(_from_iceberg, settings, target.name, parse(condition))
    else:
        attempt = partial(_from_delta, settings, target.name, condition)
    for _ in range(ATTEMPTS):
        try:
            return attempt()
        except (CommitConflict, CommitFailedError):
            sleep(PAUSE_SECONDS)  # the worker came first
    raise Unavailable(f"the worker's commits came first {ATTEMPTS} times; run it again when fewer changes arrive")


def _from_iceberg(config: IcebergConfig, name: str, condition: BooleanExpression) -> None:
    with sorted_errors(config):
        table = connect(config).load_table(name)
        if table.properties.get("commit.retry.num-retries") != "0":
            # PyIceberg would put its files over those of a commit that came first, and rows would come back
            raise ConfigurationError(f"table {name} needs the property commit.retry.num-retries = 0 for it")
        table.delete(condition)


def _from_delta(config: DeltaConfig, uri: str, condition: str) -> None:
    with store_errors(uri):
        table = load(uri, storage_options(uri, config.storage_options))
        if table is not None:
            table.delete(condition)


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame
