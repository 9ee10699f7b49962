"""Downloads: what is half done never looks done, and a changed version is fetched anew."""

from __future__ import annotations

import threading
from pathlib import Path
from xml.etree import ElementTree

import pytest

from stack import dist, poms, versions
from stack.dist import Component
from stack.errors import StackError


@pytest.fixture(autouse=True)
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty download folder."""
    monkeypatch.setattr(dist, "DIST", tmp_path)
    return tmp_path


def test_a_download_that_breaks_off_leaves_nothing_that_looks_done(downloads: Path) -> None:
    def breaks_off(folder: Path) -> None:
        (folder / "half.jar").write_bytes(b"PK")
        raise StackError("the network went away")

    component = Component("thing", "1", breaks_off)
    with pytest.raises(StackError, match="the network went away"):
        component.prepare()
    assert list(downloads.iterdir()) == []


def test_a_download_happens_once_per_stamp() -> None:
    built: list[Path] = []

    def build(folder: Path) -> None:
        built.append(folder)
        (folder / "whole.jar").write_bytes(b"PK")

    first = Component("thing", "version 1", build).prepare()
    again = Component("thing", "version 1", build).prepare()
    changed = Component("thing", "version 2", build).prepare()
    assert first == again != changed
    assert len(built) == 2
    assert (changed / "whole.jar").exists()
    assert (changed / "STAMP").read_text() == "version 2"


def test_two_downloads_of_the_same_thing_at_once_end_with_one_whole(downloads: Path) -> None:
    def overtaken(folder: Path) -> None:
        (folder / "whole.jar").write_bytes(b"PK")
        component.path.mkdir()
        (component.path / "whole.jar").write_bytes(b"PK")

    component = Component("thing", "1", overtaken)
    path = component.prepare()
    assert [p.name for p in downloads.iterdir()] == [path.name]
    assert (path / "whole.jar").exists()


def test_missing_components_are_downloaded_with_a_line_each() -> None:
    together = threading.Barrier(2, timeout=10)

    def meet(_: Path) -> None:
        together.wait()  # breaks unless two are under way at once

    components = tuple(Component(name, name, meet) for name in ("one", "two"))
    lines: list[str] = []
    dist.prepare(components, lines.append)
    assert lines[0].startswith("downloading one, two")
    assert sorted(line.split(" in ")[0] for line in lines[1:]) == ["downloaded one", "downloaded two"]
    lines.clear()
    dist.prepare(components, lines.append)
    assert lines == []


def test_a_missing_maven_says_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StackError, match="mvn isn't installed; run `make setup`"):
        dist.KAFKA.prepare()


def test_maven_is_given_the_pinned_versions() -> None:
    pom = ElementTree.fromstring(poms.pom("connectors", poms.CONNECTORS))
    namespace = {"m": "http://maven.apache.org/POM/4.0.0"}
    found = {
        dependency.findtext("m:artifactId", namespaces=namespace): dependency.findtext(
            "m:version", namespaces=namespace
        )
        for dependency in pom.iterfind(".//m:dependency", namespace)
    }
    assert found == {
        "debezium-connector-postgres": versions.DEBEZIUM_POSTGRES,
        "debezium-connector-mariadb": versions.DEBEZIUM_MARIADB,
    }
