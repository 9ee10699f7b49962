"""A column of each MariaDB type with values, and what the lake tables hold of them. See `postgres_specimens`."""

from __future__ import annotations

import struct
from datetime import date, time
from decimal import Decimal
from typing import Any

from postgres_specimens import DEAD, UUID, at, of, utc, wkb_line, wkb_point, wkb_polygon


def wkb_many(kind: int, *parts: bytes) -> bytes:
    return b"\1" + struct.pack("<2I", kind, len(parts)) + b"".join(parts)


SPECIMENS = (
    of("boolean", ("TRUE", 1), ("FALSE", 0)),
    of("bit(1)", ("b'1'", True), ("b'0'", False)),
    of("bit(9)", ("b'100000001'", b"\x01\x01"), ("b'0'", b"\0\0")),
    of("tinyint", ("-128", -128), ("127", 127)),
    of("tinyint unsigned", ("255", 255), ("0", 0)),
    of("smallint", ("-32768", -32768)),
    of("smallint unsigned", ("65535", 65535)),
    of("mediumint", ("-8388608", -8388608)),
    of("mediumint unsigned", ("16777215", 16777215)),
    of("int", ("-2147483648", -(2**31))),
    of("int unsigned", ("4294967295", 2**32 - 1)),
    of("bigint", ("-9223372036854775808", -(2**63)), ("9223372036854775807", 2**63 - 1)),
    of("bigint unsigned", ("18446744073709551615", Decimal(2**64 - 1)), ("0", Decimal(0)), long=(-1, 0)),
    of("float", ("1.5", 1.5), ("-0e0", 0.0)),
    of("float unsigned", ("1.5", 1.5)),
    of("float(10,2)", ("1.25", 1.25)),
    of("double", ("0.1", 0.1), ("-0e0", 0.0)),
    of("double unsigned", ("0.1", 0.1)),
    of(
        "decimal(12,3)",
        ("123.456", Decimal("123.456")),
        ("0.001", Decimal("0.001")),
        string=("123.456", "0.001"),
        double=(123.456, 0.001),
    ),
    of("decimal(12,3) unsigned", ("123.456", Decimal("123.456")), string=("123.456",), double=(123.456,)),
    of("char(5)", ("'ab'", "ab"), ("''", "")),
    of("varchar(50)", ("'text é 漢字 😀'", "text é 漢字 😀"), ("''", ""), ("'a\\0b'", "a\0b")),
    of("tinytext", ("'t'", "t")),
    of("text", ("'line\\n\\t\"quoted\" \\\\'", 'line\n\t"quoted" \\'), ("''", "")),
    of("mediumtext", ("'t'", "t")),
    of("longtext", ("'t'", "t")),
    of("varchar(50)", ("'é'", "é"), ddl="varchar(50) character set latin1"),
    of("enum('a','b')", ("'b'", "b"), ("'a'", "a")),
    of("set('x','y')", ("'x,y'", "x,y"), ("''", "")),
    of("json", ('\'{"a": 1,  "b":[1,2]}\'', '{"a": 1,  "b":[1,2]}')),
    of("uuid", (f"'{UUID[:-1]}1'", f"{UUID[:-1]}1")),
    of(
        "binary(5)",
        ("x'00ff'", b"\0\xff\0\0\0"),
        hex=("00ff000000",),
        base64=("AP8AAAA=",),
        base64_url_safe=("AP8AAAA=",),
    ),
    of(
        "varbinary(10)",
        ("x'00ff'", b"\0\xff"),
        ("''", b""),
        ("x'0000'", b"\0\0"),
        hex=("00ff", "", "0000"),
        base64=("AP8=", "", "AAA="),
        base64_url_safe=("AP8=", "", "AAA="),
    ),
    of("tinyblob", ("x'fbff'", b"\xfb\xff"), hex=("fbff",), base64=("+/8=",), base64_url_safe=("-_8=",)),
    of(
        "blob",
        ("x'fbff'", b"\xfb\xff"),
        ("''", b""),
        hex=("fbff", ""),
        base64=("+/8=", ""),
        base64_url_safe=("-_8=", ""),
    ),
    of("mediumblob", ("x'fbff'", b"\xfb\xff"), hex=("fbff",), base64=("+/8=",), base64_url_safe=("-_8=",)),
    of("longblob", ("x'fbff'", b"\xfb\xff"), hex=("fbff",), base64=("+/8=",), base64_url_safe=("-_8=",)),
    of(
        "date",
        ("'2024-02-29'", date(2024, 2, 29)),
        ("'9999-12-31'", date(9999, 12, 31)),
        ("'0012-01-01'", date(12, 1, 1)),
    ),
    of("time", ("'12:34:56'", time(12, 34, 56)), ("'00:00:00'", time(0))),
    of("time(6)", ("'12:34:56.789012'", time(12, 34, 56, 789012)), connect=(time(12, 34, 56, 789000),)),
    of("datetime", ("'2024-02-29 12:34:56'", at(2024, 2, 29, 12, 34, 56)), ("'0012-01-01 00:00:00'", at(12, 1, 1))),
    of(
        "datetime(6)",
        ("'2024-02-29 12:34:56.789012'", at(2024, 2, 29, 12, 34, 56, 789012)),
        connect=(at(2024, 2, 29, 12, 34, 56, 789000),),
    ),
    of("timestamp", ("'2024-02-29 12:34:56'", utc(2024, 2, 29, 12, 34, 56))),
    of(
        "timestamp(6)",
        ("'2024-02-29 12:34:56.789012'", utc(2024, 2, 29, 12, 34, 56, 789012)),
        ("'2038-01-19 03:14:07.999999'", utc(2038, 1, 19, 3, 14, 7, 999999)),
    ),
    of("year", ("2024", 2024), ("1901", 1901)),
    of("point", ("POINT(1.5, 2.5)", {"x": 1.5, "y": 2.5, "wkb": wkb_point(1.5, 2.5), "srid": None})),
    of("geometry", ("POINT(1.5, 2.5)", {"wkb": wkb_point(1.5, 2.5), "srid": None})),
    of("linestring", ("ST_GeomFromText('LINESTRING(0 0,1 1)')", {"wkb": wkb_line((0, 0), (1, 1)), "srid": None})),
    of(
        "polygon",
        ("ST_GeomFromText('POLYGON((0 0,1 1,1 0,0 0))')", {"wkb": wkb_polygon((0, 0), (1, 1), (1, 0)), "srid": None}),
    ),
    of(
        "multipoint",
        (
            "ST_GeomFromText('MULTIPOINT(0 0,1 1)')",
            {"wkb": wkb_many(4, wkb_point(0, 0), wkb_point(1, 1)), "srid": None},
        ),
    ),
    of(
        "multilinestring",
        ("ST_GeomFromText('MULTILINESTRING((0 0,1 1))')", {"wkb": wkb_many(5, wkb_line((0, 0), (1, 1))), "srid": None}),
    ),
    of(
        "multipolygon",
        (
            "ST_GeomFromText('MULTIPOLYGON(((0 0,1 1,1 0,0 0)))')",
            {"wkb": wkb_many(6, wkb_polygon((0, 0), (1, 1), (1, 0))), "srid": None},
        ),
    ),
    of(
        "geometrycollection",
        ("ST_GeomFromText('GEOMETRYCOLLECTION(POINT(0 0))')", {"wkb": wkb_many(7, wkb_point(0, 0)), "srid": None}),
    ),
)

