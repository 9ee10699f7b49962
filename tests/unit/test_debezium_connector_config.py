"""The connectors' configurations: Debezium's names, and the settings without which data would be lost silently."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from config.pipeline import PipelineConfig
from config.platform import PlatformConfig
from sources.debezium import DebeziumConnectorConfig, DebeziumMySqlConnectorConfig
from sources.debezium.connectors import connector_for, escape_table

SINK = {
    "sink_id": "lake",
    "sink_type": "iceberg",
    "iceberg": {"catalog_uri": "sqlite:///c.db", "warehouse": "file:///w"},
}


def pipeline(**source: Any) -> PipelineConfig:
    return PipelineConfig.model_validate(
        {
            "pipeline_id": "shop",
            "topic_prefix": "cdc",
            "source": {"database": "db", "tables": ["public.customers", "public.orders"], **source},
            "sinks": [SINK],
        }
    )


def platform(**connector: Any) -> PlatformConfig:
    return PlatformConfig.model_validate({"connector": connector})


def config(connector: dict[str, Any], **source: Any) -> dict[str, str]:
    payload = connector_for(pipeline(**source), platform(**connector)).to_connector_payload()
    assert payload["name"] == "shop"
    settings: dict[str, str] = payload["config"]
    assert all(isinstance(value, str) for value in settings.values())
    return settings


def test_defaults_are_debeziums_fields() -> None:
    connector = DebeziumConnectorConfig(name="c", topic_prefix="p", database_dbname="db")
    settings = connector.to_connector_payload()["config"]
    assert settings["plugin.name"] == "pgoutput"
    assert settings["snapshot.mode"] == "initial"
    assert settings["heartbeat.interval.ms"] == "10000"
    assert settings["decimal.handling.mode"] == "precise"
    assert settings["time.precision.mode"] == "adaptive_time_microseconds"
    assert settings["tasks.max"] == "1"
    assert "table.include.list" not in settings  # unset: all tables


def test_the_pipeline_names_connector_topics_slot_and_publication() -> None:
    settings = config({}, slot_name="s1", publication_name="p1", host="pg", port=6000)
    assert settings["topic.prefix"] == "cdc"
    assert (settings["slot.name"], settings["publication.name"]) == ("s1", "p1")
    assert (settings["database.hostname"], settings["database.port"]) == ("pg", "6000")
    assert settings["table.include.list"] == r"public\.customers,public\.orders"


def test_keys_of_tables_without_one_are_debeziums_to_make() -> None:
    settings = config({}, key_columns={"public.orders": ["day", "number"], "public.customers": ["name"]})
    assert settings["message.key.columns"] == r"public\.orders:day,number;public\.customers:name"
    assert "message.key.columns" not in config({})


def test_values_that_are_not_sent_are_named_as_the_decoder_knows_them() -> None:
    assert config({})["unavailable.value.placeholder"] == "__debezium_unavailable_value"
    settings = config({}, unavailable_value_placeholder="not sent: 7d1f0a")
    assert settings["unavailable.value.placeholder"] == "not sent: 7d1f0a"


def test_columns_that_the_log_lacks_are_left_out_beside_those_that_users_leave_out() -> None:
    asked = platform(extra_config={"column.exclude.list": "public.orders.secret"})
    left_out = [("public.orders", "total"), ("public.customers", "age")]
    settings = connector_for(pipeline(), asked, left_out).to_connector_config()
    assert settings["column.exclude.list"] == r"public\.orders\.total,public\.customers\.age,public.orders.secret"
    assert "column.exclude.list" not in config({})


def test_nothing_that_happens_at_the_source_is_passed_over() -> None:
    settings = config({})
    assert settings["skipped.operations"] == "none"  # truncates
    assert settings["tombstones.on.delete"] == "true"
    assert settings["include.unknown.datatypes"] == "true"
    assert settings["interval.handling.mode"] == "string"
    assert settings["field.name.adjustment.mode"] == "none"
    assert settings["publication.autocreate.mode"] == "filtered"


@pytest.mark.parametrize("kind", ["postgres", "mariadb"])
def test_the_signalling_table_is_named_to_the_connector_and_its_database_is_read(kind: str) -> None:
    settings = config({}, source_type=kind, signal_table="ops.signals")
    assert settings["signal.data.collection"] == "ops.signals"
    assert "signals" not in settings["table.include.list"]
    if kind == "mariadb":
        assert settings["database.include.list"] == "ops,public"
    assert "signal.data.collection" not in config({}, source_type=kind)


def test_the_signalling_table_is_not_one_of_those_that_are_captured() -> None:
    with pytest.raises(ValidationError, match="needs a table of its own"):
        pipeline(signal_table="public.orders")


def test_rows_are_not_read_again_without_a_signalling_table() -> None:
    with pytest.raises(ValidationError, match=r"create one at the source .* name it as source.signal_table"):
        pipeline(unknown_values="read_again")
    assert pipeline(unknown_values="read_again", signal_table="public.signals").source.unknown_values == "read_again"


def test_a_large_unsigned_number_of_mysql_stays_positive() -> None:
    settings = config({}, source_type="mariadb", tables=["shop.orders"])
    assert settings["bigint.unsigned.handling.mode"] == "precise"


@pytest.mark.parametrize("kind", ["mysql", "mariadb"])
def test_mysql_and_mariadb_have_connectors_and_a_schema_history_of_their_own(kind: str) -> None:
    settings = config({}, source_type=kind, tables=["shop.orders", "stock.items"], server_id=77)
    assert f".{kind}." in settings["connector.class"]
    assert settings["database.port"] == "3306"
    assert settings["database.server.id"] == "77"
    assert settings["database.include.list"] == "shop,stock"
    assert settings["schema.history.internal.kafka.topic"] == "schema-history.shop"
    assert settings["schema.history.internal.kafka.bootstrap.servers"] == "localhost:9092"
    assert "slot.name" not in settings


def test_each_converter_is_set_for_keys_and_values() -> None:
    confluent = config({"registry_url": "http://registry:8081"})
    apicurio = config({"converter": "avro-apicurio", "registry_url": "http://r/apis/registry/v2"})
    for side in ("key", "value"):
        assert confluent[f"{side}.converter"] == "io.confluent.connect.avro.AvroConverter"
        assert confluent[f"{side}.converter.schema.registry.url"] == "http://registry:8081"
        assert apicurio[f"{side}.converter"] == "io.apicurio.registry.utils.converter.AvroConverter"
        assert apicurio[f"{side}.converter.apicurio.registry.url"] == "http://r/apis/registry/v2"
        assert apicurio[f"{side}.converter.apicurio.registry.as-confluent"] == "true"
        assert apicurio[f"{side}.converter.apicurio.registry.use-id"] == "contentId"
        for name, schemas in (("json-schema", "true"), ("json", "false")):
            plain = config({"converter": name})
            assert plain[f"{side}.converter"] == "org.apache.kafka.connect.json.JsonConverter"
            assert plain[f"{side}.converter.schemas.enable"] == schemas


def test_the_registry_that_connect_uses_is_the_workers_unless_said_otherwise() -> None:
    assert config({})["value.converter.schema.registry.url"] == "http://localhost:8081"


def test_the_registrys_login_reaches_the_converter() -> None:
    login = {"schema_registry_username": "u", "schema_registry_password": "p"}
    confluent = PlatformConfig.model_validate({"kafka": login})
    settings = connector_for(pipeline(), confluent).to_connector_config()
    assert settings["value.converter.basic.auth.user.info"] == "u:p"
    assert settings["value.converter.basic.auth.credentials.source"] == "USER_INFO"


def test_extra_config_wins_over_everything() -> None:
    settings = config({"extra_config": {"poll.interval.ms": 500, "max.batch.size": 4096}})
    assert settings["poll.interval.ms"] == "500"
    assert settings["max.batch.size"] == "4096"


def test_never_is_sent_as_debezium_3_knows_it() -> None:
    assert config({}, snapshot_mode="never")["snapshot.mode"] == "no_data"


def test_a_misspelt_mode_is_refused_here_not_in_connect() -> None:
    with pytest.raises(ValidationError, match="plugin_name"):
        DebeziumConnectorConfig(name="c", topic_prefix="p", database_dbname="db", plugin_name="pgoutputt")  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="Extra inputs"):
        DebeziumMySqlConnectorConfig(
            name="c",
            topic_prefix="p",
            database_server_id=1,
            schema_history_bootstrap_servers="k",
            schema_history_topic="h",
            slot_name="s",  # type: ignore[call-arg]
        )


def test_the_password_is_in_the_payload_but_not_in_the_models_text() -> None:
    connector = connector_for(pipeline(password="geheim"), platform())
    assert connector.to_connector_config()["database.password"] == "geheim"
    assert "geheim" not in repr(connector)


@given(st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters=","), min_size=1))
def test_a_tables_name_matches_itself_and_no_other(name: str) -> None:
    pattern = re.compile(escape_table(name))
    assert pattern.fullmatch(name)
    assert not pattern.fullmatch(name + "x")
    assert not pattern.fullmatch("publicXorders") or name == "publicXorders"
