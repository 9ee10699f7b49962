"""The demo's connections to its two databases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg2
import pymysql
from psycopg2.extras import execute_batch

from stack.manager import Endpoint

Statements = Sequence[tuple[str, Sequence[Sequence[Any]]]]


class PostgresConnection:
    """`demo.workload.Connection` over psycopg2."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._connection = psycopg2.connect(endpoint.url)

    def transaction(self, statements: Statements) -> None:
        """Run all statements in one transaction."""
        with self._connection, self._connection.cursor() as cursor:
            for sql, rows in statements:
                execute_batch(cursor, sql, rows, page_size=200)


class MariaDbConnection:
    """`demo.workload.Connection` over PyMySQL."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._connection = pymysql.connect(
            host=endpoint.host,
            port=endpoint.port,
            user=endpoint.user,
            password=endpoint.password or "",
            database=endpoint.more["database"],
            charset="utf8mb4",
            init_command="SET time_zone = '+00:00'",
        )

    def transaction(self, statements: Statements) -> None:
        """Run all statements in one transaction."""
        with self._connection.cursor() as cursor:
            for sql, rows in statements:
                if rows:
                    cursor.executemany(sql, rows)
        self._connection.commit()


def rows_of(endpoint: Endpoint, query: str) -> list[dict[str, Any]]:
    """All rows of a query, by column."""
    connection: Any
    if endpoint.url.startswith("postgres"):
        connection = psycopg2.connect(endpoint.url)
    else:
        connection = MariaDbConnection(endpoint)._connection
    with connection.cursor() as cursor:
        cursor.execute(query)
        names = [column[0] for column in cursor.description]
        found = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    connection.close()
    return found
