"""Which columns of the source can't be carried as the connector is configured: `cdc deploy` refuses them, each with the
option that helps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from config.errors import UnsupportedChange
from config.pipeline import PipelineConfig
from sources.debezium.policies import DEFAULT, column_type
from sources.debezium.schemaless import wire_type
from sources.debezium.source_types import Modes, SourceColumn


def captured_columns(
    columns: Mapping[str, Iterable[SourceColumn]], config: Mapping[str, str]
) -> dict[str, tuple[SourceColumn, ...]]:
    """The columns that the connector (its flat configuration) doesn't leave out."""
    return {
        table: tuple(c for c in found if _captured(f"{table}.{c.name}", config)) for table, found in columns.items()
    }


def _captured(name: str, config: Mapping[str, str]) -> bool:
    included, excluded = config.get("column.include.list"), config.get("column.exclude.list")
    if included:
        return _matches(included, name)
    return not (excluded and _matches(excluded, name))


def _matches(patterns: str, name: str) -> bool:
    return any(re.fullmatch(pattern.strip(), name, re.IGNORECASE) for pattern in patterns.split(","))


def column_problems(pipeline: PipelineConfig, columns: Mapping[str, Iterable[SourceColumn]], modes: Modes) -> list[str]:
    """What can't be stored without loss, by column; a column whose `accept_loss` is set only if it can't be stored."""
    problems = []
    for table, found in columns.items():
        rules = pipeline.source.columns.get(table, {})
        for column in found:
            where = f"{table}: column {column.name} ({column.type})"
            rule = rules.get(column.name, DEFAULT)
            wire = wire_type(pipeline.source.source_type, column.type, modes)
            if wire.loss and not rule.accept_loss:
                accept = f"source.columns.{table}.{column.name}.accept_loss: true"
                problems.append(f"{where}: {wire.loss}. To capture it all the same: {accept}")
            if wire.type is None:
                continue
            try:
                type_ = replace(wire.type, optional=column.nullable and not column.key)
                column_type(type_, rule, where, zero_dates=False, key=column.key)
            except UnsupportedChange as error:
                problems.append(str(error))
        names = {column.name for column in found}
        problems += [f"{table}: source.columns names {name}, which it doesn't have" for name in rules.keys() - names]
    return problems
