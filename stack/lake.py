"""The lake's side: an S3-compatible object store, and an Iceberg REST catalog over it."""

from __future__ import annotations

from typing import Any

import httpx

from stack import dist
from stack.layout import write_whole
from stack.service import ProcessService
from stack.streaming import QUICK_START, java, properties

BUCKET = "lakehouse"
ACCESS_KEY = "lakeward"
SECRET_KEY = "lakeward-secret"
REGION = "us-east-1"

LOGBACK = (
    '<configuration><appender name="S" class="ch.qos.logback.core.ConsoleAppender"><encoder>'
    "<pattern>%d %-5level %logger{20} %msg%n</pattern></encoder></appender>"
    '<root level="WARN"><appender-ref ref="S"/></root></configuration>\n'
)


class ObjectStore(ProcessService):
    """s3proxy over a folder. Its conditional writes have exactly one winner, which table commits rest on."""

    name = "s3"
    components = (dist.S3PROXY,)
    port_names = ("s3",)

    async def prepare(self) -> None:
        """Configuration, and the bucket (a folder)."""
        data = self.layout.data(self.name)
        (data / BUCKET).mkdir(parents=True, exist_ok=True)
        values = {
            "s3proxy.endpoint": self.url,
            "s3proxy.authorization": "aws-v2-or-v4",
            "s3proxy.identity": ACCESS_KEY,
            "s3proxy.credential": SECRET_KEY,
            "s3proxy.ignore-unknown-headers": "true",
            "jclouds.provider": "filesystem-nio2",
            "jclouds.filesystem.basedir": data,
        }
        write_whole(self.layout.conf("s3proxy.conf"), properties(values))
        write_whole(self.layout.conf("logback.xml"), LOGBACK)

    def command(self) -> list[str]:
        logback = f"-Dlogback.configurationFile={self.layout.conf('logback.xml')}"
        main = "org.gaul.s3proxy.Main"
        options = ["-Xmx256m", "-XX:+UseSerialGC", logback, "-cp", f"{dist.S3PROXY.path}/*"]
        return [java(), *options, main, "--properties", str(self.layout.conf("s3proxy.conf"))]

    @property
    def url(self) -> str:
        """The S3 endpoint (path-style addresses)."""
        return f"http://127.0.0.1:{self.port}"

    async def healthy(self) -> bool:
        async with httpx.AsyncClient(timeout=5) as client:
            return (await client.get(self.url)).status_code < httpx.codes.INTERNAL_SERVER_ERROR

    def endpoint(self) -> dict[str, Any]:
        return {
            "url": self.url,
            "host": "127.0.0.1",
            "port": self.port,
            "user": ACCESS_KEY,
            "password": SECRET_KEY,
            "bucket": BUCKET,
            "region": REGION,
        }


class Catalog(ProcessService):
    """The Iceberg project's REST catalog fixture, over SQLite, with its warehouse in the object store."""

    name = "catalog"
    needs = after = ("s3",)
    components = (dist.CATALOG,)
    port_names = ("catalog",)

    async def prepare(self) -> None:
        """The folder of its database."""
        self.layout.data(self.name).mkdir(parents=True, exist_ok=True)

    def command(self) -> list[str]:
        options = ["-Xmx256m", *QUICK_START, "-cp", f"{dist.CATALOG.path}/*"]
        return [java(), *options, "org.apache.iceberg.rest.RESTCatalogServer"]

    def environment(self) -> dict[str, str]:
        return {
            "CATALOG_CATALOG__IMPL": "org.apache.iceberg.jdbc.JdbcCatalog",
            "CATALOG_URI": f"jdbc:sqlite:{self.layout.data(self.name)}/catalog.db",
            "CATALOG_WAREHOUSE": f"s3://{BUCKET}/warehouse",
            "CATALOG_REST_PORT": str(self.port),
            "CATALOG_IO__IMPL": "org.apache.iceberg.aws.s3.S3FileIO",
            "CATALOG_S3_ENDPOINT": f"http://127.0.0.1:{self.layout.ports['s3']}",
            "CATALOG_S3_PATH__STYLE__ACCESS": "true",
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        }

    async def healthy(self) -> bool:
        async with httpx.AsyncClient(timeout=5) as client:
            return (await client.get(f"http://127.0.0.1:{self.port}/v1/config")).status_code == httpx.codes.OK

    def endpoint(self) -> dict[str, Any]:
        return {
            "url": f"http://127.0.0.1:{self.port}",
            "host": "127.0.0.1",
            "port": self.port,
            "warehouse": f"s3://{BUCKET}/warehouse",
        }
