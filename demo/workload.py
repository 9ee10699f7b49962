"""The demo's databases: three tables each in PostgreSQL and MariaDB, and seeded changes on them at a steady rate.

Each transaction carries tens of changes: inserts, updates, deletes and changes of primary keys. Halfway through, a
column is added to `orders`. The same statements run on both databases; only the placeholders' style differs.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Protocol

CUSTOMERS, ORDERS, EVENTS = "customers", "orders", "events"
TABLES = (CUSTOMERS, ORDERS, EVENTS)

POSTGRES_DDL = (
    "CREATE TABLE customers (id bigint PRIMARY KEY, name text NOT NULL, email varchar(80), balance numeric(12,2),"
    " active boolean, born date, created timestamptz NOT NULL)",
    "CREATE TABLE orders (region varchar(8), id bigint, customer_id bigint NOT NULL, total numeric(10,2) NOT NULL,"
    " note text, placed timestamp(6), PRIMARY KEY (id, region))",
    "CREATE TABLE events (id uuid PRIMARY KEY, kind varchar(16) NOT NULL, payload jsonb, weight double precision,"
    " at timestamptz NOT NULL)",
)
MARIADB_DDL = (
    "CREATE TABLE customers (id BIGINT PRIMARY KEY, name VARCHAR(80) NOT NULL, email VARCHAR(80),"
    " balance DECIMAL(12,2), active BOOLEAN, born DATE, created TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6))",
    "CREATE TABLE orders (region VARCHAR(8), id BIGINT, customer_id BIGINT NOT NULL, total DECIMAL(10,2) NOT NULL,"
    " note VARCHAR(200), placed DATETIME(6), PRIMARY KEY (id, region))",
    "CREATE TABLE events (id CHAR(36) PRIMARY KEY, kind VARCHAR(16) NOT NULL, payload JSON, weight DOUBLE,"
    " at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6))",
)
ADD_COLUMN = "ALTER TABLE orders ADD COLUMN priority INTEGER"

REGIONS = ("eu", "us", "apac")
KINDS = ("click", "view", "buy")


class Connection(Protocol):
    """What the workload needs of a database connection: one transaction of statements with `%s` placeholders."""

    def transaction(self, statements: Sequence[tuple[str, Sequence[Sequence[Any]]]]) -> None:
        """Run each statement for each of its parameter rows, all in one transaction."""


def customer(rng: random.Random, key: int) -> tuple[Any, ...]:
    """A row of `customers`."""
    cents = rng.randrange(-(10**9), 10**9)
    return (
        key,
        f"Customer {key} é",
        None if rng.random() < 0.1 else f"c{key}@example.com",
        None if rng.random() < 0.05 else Decimal(cents) / 100,
        rng.random() < 0.7,
        f"{rng.randrange(1930, 2010)}-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}",
        _instant(rng),
    )


def order(rng: random.Random, key: int) -> tuple[Any, ...]:
    """A row of `orders` (without the column that is added later)."""
    note = rng.choice((None, "", "gift", "漢字", "x" * 120))
    return (REGIONS[key % 3], key, rng.randrange(1, 10_000), Decimal(rng.randrange(10**8)) / 100, note, _instant(rng))


def event(rng: random.Random, key: int) -> tuple[Any, ...]:
    """A row of `events`."""
    return (
        f"00000000-0000-4000-8000-{key:012x}",
        rng.choice(KINDS),
        f'{{"n": {key}, "tags": ["a", "b"]}}',
        rng.random() * 1000,
        _instant(rng),
    )


def _instant(rng: random.Random) -> str:
    day = f"{rng.randrange(2000, 2030)}-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}"
    return f"{day} {rng.randrange(3, 24):02}:{rng.randrange(60):02}:{rng.randrange(60):02}.{rng.randrange(10**6):06}"


INSERT = {
    CUSTOMERS: "INSERT INTO customers (id, name, email, balance, active, born, created) VALUES (%s,%s,%s,%s,%s,%s,%s)",
    ORDERS: "INSERT INTO orders (region, id, customer_id, total, note, placed) VALUES (%s,%s,%s,%s,%s,%s)",
    EVENTS: "INSERT INTO events (id, kind, payload, weight, at) VALUES (%s,%s,%s,%s,%s)",
}
MAKE: dict[str, Callable[[random.Random, int], tuple[Any, ...]]] = {CUSTOMERS: customer, ORDERS: order, EVENTS: event}


@dataclass
class Workload:
    """Seeded rows and changes for one database; `changes` counts what was sent, for progress."""

    connection: Connection
    seed: int
    changes: int = 0
    column_added: bool = False
    keys: dict[str, list[int]] = field(default_factory=dict)
    next_key: dict[str, int] = field(default_factory=dict)

    def fill(self, rows: int) -> None:
        """Insert the rows that the connector's snapshot will read, shared by the three tables."""
        rng = random.Random(self.seed)
        for table, share in ((CUSTOMERS, 0.4), (ORDERS, 0.4), (EVENTS, 0.2)):
            count = int(rows * share)
            for start in range(1, count + 1, 5_000):
                made = [MAKE[table](rng, key) for key in range(start, min(start + 5_000, count + 1))]
                self.connection.transaction([(INSERT[table], made)])
            self.keys[table] = list(range(1, count + 1))
            self.next_key[table] = count + 1

    def change(self, seconds: float, rate: float, stop: threading.Event) -> None:
        """Send changes at `rate` per second for `seconds`, in transactions of 20 to 80, catching up after stalls."""
        rng = random.Random(self.seed + 1)
        started = time.monotonic()
        sent = 0
        while (elapsed := time.monotonic() - started) < seconds and not stop.is_set():
            if not self.column_added and elapsed > seconds / 2:
                self.connection.transaction([(ADD_COLUMN, [()])])
                self.column_added = True
            behind = int(elapsed * rate) - sent
            if behind < 20:
                stop.wait(0.02)
                continue
            statements = self._transaction(rng, min(80, behind))
            self.connection.transaction(statements)
            count = sum(len(rows) for _, rows in statements)
            sent += count
            self.changes += count

    def _transaction(self, rng: random.Random, size: int) -> list[tuple[str, list[tuple[Any, ...]]]]:
        statements: list[tuple[str, list[tuple[Any, ...]]]] = []
        table = rng.choice(TABLES)
        keys = self.keys[table]
        inserted = [self._new_key(table) for _ in range(size * 3 // 10)]
        statements.append((INSERT[table], [MAKE[table](rng, key) for key in inserted]))
        chosen = [keys.pop(rng.randrange(len(keys))) for _ in range(size - len(inserted))]
        deletes = chosen[: max(1, size // 10)]
        moved = chosen[len(deletes) : len(deletes) + (2 if rng.random() < 0.3 else 0)]
        updates = chosen[len(deletes) + len(moved) :]
        statements.append(self._update(rng, table, updates))
        statements.append((f"DELETE FROM {table} WHERE id = %s", [(_key(table, key),) for key in deletes]))
        if moved:
            renamed = [self._new_key(table) for _ in moved]
            rows = [(_key(table, new), _key(table, old)) for old, new in zip(moved, renamed, strict=True)]
            statements.append((f"UPDATE {table} SET id = %s WHERE id = %s", rows))
            inserted += renamed
        keys.extend(updates + inserted)
        return statements

    def _update(self, rng: random.Random, table: str, keys: list[int]) -> tuple[str, list[tuple[Any, ...]]]:
        if table == CUSTOMERS:
            return "UPDATE customers SET balance = %s WHERE id = %s", [
                (Decimal(rng.randrange(10**9)) / 100, k) for k in keys
            ]
        if table == EVENTS:
            return "UPDATE events SET weight = %s WHERE id = %s", [(rng.random(), _key(table, k)) for k in keys]
        if self.column_added:
            return "UPDATE orders SET priority = %s, note = %s WHERE id = %s", [
                (rng.randrange(9), "prio", k) for k in keys
            ]
        return "UPDATE orders SET total = %s WHERE id = %s", [(Decimal(rng.randrange(10**8)) / 100, k) for k in keys]

    def _new_key(self, table: str) -> int:
        key = self.next_key[table]
        self.next_key[table] += 1
        return key


def _key(table: str, key: int) -> Any:
    return f"00000000-0000-4000-8000-{key:012x}" if table == EVENTS else key
