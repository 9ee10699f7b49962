"""What becomes of values that a lake's type can't hold, column by column (`source.columns.….misfit`).

dead_letter   the record is set aside with its reason (the default)
error         the pipeline stops at it
set_null      the value becomes null
text          the whole column is text, which holds them all

And what of a value that Debezium itself put in a zero date's place: MariaDB and MySQL allow 0000-00-00, for which
Debezium sends 1970-01-01 where the column is NOT NULL without a default, and where it is a TIMESTAMP, which has no such
instant. Such a value is a misfit, unless the column's `accept_loss` is set.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from config.columns import ColumnConfig
from config.errors import UnsupportedChange
from sources.debezium.connect_types import ConnectType
from sources.debezium.convert import Build, Fault
from sources.debezium.raw import Mask, Raw, size
from sources.debezium.types import LakeType, lake_type, text_type

Rules = Mapping[str, ColumnConfig]
"""What the pipeline says of a table's columns, by name."""

DEFAULT = ColumnConfig()
_ZONED = "io.debezium.time.ZonedTimestamp"
_ZERO_DATES = "1970-01-01 is what Debezium sends for a zero date (0000-00-00); accept_loss (source.columns) stores it"


def column_type(type_: ConnectType, rule: ColumnConfig, column: str, *, zero_dates: bool, key: bool) -> LakeType:
    """How a column is stored under its rule. `zero_dates`: the source is one that has them; `key`: the column is part
    of the key. Raises UnsupportedChange, also for a rule that makes no sense for the type."""
    known = text_type(type_, column) if rule.misfit == "text" else lake_type(type_, column)
    build = known.build
    if zero_dates and not rule.accept_loss and (type_.name == _ZONED or not type_.optional):
        typed = known if rule.misfit != "text" else lake_type(type_, column)
        if pa.types.is_date(typed.arrow) or pa.types.is_timestamp(typed.arrow):
            build = _without_epoch(build, typed)
    if rule.misfit == "set_null":
        if key:
            raise UnsupportedChange(
                f"{column}: it is part of the key, which can't be null; set its misfit (source.columns) to dead_letter,"
                " error or text"
            )
        build = _or_null(build, known.arrow)
    return LakeType(known.arrow, build, stops=rule.misfit == "error", nulls=rule.misfit == "set_null")


def _without_epoch(build: Build, typed: LakeType) -> Build:
    epoch = pa.scalar(0, pa.int32() if pa.types.is_date(typed.arrow) else pa.int64()).cast(typed.arrow)

    def checked(raw: Raw, fault: Fault) -> pa.Array:
        values = build(raw, fault)
        found = values if values.type == typed.arrow else typed.build(raw, lambda _mask, _reason: None)
        wrong = pc.equal(found, epoch).fill_null(False).to_numpy(zero_copy_only=False)
        if wrong.any():
            fault(wrong, _ZERO_DATES)
        return values

    return checked


def _or_null(build: Build, arrow: pa.DataType) -> Build:
    def nulled(raw: Raw, _fault: Fault) -> pa.Array:
        wrong = np.zeros(size(raw), np.bool_)

        def note(mask: Mask, _reason: str) -> None:
            np.logical_or(wrong, mask, out=wrong)

        values = build(raw, note)
        if not wrong.any():
            return values
        return values.take(pa.array(np.arange(len(wrong)), mask=wrong)).cast(arrow)

    return nulled
