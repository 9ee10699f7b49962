"""What the environment says is read in one place, and wrong names in it are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.environment import load_settings
from config.errors import ConfigurationError

PIPELINE = """\
pipeline_id: demo
topic_prefix: cdc
source: {database: db, tables: [public.a]}
sinks:
  - {sink_id: lake, sink_type: iceberg, iceberg: {catalog_uri: "sqlite:///x", warehouse: /w}}
  - {sink_id: archive, sink_type: delta, delta: {table_uri: "/d/{table}"}}
  - {sink_id: off, sink_type: delta, enabled: false, delta: {table_uri: "/e/{table}"}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pipeline.yaml").write_text(PIPELINE)
    return tmp_path


def test_defaults_are_the_files_of_the_working_directory(folder: Path) -> None:
    settings = load_settings(environ={})
    assert settings.app_id == "cdc-platform-demo"
    assert settings.sinks == ()
    assert settings.data_dir == Path(".data")
    (folder / "platform.yaml").write_text("kafka: {group_id: mine}\n")
    assert load_settings(environ={}).app_id == "mine-demo"


def test_environment_names_files_sinks_and_folder(folder: Path) -> None:
    (folder / "other.yaml").write_text(PIPELINE.replace("demo", "other"))
    (folder / "p.yaml").write_text("kafka: {group_id: g}\n")
    environ = {
        "CDC_PIPELINE": "other.yaml",
        "CDC_PLATFORM": "p.yaml",
        "CDC_SINKS": " lake, archive,",
        "CDC_DATA_DIR": "/var/x",
    }
    settings = load_settings(environ=environ)
    assert settings.app_id == "g-other-archive-lake"
    assert settings.sinks == ("archive", "lake")
    assert settings.data_dir == Path("/var/x")


def test_arguments_win_over_the_environment(folder: Path) -> None:
    settings = load_settings("pipeline.yaml", environ={"CDC_PIPELINE": "absent.yaml"})
    assert settings.pipeline.pipeline_id == "demo"


@pytest.mark.parametrize("sink", ["lakes", "off"])
def test_unknown_or_disabled_sink_is_refused(folder: Path, sink: str) -> None:
    with pytest.raises(ConfigurationError, match=f"CDC_SINKS names '{sink}'.* its sinks: lake, archive"):
        load_settings(environ={"CDC_SINKS": sink})


def test_missing_files_are_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=r"set CDC_PIPELINE to its file, or put pipeline\.yaml into"):
        load_settings(environ={})
    (tmp_path / "pipeline.yaml").write_text(PIPELINE)
    with pytest.raises(ConfigurationError, match=r"absent\.yaml: there is no such file"):
        load_settings(environ={"CDC_PLATFORM": "absent.yaml"})
