"""Who owns a file of a lake table: a Kafka partition, which the file's name tells.

So the files of different workers are different ones, and each knows which files it may tidy, and which another engine
wrote.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from uuid import uuid4

from sources.changes import TopicPartition

Owner = tuple[str, int]
"""(hash of the topic, Kafka partition)."""

_OWNED = re.compile(r"(?:^|/)lw-(?:deletes-)?(?P<topic>[0-9a-f]{16})-(?P<partition>\d+)-[0-9a-f]+\.parquet$")


def topic_hash(topic: str) -> str:
    """How a topic appears in file names."""
    return blake2b(topic.encode(), digest_size=8).hexdigest()


def owner_id(tp: TopicPartition) -> Owner:
    """How file names tell a Kafka partition."""
    return topic_hash(tp.topic), tp.partition


def owner_of(path: str) -> Owner | None:
    """The `owner_id` of a data or delete file that a sink wrote, None for a foreign one."""
    match = _OWNED.search(path)
    return None if match is None else (match["topic"], int(match["partition"]))


def file_name(kind: str, tp: TopicPartition) -> str:
    """A new name for a file that `tp` owns; `kind` is `lw` for data, `lw-deletes` for position deletes."""
    return f"{kind}-{topic_hash(tp.topic)}-{tp.partition}-{uuid4().hex}.parquet"
