"""What the environment says: the one place that reads it, besides `${VAR}` in the configuration files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from config.errors import ConfigurationError
from config.loader import PIPELINE_FILE, PLATFORM_FILE, load_pipeline, load_platform
from config.pipeline import PipelineConfig
from config.platform import PlatformConfig

DATA_DIR = ".data"


@dataclass(frozen=True)
class Settings:
    """All that a worker or a command is started with."""

    pipeline: PipelineConfig
    platform: PlatformConfig
    pipeline_path: Path
    sinks: tuple[str, ...] = ()
    """Sorted ids of the sinks that this worker serves (CDC_SINKS); empty: all."""
    data_dir: Path = Path(DATA_DIR)

    @property
    def app_id(self) -> str:
        """The Faust app's id and the consumer group's name; public, see docs/guarantees.md."""
        return "-".join([self.platform.kafka.group_id, self.pipeline.pipeline_id, *self.sinks])


def load_settings(
    pipeline: str | Path | None = None,
    platform: str | Path | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """The settings from the environment; a command's arguments win over CDC_PIPELINE and CDC_PLATFORM.

    Raises ConfigurationError.
    """
    pipeline_path = pipeline_file(pipeline, environ)
    config = load_pipeline(pipeline_path, environ)
    return Settings(
        pipeline=config,
        platform=load_platform(platform_file(platform, environ), environ),
        pipeline_path=pipeline_path,
        sinks=_sinks(config, environ.get("CDC_SINKS", "")),
        data_dir=Path(environ.get("CDC_DATA_DIR") or DATA_DIR),
    )


def pipeline_file(given: str | Path | None, environ: Mapping[str, str] = os.environ) -> Path:
    """The pipeline file: the argument, CDC_PIPELINE, or ./pipeline.yaml."""
    path = Path(given or environ.get("CDC_PIPELINE") or PIPELINE_FILE)
    if not given and not environ.get("CDC_PIPELINE") and not path.exists():
        raise ConfigurationError(f"no pipeline: set CDC_PIPELINE to its file, or put {PIPELINE_FILE} into {Path.cwd()}")
    return path


def platform_file(given: str | Path | None, environ: Mapping[str, str] = os.environ) -> Path | None:
    """The platform file: the argument, CDC_PLATFORM, or ./platform.yaml if it is there; None: the defaults."""
    chosen = given or environ.get("CDC_PLATFORM")
    if chosen:
        return Path(chosen)
    return Path(PLATFORM_FILE) if Path(PLATFORM_FILE).exists() else None


def _sinks(pipeline: PipelineConfig, wanted: str) -> tuple[str, ...]:
    ids = tuple(sorted({part.strip() for part in wanted.split(",") if part.strip()}))
    enabled = [sink.sink_id for sink in pipeline.sinks if sink.enabled]
    for sink_id in ids:
        if sink_id not in enabled:
            raise ConfigurationError(
                f"CDC_SINKS names {sink_id!r}, which is no enabled sink of pipeline {pipeline.pipeline_id};"
                f" its sinks: {', '.join(enabled) or 'none'}"
            )
    return ids
