"""Where tables lie in the stack's lake, as a sink's settings say it: what the demo, tests and benchmarks write."""

from __future__ import annotations

from typing import Any

from stack.manager import Endpoint


def in_catalog(catalog: Endpoint, store: Endpoint) -> dict[str, Any]:
    """An Iceberg sink's settings: a REST catalog, its warehouse in an object store."""
    return {
        "catalog_uri": catalog.url,
        "warehouse": catalog.more["warehouse"],
        "s3_endpoint": store.url,
        "s3_access_key_id": store.user,
        "s3_secret_access_key": store.password,
        "s3_region": store.more["region"],
    }


def storage_options(store: Endpoint) -> dict[str, str]:
    """A Delta sink's access to an object store."""
    return {
        "AWS_ENDPOINT_URL": store.url,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": str(store.user),
        "AWS_SECRET_ACCESS_KEY": str(store.password),
        "AWS_REGION": store.more["region"],
    }


def bucket(store: Endpoint) -> str:
    """The URI of its bucket."""
    return f"s3://{store.more['bucket']}"
