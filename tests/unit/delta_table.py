"""A Delta table of one version, whose files a test says."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pyarrow as pa
from deltalake.schema import Schema

from sinks.delta.log import commit_info
from sinks.delta.protocol import protocol_for


def write_table(folder: Path, columns: pa.Schema, adds: Iterable[Any]) -> None:
    """Version 0, with these files, which may have deletion vectors."""
    metadata = {
        "id": str(uuid4()),
        "format": {"provider": "parquet", "options": {}},
        "schemaString": Schema.from_arrow(columns).to_json(),
        "partitionColumns": [],
        "createdTime": 0,
        "configuration": {"delta.enableDeletionVectors": "true"},
    }
    actions = [commit_info("WRITE"), {"protocol": protocol_for(columns)}, {"metaData": metadata}, *adds]
    (folder / "_delta_log").mkdir()
    lines = [orjson.dumps(action) for action in actions]  # as the log has them: characters beyond ASCII as they are
    (folder / "_delta_log" / f"{0:020d}.json").write_bytes(b"\n".join(lines))
