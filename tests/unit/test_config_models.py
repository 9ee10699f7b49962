"""The models keep the promised names and defaults, and refuse what could not run right."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from config.errors import ConfigurationError
from config.evolution import SchemaEvolution
from config.partitioning import PartitionField, parse_partition_field
from config.pipeline import BUILT_SINKS, DeltaConfig, IcebergConfig, PipelineConfig, SinkConfig, check_supported
from config.platform import PlatformConfig, RetryConfig
from sinks.factory import plan_tables


def iceberg(sink_id: str = "lake", *, tables: tuple[str, ...] = (), **section: Any) -> dict[str, Any]:
    section = {"catalog_uri": "sqlite:////tmp/c.db", "warehouse": "file:///tmp/w", **section}
    return {"sink_id": sink_id, "sink_type": "iceberg", "tables": tables, "iceberg": section}


def delta(sink_id: str = "log", **section: Any) -> dict[str, Any]:
    section = {"table_uri": "file:///tmp/d/{schema}/{table}", **section}
    return {"sink_id": sink_id, "sink_type": "delta", "delta": section}


def pipeline(*sinks: dict[str, Any], **source: Any) -> PipelineConfig:
    source = {"database": "db", "tables": ["public.a", "public.b"], **source}
    return PipelineConfig.model_validate(
        {"pipeline_id": "demo", "topic_prefix": "cdc", "source": source, "sinks": list(sinks or [iceberg()])}
    )


def problems(*sinks: dict[str, Any], **source: Any) -> dict[str, str]:
    with pytest.raises(ValidationError) as caught:
        pipeline(*sinks, **source)
    return {".".join(map(str, error["loc"])): error["msg"] for error in caught.value.errors()}


def test_platform_defaults_are_the_promised_ones() -> None:
    platform = PlatformConfig().model_dump()
    promised: dict[str, Any] = {
        "transport_mode": "kafka",
        "max_buffered_messages": 1000,
        "schema_monitor_interval_seconds": 30.0,
        "lag_monitor_interval_seconds": 15.0,
        "stop_on_incompatible_schema": False,
        "health_port": 8080,
        "health_enabled": True,
        "dlq": {"enabled": True, "topic_suffix": "dlq", "max_retries": 3, "include_headers": True},
        "retry": {
            "max_attempts": 5,
            "initial_wait_seconds": 1.0,
            "max_wait_seconds": 60.0,
            "multiplier": 2.0,
            "jitter": True,
        },
    }
    assert {name: platform[name] for name in promised} == promised
    kafka = {
        "bootstrap_servers": "localhost:9092",
        "schema_registry_url": "http://localhost:8081",
        "group_id": "cdc-platform",
        "auto_offset_reset": "earliest",
        "enable_idempotence": True,
        "acks": "all",
        "topic_num_partitions": 1,
        "topic_replication_factor": 1,
    }
    assert {name: platform["kafka"][name] for name in kafka} == kafka
    assert platform["connector"] == {
        "connect_url": "http://localhost:8083",
        "timeout_seconds": 30.0,
        "retry_max_attempts": 5,
        "retry_wait_seconds": 2.0,
        "converter": "avro-confluent",
        "registry_url": None,
        "extra_config": {},
    }


def test_sink_defaults_are_the_promised_ones() -> None:
    config = pipeline(
        iceberg(),
        delta(),
        {"sink_id": "hook", "sink_type": "webhook", "webhook": {"url": "http://x/y"}},
        {"sink_id": "pg", "sink_type": "postgres", "postgres": {"database": "d", "target_table": "public.events"}},
    )
    lake, log, hook, pg = (sink.settings.model_dump() for sink in config.sinks)
    assert lake["maintenance"] == {
        "enabled": False,
        "expire_snapshots_interval_seconds": 3600,
        "expire_snapshots_older_than_seconds": 86400,
        "compaction_interval_seconds": 7200,
        "compaction_file_threshold": 10,
        "compaction_max_rows_per_batch": 500_000,
    }
    expected = {
        "catalog_name": "default",
        "table_namespace": "default",
        "table_name": "{schema}_{table}",
        "write_mode": "append",
        "batch_size": 1000,
        "flush_interval_seconds": 5.0,
        "auto_create_table": True,
        "partition_by": (),
        "s3_region": "us-east-1",
        "catalog_properties": {},
        "table_properties": {},
    }
    assert {name: lake[name] for name in expected} == expected
    assert (log["write_mode"], log["batch_size"], log["change_data_feed"]) == ("append", 1000, True)
    assert (hook["method"], hook["headers"], hook["timeout_seconds"], hook["auth_token"]) == ("POST", {}, 30, None)
    assert (pg["host"], pg["port"], pg["username"], pg["batch_size"], pg["upsert"]) == (
        "localhost",
        5432,
        "cdc_user",
        100,
        False,
    )
    assert pg["password"].get_secret_value() == "cdc_password"


def test_source_defaults_are_the_promised_ones() -> None:
    source = pipeline().source.model_dump()
    assert source.pop("password").get_secret_value() == "cdc_password"
    assert source == {
        "source_type": "postgres",
        "host": "localhost",
        "port": 5432,
        "database": "db",
        "username": "cdc_user",
        "tables": ("public.a", "public.b"),
        "slot_name": "cdc_slot",
        "publication_name": "cdc_publication",
        "key_columns": {},
        "unavailable_value_placeholder": "__debezium_unavailable_value",
        "signal_table": None,
        "unknown_values": "dead_letter",
        "snapshot_mode": "initial",
        "server_id": None,
        "columns": {},
    }


def test_columns_are_of_captured_tables_and_typed_all_or_none() -> None:
    good = {"public.a": {"id": {"type": "bigint"}, "d": {"type": "date", "misfit": "text"}}, "public.b": {"x": {}}}
    columns = pipeline(columns=good).source.columns
    assert columns["public.a"]["d"].misfit == "text"
    assert (columns["public.b"]["x"].misfit, columns["public.b"]["x"].accept_loss) == ("dead_letter", False)
    found = problems(columns={"public.c": {"id": {}}, "public.a": {"id": {"type": "bigint"}, "d": {"misfit": "error"}}})
    assert "none of source.tables" in found["source.columns.public.c"]
    assert "declare the types of all" in found["source.columns.public.a.d"]
    (wrong,) = problems(columns={"public.a": {"id": {"misfit": "clamp"}}}).items()
    assert wrong[0] == "source.columns.public.a.id.misfit"
    assert "'dead_letter', 'error', 'set_null' or 'text'" in wrong[1]


@pytest.mark.parametrize(("kind", "port"), [("postgres", 5432), ("mysql", 3306), ("mariadb", 3306)])
def test_port_follows_the_source_type_unless_given(kind: str, port: int) -> None:
    assert pipeline(source_type=kind).source.port == port
    assert pipeline(source_type=kind, port=99).source.port == 99


def test_mysql_server_id_is_another_name_of_server_id() -> None:
    assert pipeline(source_type="mysql", mysql_server_id=7).source.server_id == 7
    assert pipeline(source_type="mysql", server_id=8).server_id == 8
    derived = pipeline(source_type="mysql").server_id
    assert derived == pipeline(source_type="mysql").server_id
    assert 0 < derived < 2**32


def test_topics_are_those_that_debezium_names() -> None:
    config = pipeline(tables=["public.orders", "sales.größe"])
    assert config.topics == ("cdc.public.orders", "cdc.sales.gr__e")
    assert config.dlq_topic(config.topics[0], "dlq") == "cdc.public.orders.dlq"


def test_two_tables_with_one_topic_are_refused() -> None:
    assert "same topic" in problems(tables=["s.ä", "s.ö"])["source.tables.1"]


@pytest.mark.parametrize("tables", [[], ["orders"], ["a.b.c"], ["public.*"], ["public.a", "public.a"]])
def test_tables_that_leave_topics_unknown_are_refused(tables: list[str]) -> None:
    assert any(place.startswith("source.tables") for place in problems(tables=tables))


def test_sink_captures_by_name_and_glob() -> None:
    config = pipeline(iceberg(tables=("public.a", "sales.*")), tables=["public.a", "public.b", "sales.x"])
    assert [table for table in config.source.tables if config.sinks[0].captures(table)] == ["public.a", "sales.x"]


def test_pattern_that_matches_nothing_is_refused() -> None:
    assert "matches none" in problems(iceberg(tables=("publik.*",)))["sinks.0.tables.0"]


def test_target_names_resolve_their_templates() -> None:
    lake = IcebergConfig(catalog_uri="http://c", warehouse="w", table_namespace="n", table_name="{prefix}_{table}")
    assert lake.target_name("public", "orders", "cdc") == "n.cdc_orders"
    assert lake.warehouse == "w"
    log = DeltaConfig(table_uri="s3://b/{schema}/{table}/")
    assert log.target_name("public", "orders", "cdc") == "s3://b/public/orders"


def test_path_becomes_a_file_address(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lake = IcebergConfig(catalog_uri="sqlite:///c.db", warehouse=".data/w")
    assert lake.warehouse == f"file://{tmp_path}/.data/w"
    assert DeltaConfig(table_uri="d/{table}").table_uri == f"file://{tmp_path}/d/{{table}}"


@pytest.mark.parametrize(
    ("section", "place"),
    [
        ({"table_name": "{tabel}"}, "table_name"),
        ({"table_name": "{table"}, "table_name"),
        ({"table_name": "a.b"}, "table_name"),
        ({"warehouse": "ftp://x"}, "warehouse"),
        ({"warehouse": "file://relative"}, "warehouse"),
        ({"catalog_uri": "mysql://x"}, "catalog_uri"),
        ({"batch_size": 0}, "batch_size"),
        ({"flush_interval_seconds": 0}, "flush_interval_seconds"),
        ({"write_mode": "merge"}, "write_mode"),
        ({"partition_by": ["days(ts)"]}, "partition_by.0"),
        ({"partition_by": ["day(ts)", "day( ts )"]}, "partition_by"),
    ],
)
def test_wrong_iceberg_value_is_refused_at_its_place(section: dict[str, Any], place: str) -> None:
    assert list(problems(iceberg(**section))) == [f"sinks.0.iceberg.{place}"]


def test_delta_is_partitioned_by_columns_only() -> None:
    assert "columns" in problems(delta(partition_by=["day(ts)"]))["sinks.0.delta.partition_by.0"]
    settings = pipeline(delta(partition_by=["region"])).sinks[0].settings
    assert isinstance(settings, DeltaConfig)
    assert settings.partition_fields == (PartitionField("region"),)


def test_way_of_upserts_has_no_place_in_an_append_table() -> None:
    found = problems(delta(upserts="deletion_vectors"))
    assert "write_mode: upsert" in found["sinks.0.delta.upserts"]
    for upserts, has_vectors in (("deletion_vectors", True), ("merge", False)):
        settings = pipeline(delta(write_mode="upsert", upserts=upserts)).sinks[0].settings
        assert isinstance(settings, DeltaConfig)
        assert settings.has_vectors is has_vectors


@pytest.mark.parametrize("sink", [iceberg(table_name="all"), delta(table_uri="file:///tmp/all")])
def test_shared_table_is_allowed_in_append_and_refused_in_upsert(sink: dict[str, Any]) -> None:
    pipeline(sink)
    section = sink[sink["sink_type"]]
    upsert = {**sink, sink["sink_type"]: {**section, "write_mode": "upsert"}}
    (text,) = problems(upsert).values()
    assert "public.a and public.b would share" in text


def test_templates_that_collide_are_refused_in_upsert() -> None:
    sink = iceberg(write_mode="upsert", table_name="{table}")
    pipeline(sink)
    assert problems(sink, tables=["x.t", "y.t"]) != {}


def test_two_sinks_into_one_table_are_refused_unless_one_is_off() -> None:
    assert "sinks[0] writes" in problems(iceberg("one"), iceberg("two"))["sinks.1.iceberg.table_name"]
    pipeline(iceberg("one"), {**iceberg("two"), "enabled": False})
    pipeline(iceberg("one"), iceberg("two", table_namespace="other"))
    assert "sinks[0] writes" in problems(delta("one"), delta("two"))["sinks.1.delta.table_uri"]


def test_sink_ids_are_unique_and_safe_in_keys_and_folders() -> None:
    assert "unique" in problems(iceberg(), delta("lake"))["sinks.1.sink_id"]
    for sink_id in ("a.b", "a/b", "", "-a", "a b", "ä"):
        assert "sinks.0.sink_id" in problems(iceberg(sink_id))


def test_section_must_be_that_of_the_type() -> None:
    found = problems({"sink_id": "x", "sink_type": "iceberg", "delta": {"table_uri": "/x"}})
    assert "needs this section" in found["sinks.0.iceberg"]
    assert "no place" in found["sinks.0.delta"]


def test_what_is_not_built_yet_is_refused_by_name() -> None:
    check_supported(pipeline(iceberg(), delta()))
    hook = {"sink_id": "hook", "sink_type": "webhook", "webhook": {"url": "http://x/y"}}
    assert "webhook" not in BUILT_SINKS
    with pytest.raises(ConfigurationError, match=r"sinks\[1\] \(hook\): sink_type webhook isn't built yet"):
        check_supported(pipeline(iceberg(), hook))


def test_models_are_frozen() -> None:
    with pytest.raises(ValidationError):
        pipeline().source.port = 1


@pytest.mark.parametrize(
    ("platform", "place"),
    [
        ({"kafka": {"acks": 1}}, "kafka.acks"),
        ({"kafka": {"security_protocol": "SASL_SSL", "sasl_plain_username": "u"}}, "kafka.sasl_plain_password"),
        ({"retry": {"initial_wait_seconds": 9, "max_wait_seconds": 3}}, "retry.max_wait_seconds"),
        ({"connector": {"converter": "avro-apicurio"}}, "connector.registry_url"),
        ({"transport_mode": "pulsar"}, "transport_mode"),
        ({"health_port": 0}, "health_port"),
    ],
)
def test_platform_that_does_not_fit_together_is_refused(platform: dict[str, Any], place: str) -> None:
    with pytest.raises(ValidationError) as caught:
        PlatformConfig.model_validate(platform)
    assert [".".join(map(str, error["loc"])) for error in caught.value.errors()] == [place]


def test_properties_may_be_written_without_quotes() -> None:
    platform = PlatformConfig.model_validate({"connector": {"extra_config": {"a": True, "b": 4, "c": "x"}}})
    assert platform.connector.extra_config == {"a": "true", "b": "4", "c": "x"}


columns = st.from_regex(r"[A-Za-z_][A-Za-z0-9_ ]{0,8}[A-Za-z0-9_]", fullmatch=True)
fields = st.one_of(
    st.builds(PartitionField, columns),
    st.builds(PartitionField, columns, st.sampled_from(["year", "month", "day", "hour"])),
    st.builds(PartitionField, columns, st.sampled_from(["bucket", "truncate"]), st.integers(1, 10_000)),
)


@given(fields)
def test_partition_field_survives_being_written_and_read(field: PartitionField) -> None:
    assert parse_partition_field(str(field)) == field


@pytest.mark.parametrize(
    "text",
    ["", "day()", "day(a, b)", "bucket(id)", "bucket(id, 16)", "bucket(0, id)", "truncate(4)", "f(x)", "a, b", "a("],
)
def test_wrong_partition_field_says_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match=r"allowed|write"):
        parse_partition_field(text)


def test_settings_of_a_sink_are_its_own_section() -> None:
    sink = SinkConfig.model_validate(delta())
    assert sink.settings is sink.delta


def test_validation_errors_of_the_models_themselves_show_no_values() -> None:
    with pytest.raises(ValidationError) as caught:
        pipeline(password=["hunter2"], source_type="hunter2")
    assert "hunter2" not in str(caught.value)


def test_waits_between_attempts_grow_up_to_the_longest_and_stay_there() -> None:
    retry = RetryConfig(initial_wait_seconds=1, max_wait_seconds=60, multiplier=2, jitter=False)
    assert [retry.wait_after(attempt) for attempt in (1, 2, 3, 6, 7, 8)] == [1, 2, 4, 32, 60, 60]
    assert RetryConfig(multiplier=1000).wait_after(100_000) <= 60  # an outage of weeks


def test_schema_evolution_is_a_policy_per_kind_or_one_word_for_all() -> None:
    assert SchemaEvolution().sets_aside is False
    frozen = DeltaConfig.model_validate({"table_uri": "/x", "schema_evolution": "freeze"}).schema_evolution
    assert set(frozen.model_dump().values()) == {"freeze", "stop"}
    assert frozen.key == "stop"
    assert set(SchemaEvolution.model_validate("quarantine").model_dump().values()) == {"quarantine"}
    policies = {"type": "quarantine", "drop": "stop"}
    chosen = DeltaConfig.model_validate({"table_uri": "/x", "schema_evolution": policies}).schema_evolution
    assert (chosen.type, chosen.drop, chosen.add, chosen.sets_aside) == ("quarantine", "stop", "evolve", True)


@pytest.mark.parametrize("wrong", ["ignore", {"key": "evolve"}, {"remove": "stop"}, {"add": "ignore"}])
def test_schema_evolution_refuses_what_it_does_not_know(wrong: Any) -> None:
    with pytest.raises(ValidationError):
        DeltaConfig(table_uri="/x", schema_evolution=wrong)


def test_records_are_kept_for_the_dead_letters_where_sound_ones_may_be_refused() -> None:
    quarantine = delta("quarantine", schema_evolution={"type": "quarantine"}, table_uri="file:///tmp/q/{table}")
    sinks = [
        iceberg(partition_by=["region"]),
        delta("plain"),
        delta("partitioned", partition_by=["region"], table_uri="file:///tmp/p/{table}"),
        quarantine,
    ]
    found = {plan.target.sink_id: plan.sets_aside for plan in plan_tables(pipeline(*sinks))}
    assert found == {"lake": False, "plain": False, "partitioned": True, "quarantine": True}
