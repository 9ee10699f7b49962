"""A pipeline to run commands on: its two files, its database, and the real `cdc`."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import yaml

from config.platform import PlatformConfig
from stack.manager import Endpoint

CDC = Path(sys.executable).with_name("cdc")

TABLES = """
    CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL, credit numeric(8, 2));
    INSERT INTO customers VALUES (1, 'Ada', 10.50), (2, 'Grace', NULL);
    CREATE TABLE orders (id bigint PRIMARY KEY, customer int, at timestamptz);
    INSERT INTO orders VALUES (1, 1, '2024-02-29 12:00:00+00');
"""


@dataclass
class Run:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass
class Workbench:
    """A pipeline's files and its database. `source` and `platform` may be changed before a command runs."""

    folder: Path
    server: Endpoint
    pipeline_id: str
    source: dict[str, Any]
    platform: dict[str, Any]
    sinks: list[dict[str, Any]] = field(default_factory=list)

    def write(self) -> list[str]:
        """The files as they are now; returns the arguments that name them."""
        pipeline = {
            "pipeline_id": self.pipeline_id,
            "topic_prefix": self.pipeline_id,
            "source": self.source,
            "sinks": self.sinks,
        }
        paths = self.folder / "pipeline.yaml", self.folder / "platform.yaml"
        for path, content in zip(paths, (pipeline, self.platform), strict=True):
            path.write_text(yaml.safe_dump(content))
        return [str(paths[0]), "--platform-config", str(paths[1])]

    def cdc(self, command: str, *options: str, timeout: float = 120.0) -> Run:
        """Run `cdc COMMAND` on this pipeline."""
        done = subprocess.run(
            [CDC, command, *self.write(), *options],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
            cwd=self.folder,
        )
        return Run(done.returncode, done.stdout, done.stderr)

    def platform_config(self) -> PlatformConfig:
        return PlatformConfig.model_validate(self.platform)

    def sql(self, script: str) -> None:
        """Run statements as the pipeline's own user, who owns the tables."""
        asyncio.run(execute(self._login(), script))

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        return asyncio.run(_fetch(self._login(), sql))

    def topic(self, table: str) -> str:
        return f"{self.pipeline_id}.public.{table}"

    def _login(self) -> dict[str, Any]:
        source = self.source
        return {name: source[name] for name in ("host", "port", "database", "password")} | {"user": source["username"]}


async def execute(login: Mapping[str, Any], script: str) -> None:
    connection = await asyncpg.connect(**login)
    try:
        for statement in filter(str.strip, script.split(";")):
            await connection.execute(statement)
    finally:
        await connection.close()


async def _fetch(login: Mapping[str, Any], sql: str) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(**login)
    try:
        return [tuple(row) for row in await connection.fetch(sql)]
    finally:
        await connection.close()


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 60.0) -> None:
    """Ask again and again until it is so; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, f"not so after {seconds:g} s"
        await asyncio.sleep(0.05)