SPECIAL_COLUMNS = (
    "d date", "dn date NOT NULL", "dt datetime(6)", "dtn datetime(6) NOT NULL", "ts timestamp(6) NULL", "t time(6)",
    "e enum('a','b')", "v varchar(20)", "dc decimal(65,30)", "dd date NOT NULL DEFAULT '2000-01-02'",
    "dtd datetime NOT NULL DEFAULT '2000-01-02'", "ts0 timestamp NULL", "t0 time", "f double",
)  # fmt: skip
NOT_NULL = {"dn": "'2000-01-01'", "dtn": "'2000-01-01'"}
DIGITS = "12345678901234567890123456789012345.123456789012345678901234567890"
HALF_PAST = frozenset({"2024-02-29T12:34:56.5Z", "2024-02-29T12:34:56.500000Z"})
"""The same instant in a snapshot and streamed."""
SPECIALS: tuple[tuple[str, str, Any, Any], ...] = (
    # column, literal, what is stored by default, what as text
    ("d", "'0000-00-00'", None, None),  # Debezium sends null
    ("d", "'1970-01-01'", date(1970, 1, 1), "1970-01-01"),
    ("dn", "'0000-00-00'", DEAD, DEAD),
    ("dn", "'1970-01-01'", DEAD, DEAD),  # can't be told from a zero date
    ("dn", "'2024-02-29'", date(2024, 2, 29), "2024-02-29"),
    ("dt", "'0000-00-00 00:00:00'", None, None),
    ("dtn", "'0000-00-00 00:00:00'", DEAD, DEAD),
    ("t", "'-12:34:56.789012'", DEAD, "-12:34:56.789012"),
    ("t", "'838:59:59.999999'", DEAD, "838:59:59.999999"),
    ("t", "'24:00:00'", DEAD, "24:00:00.000000"),
    ("t", "'12:34:56.5'", time(12, 34, 56, 500000), "12:34:56.500000"),
    ("t0", "'12:34:00'", time(12, 34), "12:34:00.000000"),
    ("t0", "'-00:00:01'", DEAD, "-00:00:01.000000"),
    ("dt", "'2024-02-29 12:34:56.5'", at(2024, 2, 29, 12, 34, 56, 500000), "2024-02-29T12:34:56.500000"),
    ("dt", "'2024-00-10 00:00:00'", None, None),
    (
        "ts",
        "'2024-02-29 12:34:56.5'",
        utc(2024, 2, 29, 12, 34, 56, 500000),
        HALF_PAST,
    ),
    ("ts0", "'2024-02-29 12:34:56'", utc(2024, 2, 29, 12, 34, 56), "2024-02-29T12:34:56Z"),
    ("dd", "'0000-00-00'", date(2000, 1, 2), "2000-01-02"),  # the default, which nobody can tell
    ("dtd", "'0000-00-00 00:00:00'", at(2000, 1, 2), "2000-01-02T00:00:00.000000"),
    ("f", "-0e0", 0.0, 0.0),
    ("e", "''", "", ""),
    ("v", "'a\\0b'", "a\0b", "a\0b"),
    ("dc", DIGITS, None, DIGITS),  # text in both: no lake type holds the column
)

LOST = frozenset({"dd", "dtd"})
"""Columns whose special values Debezium sends as others, which only a comparison with the source can tell."""
