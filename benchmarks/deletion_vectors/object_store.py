"""The same over S3: has a put-if-absent one winner, and do readers see the rows? `python -m …object_store`."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import click
import numpy as np

from benchmarks.deletion_vectors import log, readers
from benchmarks.deletion_vectors.answers import rows_wrong
from benchmarks.deletion_vectors.checks import TPS
from benchmarks.deletion_vectors.log import Store
from benchmarks.deletion_vectors.writer import CommitLost, Upserts
from benchmarks.long import COLUMNS, Accounts, Scenario
from sinks.base import Batch
from sinks.delta.schema import table_columns
from stack.manager import running_stack
from tables.key_index import KeyIndex

RACERS = 8


def races(stores: Iterable[Store], rounds: int) -> tuple[int, float]:
    """How many rounds hadn't exactly one winner, and the milliseconds of a put."""
    several = 0
    began = time.monotonic()
    racers = list(stores)
    with ThreadPoolExecutor(RACERS) as pool:
        for _ in range(rounds):
            path = f"races/{uuid4().hex}.json"
            won = list(pool.map(lambda store, path=path: store.put_new(path, uuid4().bytes * 200), racers))
            several += sum(won) != 1
    return several, (time.monotonic() - began) / rounds * 1_000


def two_writers(store: Store, folder: Path, accounts: Accounts) -> tuple[int, int]:
    """Two workers with two Kafka partitions each commit from two threads: lost and rebased commits."""
    log.create(store, table_columns(tuple(COLUMNS)), (), feed=True)
    index = KeyIndex.shared(folder / "index")
    writers = [Upserts(store, index, tps, ("id",), prefix="_dv") for tps in (TPS[:2], TPS[2:])]
    lost = 0

    def write(writer: Upserts, batch: Batch) -> int:
        again = 0
        while True:
            try:
                writer.write(batch)
            except CommitLost:
                again += 1
            else:
                return again

    with ThreadPoolExecutor(2) as pool:
        for number in range(12):
            batch = accounts.load(0, 2_000) if number == 0 else accounts.changes(200)
            halves = [_part(batch, {0, 1}), _part(batch, {2, 3})]
            lost += sum(pool.map(write, writers, halves))
    index.close()
    return lost, sum(writer.rebased for writer in writers)


def _part(batch: Batch, partitions: set[int]) -> Batch:
    ranges = {tp: span for tp, span in batch.ranges.items() if tp.partition in partitions}
    return Batch(ranges, [c for c in batch.changes if c.partition in partitions], batch.partition_counts)


@click.command()
@click.option("--rounds", default=200)
def main(rounds: int) -> None:
    """Races, two writers, and readers."""
    with running_stack({"s3"}) as stack, tempfile.TemporaryDirectory() as folder:
        s3 = stack["s3"]
        bucket, say = s3.more["bucket"], sys.stdout.write
        for client in ("obstore", "boto3"):
            several, ms = races(
                [log.s3_store(bucket, "races", s3.url, s3.user or "", s3.password or "", client=client)] * RACERS,
                rounds,
            )
            say(f"{client}: {several} of {rounds} races of {RACERS} without exactly one winner, {ms:.1f} ms a round\n")
        local = Path(folder, "local")
        (local / "races").mkdir(parents=True)
        several, ms = races([log.local_store(local)] * RACERS, rounds)
        say(f"local: {several} of {rounds}, {ms:.1f} ms a round\n")
        prefix = f"dv-{uuid4().hex}"
        store = log.s3_store(bucket, prefix, s3.url, s3.user or "", s3.password or "")
        accounts = Accounts(Scenario("uniform", (), "s3", 2_000))
        lost, rebased = two_writers(store, Path(folder), accounts)
        say(f"two writers: {lost} commits lost, {rebased} rebased\n")
        there = np.flatnonzero(accounts.versions >= 0)
        state = dict(zip(there.tolist(), accounts.versions[there].tolist(), strict=True))
        uri = f"s3://{bucket}/{prefix}"
        options = {
            "aws_endpoint_url": s3.url, "aws_access_key_id": s3.user or "", "aws_region": "us-east-1",
            "aws_secret_access_key": s3.password or "", "aws_allow_http": "true"}  # fmt: skip
        secret = (
            f"CREATE SECRET (TYPE s3, KEY_ID '{s3.user}', SECRET '{s3.password}', REGION 'us-east-1',"
            f" ENDPOINT '{s3.url.split('://')[1]}', URL_STYLE 'path', USE_SSL false)"
        )
        say(f"delta-rs: {rows_wrong(readers.delta_rs(uri, options), state) or 'right'}\n")
        say(f"Polars: {rows_wrong(readers.polars(uri, options), state) or 'right'}\n")
        say(f"DuckDB: {rows_wrong(readers.duckdb(uri, secret), state) or 'right'}\n")


if __name__ == "__main__":
    main()
