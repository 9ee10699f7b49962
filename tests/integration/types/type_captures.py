"""What is captured of a database's types: a table of each type's values, one of special values, by each variant of the
connector's modes and the wire format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

import mariadb_specimens
import postgres_specimens
from harness import Found, Variant
from postgres_specimens import Specimen

from sources.debezium.schemaless import wire_type
from sources.debezium.source_types import Modes
from sources.debezium.type_matrix import modes_with

TEXT = {"misfit": "text"}
WARN = {"event.converting.failure.handling.mode": "warn"}
"""Debezium's default, under which NaN in a decimal arrives as null; under Lakeward's own setting it stops."""
POSTGRES_VARIANTS = {
    "avro": Variant("avro", options=WARN),
    "json-schema": Variant(
        "js",
        "json-schema",
        WARN
        | {
            "time.precision.mode": "adaptive",
            "decimal.handling.mode": "string",
            "binary.handling.mode": "hex",
            "hstore.handling.mode": "map",
            "interval.handling.mode": "numeric",
        },
    ),
    "connect": Variant(
        "cn",
        options=WARN
        | {
            "time.precision.mode": "connect",
            "decimal.handling.mode": "double",
            "binary.handling.mode": "base64",
            "hstore.handling.mode": "map",
        },
    ),
    "isostring": Variant(
        "iso",
        "json",
        WARN
        | {
            "time.precision.mode": "isostring",
            "binary.handling.mode": "base64-url-safe",
            "hstore.handling.mode": "map",
        },
    ),
    "nanoseconds": Variant("ns", "json-schema", WARN | {"time.precision.mode": "nanoseconds"}),
    "structured": Variant("st", "json-schema", WARN | {"time.precision.mode": "structured"}),
    "text": Variant("tx", "json", WARN),
}
MARIADB_VARIANTS = {
    "avro": Variant("mavro"),
    "json-schema": Variant(
        "mjs",
        "json-schema",
        {"decimal.handling.mode": "string", "binary.handling.mode": "hex", "bigint.unsigned.handling.mode": "long"},
    ),
    "connect": Variant(
        "mcn",
        options=WARN
        | {
            "time.precision.mode": "connect",
            "decimal.handling.mode": "double",
            "binary.handling.mode": "base64",
        },
    ),
    "isostring": Variant(
        "miso",
        "json",
        WARN | {"time.precision.mode": "isostring", "binary.handling.mode": "base64-url-safe"},
    ),
    "text": Variant("mtx", "json"),
}
POLICIES = {
    "json-schema": "set_null",
    "connect": "text",
    "isostring": "text",
    "nanoseconds": "text",
    "text": "text",
}
"""What becomes of values that no lake type holds, in the table of special values."""
SINKS = ("iceberg", "delta")


class Captured:
    """A database's specimens, what each variant brought of them, and the columns' types as the catalogue has them."""

    def __init__(
        self,
        source_type: str,
        specimens: Sequence[Specimen],
        variants: Mapping[str, Variant],
        found: Mapping[str, Found],
        catalogue: Mapping[str, str],
    ) -> None:
        self.source_type = source_type
        self.specimens = specimens
        self.variants = variants
        self.found = found
        self.catalogue = catalogue

    def modes(self, variant: str) -> Modes:
        return modes_with(
            self.source_type, **{k.replace(".", "_"): v for k, v in self.variants[variant].options.items()}
        )


def column(number: int) -> str:
    return f"c{number}"


def rows_of(specimens: Sequence[Specimen]) -> int:
    return max(len(specimen.literals) for specimen in specimens)


def accepted(source_type: str, specimens: Sequence[Specimen], variant: Variant) -> dict[str, Any]:
    """`accept_loss` for the columns that lose something under the variant's modes."""
    modes = modes_with(source_type, **{k.replace(".", "_"): v for k, v in variant.options.items()})
    return {
        column(i): {"accept_loss": True}
        for i, specimen in enumerate(specimens)
        if wire_type(source_type, specimen.type, modes).loss
    }


def special_rules(source_type: str, variant: Variant, policy: str, wide: str) -> dict[str, Any]:
    """What a variant says of the columns with special values; losses are accepted but in the first and last variant.
    The `wide` column's digits need text where they arrive as decimals."""
    columns = {"postgres": postgres_specimens, "mariadb": mariadb_specimens}[source_type].SPECIAL_COLUMNS
    kinds = dict(column.split(" ", 1) for column in columns)
    accept = {"accept_loss": not variant.name.endswith(("avro", "tx"))}
    rules: dict[str, Any] = {}
    for name, kind in kinds.items():
        temporal = kind.startswith(("date", "time")) and "[]" not in kind
        if policy == "set_null" or (policy == "text" and temporal):
            rules[name] = accept | {"misfit": policy}
        else:
            rules[name] = dict(accept)
    if variant.options.get("decimal.handling.mode", "precise") == "precise":
        rules[wide] = accept | TEXT
    return rules


def with_columns(
    source_type: str, specimens: Sequence[Specimen], wide: str, variants: Mapping[str, Variant]
) -> list[Variant]:
    """The variants, under names of their own, with what they say of columns."""
    run = uuid4().hex[:6]
    made = []
    for name, variant in variants.items():
        every = accepted(source_type, specimens, variant) | {n: {"accept_loss": True} for n in left_out(source_type)}
        special = special_rules(source_type, variant, POLICIES.get(name, "dead_letter"), wide)
        made.append(replace(variant, name=f"t{run}{variant.name}", columns={"every": every, "special": special}))
    return made


def left_out(source_type: str) -> dict[str, str]:
    """Columns that Debezium leaves out of its records, and their types."""
    types = postgres_specimens.LEFT_OUT if source_type == "postgres" else ()
    return {f"x{i}": text for i, text in enumerate(types)}


def inserts(quote: str, specimens: Sequence[Specimen], base: int) -> list[str]:
    """One row per value of the type with most values, and a row of nulls."""
    names = ", ".join(column(i) for i in range(len(specimens)))
    statements = []
    for row in range(rows_of(specimens)):
        values = ", ".join(specimen.literals[row % len(specimen.literals)] for specimen in specimens)
        statements.append(f"INSERT INTO {quote} (id, {names}) VALUES ({base + row}, {values})")
    return [*statements, f"INSERT INTO {quote} (id) VALUES ({base + rows_of(specimens)})"]
