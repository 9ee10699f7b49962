"""docs/types.md is what the code says, and nothing in it is left open."""

from __future__ import annotations

import pytest

from app.types_page import PAGE, page
from config.errors import UnsupportedChange
from config.pipeline import PipelineConfig
from sinks.delta.schema import stored
from sinks.iceberg.schema import iceberg_type
from sources.debezium.column_checks import captured_columns, column_problems
from sources.debezium.source_database import not_logged
from sources.debezium.source_types import SourceColumn, SqlType
from sources.debezium.type_matrix import MARIADB_TYPES, OPTIONS, POSTGRES_TYPES, modes_with, semantic_types, ways
from sources.debezium.types import lake_type

TYPES = [("postgres", text) for text in POSTGRES_TYPES] + [("mariadb", text) for text in MARIADB_TYPES]


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m app.types_page`"


@pytest.mark.parametrize(("source_type", "text"), TYPES)
def test_every_column_type_is_lossless_or_refused_with_a_way_out(source_type: str, text: str) -> None:
    for way in ways(source_type, text):
        if way.wire.loss:
            assert any(word in way.wire.loss for word in ("; set ", "; keep ", "exclude.list")), way.wire.loss
            continue
        assert way.wire.type is not None
        try:
            arrow = lake_type(way.wire.type, "column").arrow
        except UnsupportedChange as error:
            assert "; " in str(error)
            continue
        assert iceberg_type(arrow)
        assert stored(arrow)


def test_every_type_that_debezium_sends_has_an_iceberg_and_a_delta_type() -> None:
    for type_ in semantic_types():
        arrow = lake_type(type_, "column").arrow
        assert iceberg_type(arrow)
        assert stored(arrow)


def test_under_lakewards_own_settings_a_plain_table_loses_nothing() -> None:
    lossy = {
        text for source_type, text in TYPES for way in ways(source_type, text) if way.wire.loss and
        (way.option is None or OPTIONS[way.option][0] in way.values)
    }  # fmt: skip
    assert {"time with time zone", "timetz[]", "bit varying(9)"} <= lossy
    assert not lossy & {"numeric(10,2)", "timestamp", "interval", "bytea", "bigint unsigned", "datetime(6)", "json"}


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("timestamp(3) without time zone", SqlType("timestamp", ("3",), "without time zone")),
        ("numeric(10,2)[]", SqlType("numeric", ("10", "2"), "", 1)),
        ("numeric(10, 2) []", SqlType("numeric", ("10", "2"), "", 1)),
        ("INT(10) UNSIGNED ZEROFILL", SqlType("int", ("10",), "unsigned zerofill")),
        ("enum('a(1)','b')", SqlType("enum", ("'a(1)'", "'b'"))),
        ("public.hstore", SqlType("hstore")),
        ("double  precision", SqlType("double precision")),
    ],
)
def test_types_are_read_as_databases_write_them(text: str, parsed: SqlType) -> None:
    assert SqlType.parse(text) == parsed


def pipeline(columns: object = None) -> PipelineConfig:
    return PipelineConfig.model_validate(
        {
            "pipeline_id": "p",
            "topic_prefix": "t",
            "source": {"database": "d", "tables": ["s.t"], "columns": {"s.t": columns or {}}},
            "sinks": [{"sink_id": "a", "sink_type": "delta", "delta": {"table_uri": "/x"}}],
        }
    )


def problems(*columns: SourceColumn, rules: object = None, **modes: str) -> list[str]:
    return column_problems(pipeline(rules), {"s.t": columns}, modes_with("postgres", **modes))


def test_deploy_refuses_what_debezium_changes_unless_it_is_accepted() -> None:
    zoned, plain = SourceColumn("z", "time with time zone"), SourceColumn("n", "numeric(10,2)")
    (found,) = problems(zoned, plain)
    assert found.startswith("s.t: column z (time with time zone): ")
    assert found.endswith("source.columns.s.t.z.accept_loss: true")
    assert not problems(zoned, plain, rules={"z": {"accept_loss": True}})
    (found,) = problems(plain, decimal_handling_mode="double")
    assert "set decimal.handling.mode to precise or string" in found
    assert not problems(plain, decimal_handling_mode="string")
    (found,) = problems(SourceColumn("m", "money[]"))
    assert "leaves arrays of money out" in found


def test_generated_columns_are_told_for_the_connector_to_leave_them_out() -> None:
    columns = {"s.t": (SourceColumn("id", "integer"), SourceColumn("g", "integer", generated=True))}
    assert not_logged(columns) == [("s.t", "g")]


def test_deploy_refuses_what_no_lake_table_holds_unless_it_becomes_text() -> None:
    wide = SourceColumn("w", "numeric(50,2)")
    (found,) = problems(wide)
    assert "decimal(50, 2) doesn't fit" in found
    assert not problems(wide, rules={"w": {"misfit": "text"}})
    (found,) = problems(SourceColumn("i", "integer"), rules={"i": {"misfit": "text"}})
    assert "isn't written as text" in found
    (found,) = problems(SourceColumn("i", "integer"), rules={"j": {"misfit": "error"}})
    assert "names j, which it doesn't have" in found


def test_columns_that_the_connector_leaves_out_are_not_looked_at() -> None:
    columns = {"s.t": (SourceColumn("a", "money[]"), SourceColumn("b", "integer"))}
    assert captured_columns(columns, {"column.exclude.list": r"s\.t\.A"}) == {"s.t": columns["s.t"][1:]}
    assert captured_columns(columns, {"column.include.list": r"x, s\.t\.b"}) == {"s.t": columns["s.t"][1:]}
    assert captured_columns(columns, {}) == columns
