"""The loader reports everything at once, at the right line, and never a secret."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.errors import ConfigurationError
from config.loader import load_pipeline, load_platform
from config.masking import MASK, mask_text, masked
from config.mistakes import InvalidFile
from config.model import Location
from config.pipeline import IcebergConfig
from config.substitution import substitute
from config.yaml_document import parse_yaml

GOOD = """\
pipeline_id: demo
topic_prefix: cdc
source:
  database: db
  password: ${PW:-hunter2}
  tables: [public.a]
sinks:
  - sink_id: lake
    sink_type: iceberg
    iceberg:
      catalog_uri: postgresql://me:hunter2@host/db
      warehouse: s3://w
      s3_secret_access_key: hunter2
      catalog_properties: {token: hunter2, header.X: plain}
"""


def write(folder: Path, text: str, name: str = "pipeline.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def mistakes(folder: Path, text: str, **environ: str) -> dict[str, tuple[int | None, str]]:
    with pytest.raises(InvalidFile) as caught:
        load_pipeline(write(folder, text), environ)
    assert "hunter2" not in str(caught.value)
    return {mistake.path: (mistake.line, mistake.message) for mistake in caught.value.mistakes}


def test_all_mistakes_of_a_file_come_at_once_with_path_and_line(tmp_path: Path) -> None:
    text = """\
pipeline_id: de.mo
kafka: {group_id: x}
source:
  database: db
  port: abc
  slot_name: ${NOPE}
  pasword: hunter2
  tables: [public.a, nope]
sinks:
  - sink_id: one
    sink_type: iceberg
    batch_size: 4
    iceberg:
      catalog_uri: sqlite:///x
      warehouse: /w
      write_mode: upsrt
      batch_size: 1
      batch_size: 2
  - sink_id: one
    sink_type: deltaa
  - sink_id: three
    sink_type: iceberg
  - {sink_id: four, sink_type: delta, delta: {table_uri: /four}}
  - {sink_id: five, sink_type: delta, delta: {table_uri: /four}}
