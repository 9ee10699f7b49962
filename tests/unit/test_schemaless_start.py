"""JSON without schema needs its types when the worker starts: declared ones, or those of a catalogue that answers."""

from __future__ import annotations

from typing import Any

import pytest

from config.errors import ConfigurationError
from config.pipeline import PipelineConfig
from config.platform import PlatformConfig
from sources.debezium.connect_types import ConnectType
from sources.debezium.decoding import learn_types, new_decoder
from stack.ports import free_port

TOPIC = "t.s.users"


def pipeline(**columns: Any) -> PipelineConfig:
    """Over a database that nobody serves."""
    source = {"database": "d", "tables": ["s.users"], "host": "127.0.0.1", "port": free_port()}
    return PipelineConfig.model_validate(
        {
            "pipeline_id": "p",
            "topic_prefix": "t",
            "source": {**source, "columns": {"s.users": columns} if columns else {}},
            "sinks": [{"sink_id": "a", "sink_type": "delta", "delta": {"table_uri": "/x"}}],
        }
    )


def platform(converter: str, **extra: str) -> PlatformConfig:
    return PlatformConfig.model_validate({"connector": {"converter": converter, "extra_config": extra}})


async def test_a_catalogue_that_does_not_answer_is_refused_with_the_way_out() -> None:
    config = pipeline()
    with pytest.raises(ConfigurationError, match=r"doesn't answer.*Declare the columns of s.users \(source.columns\)"):
        await learn_types(new_decoder(config, platform("json")), config, platform("json"))


async def test_declared_columns_need_no_catalogue_and_follow_the_connectors_modes() -> None:
    config = pipeline(id={"type": "bigint"}, n={"type": "numeric(10,2)"})
    for converter in ("json", "avro-confluent"):  # a topic may have had another converter before
        files = platform(converter, **{"decimal.handling.mode": "string"})
        decoder = new_decoder(config, files)
        await learn_types(decoder, config, files)
        assert decoder.schemaless is not None
        value = decoder.schemaless.value(TOPIC)
        assert value is not None
        row = value.child("after")
        assert row is not None
        assert row.child("n") == ConnectType("string", optional=True)
        assert decoder.schemaless.value("t.s.other") is None


async def test_records_with_schema_need_neither() -> None:
    config = pipeline(id={"misfit": "error"})
    decoder = new_decoder(config, platform("avro-confluent"))
    await learn_types(decoder, config, platform("avro-confluent"))
    assert decoder.schemaless is None
