"""What databases say in which an Iceberg catalog is kept, in terms of what to do about it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import psycopg2
import psycopg2.errors
import pytest
from sqlalchemy.exc import DBAPIError

from config.errors import ConfigurationError, Unavailable
from config.pipeline import IcebergConfig
from sinks.iceberg.catalog import sorted_errors


def told(error: Exception, base: type[Exception], folder: Path) -> Exception:
    """What becomes of what a driver raised in the midst of a commit."""
    config = IcebergConfig(catalog_uri="postgresql://lake:not-shown@db/lake", warehouse=str(folder))
    with pytest.raises((Unavailable, ConfigurationError), match="postgresql://db/lake") as found, sorted_errors(config):
        raise DBAPIError.instance("UPDATE iceberg_tables", {}, error, base)
    return found.value


def by_code(code: str) -> psycopg2.Error:
    """As PostgreSQL's driver raises it for an SQLSTATE."""
    error: psycopg2.Error = psycopg2.errors.lookup(code)(code)
    error.__setstate__({"pgcode": code})
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        pytest.param(by_code("25006"), Unavailable, id="read-only: a standby, or a primary that was one"),
        pytest.param(by_code("25P03"), Unavailable, id="idle in a transaction for too long"),
        pytest.param(by_code("08006"), Unavailable, id="connection failure"),
        pytest.param(by_code("40001"), Unavailable, id="serialization failure"),
        pytest.param(by_code("40P01"), Unavailable, id="deadlock"),
        pytest.param(by_code("53300"), Unavailable, id="too many connections"),
        pytest.param(by_code("53100"), Unavailable, id="disk full"),
        pytest.param(by_code("57P01"), Unavailable, id="shut down by its administrator"),
        pytest.param(by_code("57P03"), Unavailable, id="starting up"),
        pytest.param(by_code("58030"), Unavailable, id="input or output error"),
        pytest.param(psycopg2.InterfaceError("connection already closed"), Unavailable, id="closed before"),
        pytest.param(psycopg2.DatabaseError("SSL SYSCALL error: EOF detected"), Unavailable, id="closed meanwhile"),
        pytest.param(by_code("42501"), ConfigurationError, id="no right to the table"),
        pytest.param(by_code("42P01"), ConfigurationError, id="no table"),
        pytest.param(by_code("22001"), ConfigurationError, id="a value that is too long"),
        pytest.param(by_code("XX001"), ConfigurationError, id="data corrupted"),
    ],
)
def test_a_postgresql_that_fails_over_is_waited_for_and_what_only_the_user_can_change_is_not(
    error: psycopg2.Error, kind: type[Exception], tmp_path: Path
) -> None:
    assert type(told(error, psycopg2.Error, tmp_path)) is kind


def test_a_file_that_is_no_database_is_not_waited_for(tmp_path: Path) -> None:
    error = sqlite3.DatabaseError("file is not a database")
    assert type(told(error, sqlite3.Error, tmp_path)) is ConfigurationError