"""
    found = mistakes(tmp_path, text)
    assert {path: line for path, (line, _) in found.items()} == {
        "pipeline_id": 1,
        "topic_prefix": 1,
        "kafka": 2,
        "source.port": 5,
        "source.slot_name": 6,
        "source.pasword": 7,
        "source.tables[1]": 8,
        "sinks[0].batch_size": 12,
        "sinks[0].iceberg.write_mode": 16,
        "sinks[0].iceberg.batch_size": 17,
        "sinks[1].sink_id": 19,
        "sinks[1].sink_type": 20,
        "sinks[2].iceberg": 21,
    }
    assert found["kafka"][1] == "belongs to platform.yaml"
    assert found["source.port"][1] == "found 'abc'; a whole number is expected"
    assert found["source.slot_name"][1].startswith("the environment variable NOPE is not set")
    assert found["source.pasword"][1] == "is unknown; did you mean password?"
    assert found["sinks[0].iceberg.write_mode"][1] == "found 'upsrt'; allowed: 'append' or 'upsert'"
    assert "line 17 and line 18" in found["sinks[0].iceberg.batch_size"][1]


def test_rules_between_parts_are_checked_although_another_key_is_wrong(tmp_path: Path) -> None:
    text = GOOD.replace("database: db", "database: db\n  port: x").replace("[public.a]", "[public.a, public.b]")
    text += "  - {sink_id: log, sink_type: delta, delta: {table_uri: /all, write_mode: upsert}}\n"
    text += "  - {sink_id: log2, sink_type: delta, tables: [zz.*], delta: {table_uri: /x}}\n"
    found = mistakes(tmp_path, text)
    assert set(found) == {"source.port", "sinks[1].delta.table_uri", "sinks[2].tables[0]"}


def test_mistake_in_one_line_reads_as_one_line(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD.replace("sink_type: iceberg", "sink_type: icberg"))
    with pytest.raises(InvalidFile) as caught:
        load_pipeline(path)
    assert str(caught.value).startswith(f"{path}:9: sinks[0].sink_type: found 'icberg'; allowed: 'webhook', ")
    assert "\n" not in str(caught.value)


def test_key_of_the_pipeline_in_the_platform_file_names_the_pipeline_file(tmp_path: Path) -> None:
    path = write(tmp_path, "transport_mode: kafka\nsinks: []\nkafka: {group: x}\n", "platform.yaml")
    with pytest.raises(InvalidFile) as caught:
        load_platform(path)
    assert [(m.line, m.path, m.message) for m in caught.value.mistakes] == [
        (2, "sinks", "belongs to pipeline.yaml"),
        (3, "kafka.group", "is unknown; did you mean group_id?"),
    ]


def test_misplaced_key_is_told_its_section(tmp_path: Path) -> None:
    assert mistakes(tmp_path, GOOD + "tables: [x.y]\n")["tables"][1] == (
        "is unknown here; it belongs into source or sinks[]"
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        ("# only a comment\n", "is empty"),
        ("- a\n- b\n", "holds a list"),
        ("just words\n", "holds a single value"),
        ("a: [1\nb: 2\n", "is not sound YAML"),
        ("a: 1\n b: 2\n", "is not sound YAML"),
        ("a: *hunter2\n", "a value that begins with * goes in quotes"),
        ("a: !hunter2 x\n", "a value that begins with ! goes in quotes"),
        ("a: !!int hunter2\n", "doesn't fit its tag"),
        ("a: &x [*x]\n", "holds itself"),
        ("? [a, b]\n: 1\n", "a key that is not a word"),
        ("a: 1\n---\nb: 2\n", "is not sound YAML"),
        ("a: \x07\n", "U+0007"),
    ],
)
def test_file_that_is_no_mapping_gets_one_readable_line(tmp_path: Path, text: str, reason: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigurationError) as caught:
        load_pipeline(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert reason in message
    assert "\n" not in message
    assert "hunter2" not in message


def test_file_that_can_not_be_read_gets_one_readable_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no such file"):
        load_pipeline(tmp_path / "absent.yaml")
    with pytest.raises(ConfigurationError, match="can't be read"):
        load_pipeline(tmp_path)
    (tmp_path / "binary").write_bytes(b"a: \xff\xfe")
    with pytest.raises(ConfigurationError, match="is not UTF-8"):
        load_pipeline(tmp_path / "binary")


def test_platform_file_is_optional_and_may_be_empty(tmp_path: Path) -> None:
    default = load_platform(None)
    assert load_platform(write(tmp_path, "# nothing\n", "p.yaml")) == default
    assert load_platform(write(tmp_path, "kafka:\n  # nothing\nretry:\n", "p.yaml")) == default


def test_variables_fill_texts_numbers_and_switches(tmp_path: Path) -> None:
    text = GOOD.replace("database: db", "database: ${DB}-${ENV:-dev}\n  port: ${PORT}").replace(
        "sink_type: iceberg", "sink_type: iceberg\n    enabled: ${ON:-false}"
    )
    config = load_pipeline(write(tmp_path, text), {"DB": "shop", "PORT": "5444", "PW": "from-env"})
    assert (config.source.database, config.source.port, config.sinks[0].enabled) == ("shop-dev", 5444, False)
    assert config.source.password.get_secret_value() == "from-env"


def test_wrong_value_of_a_variable_names_it_but_not_a_secret(tmp_path: Path) -> None:
    text = GOOD.replace("database: db", "database: db\n  port: ${PORT}")
    assert (
        mistakes(tmp_path, text, PORT="x")["source.port"][1] == "found 'x' (from ${PORT}); a whole number is expected"
    )
    text = text.replace("${PORT}", "${DB_PASSWORD}")
    assert "DB_PASSWORD" in mistakes(tmp_path, text, DB_PASSWORD="hunter2")["source.port"][1]


@pytest.mark.parametrize("text", ["${}", "${A B}", "${A", "${A:-${B}}", "${A-x}", "${1A}"])
def test_reference_that_can_not_be_read_is_an_error(text: str) -> None:
    result = substitute({"x": [text]}, {"A": "1", "B": "2"})
    assert [place for place, _ in result.problems] == [("x", 0)]


@given(st.text(st.characters(exclude_characters="$")), st.text())
def test_substitution_leaves_other_text_alone_and_takes_values_as_they_are(text: str, value: str) -> None:
    result = substitute({"plain": text, "escaped": "$${A}", "var": f"{text}${{A}}"}, {"A": value})
    assert result.data == {"plain": text, "escaped": "${A}", "var": text + value}
    assert result.problems == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("s3_secret_access_key: hunter2", "s3_secret_access_key: [hunter2]"),
        ("token: hunter2", "token: [hunter2]"),
        ("postgresql://me:hunter2@host/db", "postgres://me:hunter2@host/db"),
        ("postgresql://me:hunter2@host/db", "me:hunter2@host"),
        ("s3_secret_access_key: hunter2", "s3_secret_access_keys: hunter2"),
        ("${PW:-hunter2}", "{a: hunter2}"),
        ("${PW:-hunter2}", "12hunter2\n  password: hunter2"),
        ("${PW:-hunter2}", "*hunter2"),
    ],
)
def test_secrets_stay_out_of_errors(tmp_path: Path, old: str, new: str) -> None:
    assert mistakes(tmp_path, GOOD.replace(old, new))


def test_secrets_stay_out_of_what_is_shown_and_of_reprs(tmp_path: Path) -> None:
    text = GOOD + (
        "  - sink_id: hook\n    sink_type: webhook\n    webhook:\n      url: https://u:hunter2@h/p?api_key=hunter2&a=b\n"
        "      headers: {Authorization: hunter2, X-Api-Key: hunter2, Accept: plain}\n      auth_token: hunter2\n"
        "  - sink_id: d\n    sink_type: delta\n    delta:\n      table_uri: s3://x/{table}\n"
        "      storage_options: {AWS_SECRET_ACCESS_KEY: hunter2, account_key: hunter2, AWS_REGION: plain}\n"
    )
    config = load_pipeline(write(tmp_path, text), {})
    shown = str(masked(config))
    assert "hunter2" not in shown
    assert "hunter2" not in repr(config)
    assert shown.count("plain") == 3
    settings = config.sinks[0].settings
    assert isinstance(settings, IcebergConfig)
    assert settings.catalog_properties["token"] == "hunter2"
    platform = load_platform(
        write(
            tmp_path,
            "kafka: {sasl_plain_password: hunter2, ssl_password: hunter2, schema_registry_password: hunter2,"
            " schema_registry_url: 'http://u:hunter2@r'}\nconnector: {extra_config: {database.password: hunter2}}\n",
            "platform.yaml",
        )
    )
    assert "hunter2" not in str(masked(platform))


@given(st.text(min_size=1).filter(lambda text: text.strip("*") and "/" not in text))
def test_user_part_of_an_address_is_masked_whatever_it_holds(password: str) -> None:
    assert mask_text(f"postgresql://user:{password}@host/db") == f"postgresql://{MASK}@host/db"


def test_yaml_words_are_not_taken_for_booleans_or_octal_numbers() -> None:
    document = parse_yaml("a: no\nb: on\nc: 0123\nd: 1_000\ne: 12:30:45\nf: 2026-01-01\ng: true\nh: 1.5\ni: 7\nj: ~\n")
    assert document.data == {
        "a": "no",
        "b": "on",
        "c": "0123",
        "d": "1_000",
        "e": "12:30:45",
        "f": "2026-01-01",
        "g": True,
        "h": 1.5,
        "i": 7,
        "j": None,
    }


def test_merge_keys_and_anchors_work_and_explicit_keys_win() -> None:
    document = parse_yaml("base: &b {x: 1, y: 2}\nuse:\n  <<: *b\n  y: 3\n")
    assert document.data["use"] == {"y": 3, "x": 1}
    assert document.problems == []


trees = st.recursive(
    st.integers() | st.booleans() | st.none() | st.text(st.characters(codec="utf-8", categories=["L", "N", "P"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), inner),
    max_leaves=12,
)


@given(st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), trees))
def test_parser_agrees_with_json_and_knows_the_line_of_every_key(tree: dict[str, object]) -> None:
    text = json.dumps(tree, indent=1, ensure_ascii=False)
    document = parse_yaml(text)
    assert document.data == tree
    assert document.problems == []
    lines = text.splitlines()
    for location in _locations(tree, ()):
        line = document.lines[location]
        if isinstance(location[-1], str):
            assert f'"{location[-1]}":' in lines[line - 1]


def _locations(data: object, above: Location) -> list[Location]:
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    found: list[Location] = []
    for key, value in items:
        found.append((*above, key))
        found.extend(_locations(value, (*above, key)))
    return found


@given(st.data(), trees)
def test_any_damage_to_a_file_is_a_configuration_error_never_a_crash(data: st.DataObject, junk: object) -> None:
    tree: Any = parse_yaml(GOOD).data
    location = data.draw(st.sampled_from(_locations(tree, ())))
    parent = tree
    for part in location[:-1]:
        parent = parent[part]
    if data.draw(st.booleans()):
        parent[location[-1]] = junk
    else:
        del parent[location[-1]]
    if isinstance(parent, dict):
        parent[data.draw(st.sampled_from(["kafka", "retry", "tables", "batch_size", "zz", "sink_id"]))] = junk
    with TemporaryDirectory() as folder:
        path = write(Path(folder), json.dumps(tree))
        try:
            load_pipeline(path, {})
        except ConfigurationError as error:
            assert str(path) in str(error)
