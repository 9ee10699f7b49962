"""Values that databases have and lake tables don't, and what becomes of each: a table of docs/types.md."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SpecialValue:
    """One of them: where it occurs, what Debezium sends, what is stored by default, and as `misfit: text`."""

    source: str
    value: str
    wire: str
    stored: str
    text: str


_AS_IS = "as it is"
_DEAD = "dead letter"
_PG, _MY, _BOTH = "PostgreSQL", "MariaDB, MySQL", "both"

SPECIAL_VALUES = (
    SpecialValue(_PG, "`date` infinity, -infinity", "a day beyond PostgreSQL's", _DEAD, "`infinity`, `-infinity`"),
    SpecialValue(_PG, "`timestamp` infinity", "the ends of 64 bits", _DEAD, "`infinity`, `-infinity`"),
    SpecialValue(_PG, "`timestamptz` infinity", "`infinity`", _DEAD, "`infinity`, `-infinity`"),
    SpecialValue(_PG, "dates and timestamps from the year 10000 on", _AS_IS, _DEAD, "`+10000-01-01`"),
    SpecialValue(_PG, "`timestamp` after 294247", "a number that overflowed", _DEAD, _DEAD),
    SpecialValue(_PG, "timestamps before the year 1, streamed dates", _AS_IS, _DEAD, "`-0043-03-15`"),
    SpecialValue(_PG, "dates before the year 1 in a snapshot", "**the year without BC**", "that date", "that date"),
    SpecialValue(_PG, "`time` 24:00:00", _AS_IS, _DEAD, "`24:00:00.000000`"),
    SpecialValue(_PG, "NaN and infinity in `real`, `double precision`", _AS_IS, _AS_IS, ""),
    SpecialValue(_PG, "NaN and infinity in `numeric`, `precise`", "the connector stops (below)", "", ""),
    SpecialValue(_PG, "`time` 24:00:00 in an array", "**00:00:00**", "that time", "not possible"),
    SpecialValue(_PG, "`numeric` without precision, any size", "without its last zeros, in `precise`", "text", ""),
    SpecialValue(_PG, "an infinite date in an array", "as above", _DEAD, "not possible"),
    SpecialValue(_MY, "zero dates, column may be null", "**null**", "null", "null"),
    SpecialValue(_MY, "zero dates, NOT NULL with a default", "**the default**", "that date", "that date"),
    SpecialValue(_MY, "zero dates, NOT NULL without default", "1970-01-01", _DEAD, _DEAD),
    SpecialValue(_MY, "1970-01-01, NOT NULL without default", _AS_IS, _DEAD, _DEAD),
    SpecialValue(_MY, "`time` below 0 or from 24:00 on", _AS_IS, _DEAD, "`-12:34:56.789012`"),
    SpecialValue(_MY, "`bigint unsigned` beyond 63 bits, `precise`", _AS_IS, _AS_IS, "digits"),
    SpecialValue(_MY, "`float` of more than six digits in a snapshot", "**its first six digits**", "that number", ""),
    SpecialValue(_MY, "an `enum`'s error value `''`", "empty text", "empty text", ""),
    SpecialValue(_MY, "`binary(n)`", "padded with zero bytes", _AS_IS, ""),
    SpecialValue(_MY, "NUL in text", _AS_IS, _AS_IS, ""),
    SpecialValue(_BOTH, "-0.0", _AS_IS, _AS_IS, ""),
    SpecialValue(_BOTH, "empty text, bytes, arrays; null", _AS_IS, _AS_IS, ""),
    SpecialValue(_BOTH, "text that isn't UTF-8", _AS_IS, _DEAD, ""),
    SpecialValue(_BOTH, "decimals of more than 38 digits", _AS_IS, "refused", "digits"),
)
