"""Random transactions and DDL for a source database: the same seed makes the same ones, whatever the faults do."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal, TypeVar

Kind = Literal["postgres", "mariadb"]
T = TypeVar("T")

TABLES = ("accounts", "items")
NAMES = ("Ada", "Łucja", "漢字", "", "O'Neill", "x" * 60)
MOST_ADDED = 4
"""Columns that are there beside the first ones at a time."""


@dataclass(frozen=True)
class Transaction:
    """Statements that are committed together; `changes` rows are touched by them."""

    statements: tuple[str, ...]
    changes: int


@dataclass
class Script:
    """A database's transactions, one after the other. Keeps in mind which rows there are, so that all succeed."""

    kind: Kind
    seed: int
    accounts: list[int] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    items: list[tuple[int, int]] = field(default_factory=list)
    added: dict[str, str] = field(default_factory=dict)
    _rng: random.Random = field(init=False, repr=False)
    _next: int = 1
    _columns: int = 0

    def __post_init__(self) -> None:
        self._rng = random.Random(f"{self.seed} {self.kind}")

    def setup(self) -> list[str]:
        """The tables, and rows for the connector's snapshot."""
        long = "text" if self.kind == "postgres" else "LONGTEXT"
        return [
            "CREATE TABLE accounts (id BIGINT PRIMARY KEY, owner VARCHAR(80) NOT NULL, balance NUMERIC(14,2),"
            f" note {long}, version INT NOT NULL)",
            "CREATE TABLE items (order_no INT, line INT, sku VARCHAR(40), price NUMERIC(10,2),"
            " PRIMARY KEY (order_no, line))",
            *self._insert_accounts(500),
            *self._insert_items(500),
        ]

    def next(self) -> Transaction:
        """The next one."""
        rng = self._rng
        kinds: list[tuple[int, Callable[[], list[str]]]] = [
            (30, lambda: self._insert_accounts(rng.randint(1, 20))),
            (30, lambda: self._update_accounts(rng.randint(1, 20))),
            (10, lambda: self._delete_accounts(rng.randint(1, 10))),
            (8, self._comes_back),
            (6, self._account_changes_key),
            (6, self._deleted_and_inserted_at_once),
            (15, lambda: self._insert_items(rng.randint(1, 20)) + self._update_items(rng.randint(1, 10))),
            (6, lambda: self._delete_items(rng.randint(1, 10))),
            (6, self._item_changes_key),
            (4, lambda: self._update_accounts(5) + self._update_items(5) + self._update_accounts(5)),
            (1, self._column_comes_or_goes),
        ]
        (make,) = rng.choices([make for _, make in kinds], [weight for weight, _ in kinds])
        statements = make()
        return Transaction(tuple(statements), len(statements))

    # -- accounts

    def _insert_accounts(self, count: int) -> list[str]:
        keys = [self._new_key() for _ in range(count)]
        self.accounts += keys
        return [self._inserted(key) for key in keys]

    def _inserted(self, key: int) -> str:
        names = ["id", "owner", "balance", "note", "version", *self.added]
        values = [key, self._name(), self._money(), self._note(), 0, *map(self._value, self.added.values())]
        return f"INSERT INTO accounts ({', '.join(names)}) VALUES ({', '.join(map(literal, values))})"

    def _update_accounts(self, count: int) -> list[str]:
        found = []
        for key in self._rng.choices(self.accounts, k=count):  # some twice
            change = f"version = version + 1, balance = {literal(self._money())}"
            if self._rng.random() < 0.2:
                change += f", note = {literal(self._note())}"  # the others leave a long one unsent
            for name, kind in self.added.items():
                change += f", {name} = {literal(self._value(kind))}"
            found.append(f"UPDATE accounts SET {change} WHERE id = {key}")
        return found

    def _delete_accounts(self, count: int) -> list[str]:
        keys = self._taken(self.accounts, count)
        self.gone += keys
        return [f"DELETE FROM accounts WHERE id = {key}" for key in keys]

    def _comes_back(self) -> list[str]:
        keys = [self.gone.pop(self._rng.randrange(len(self.gone))) for _ in range(min(3, len(self.gone)))]
        self.accounts += keys
        return [self._inserted(key) for key in keys] or self._update_accounts(3)

    def _account_changes_key(self) -> list[str]:
        (old,) = self._taken(self.accounts, 1)
        new = self._new_key()
        self.accounts.append(new)
        # with its note: nobody knows an unsent value under the old key any more
        return [f"UPDATE accounts SET id = {new}, note = {literal(self._note())} WHERE id = {old}"]

    def _deleted_and_inserted_at_once(self) -> list[str]:
        key = self._rng.choice(self.accounts)
        return [f"DELETE FROM accounts WHERE id = {key}", self._inserted(key)]

    # -- items

    def _insert_items(self, count: int) -> list[str]:
        order = self._new_key()
        keys = [(order, line) for line in range(count)]
        self.items += keys
        return [
            f"INSERT INTO items VALUES ({o}, {n}, {literal(self._name())}, {literal(self._price())})" for o, n in keys
        ]

    def _update_items(self, count: int) -> list[str]:
        return [
            f"UPDATE items SET price = {literal(self._price())} WHERE order_no = {order} AND line = {line}"
            for order, line in self._rng.choices(self.items, k=count)
        ]

    def _delete_items(self, count: int) -> list[str]:
        keys = self._taken(self.items, count)
        return [f"DELETE FROM items WHERE order_no = {order} AND line = {line}" for order, line in keys]

    def _item_changes_key(self) -> list[str]:
        ((order, line),) = self._taken(self.items, 1)
        new = self._new_key()
        self.items.append((new, line))
        return [f"UPDATE items SET order_no = {new} WHERE order_no = {order} AND line = {line}"]

    # -- DDL

    def _column_comes_or_goes(self) -> list[str]:
        if self.added and (len(self.added) >= MOST_ADDED or self._rng.random() < 0.4):
            name = self._rng.choice(sorted(self.added))
            del self.added[name]
            return [f"ALTER TABLE accounts DROP COLUMN {name}"]
        self._columns += 1
        name, kind = f"extra_{self._columns}", self._rng.choice(("INT", "VARCHAR(40)", "NUMERIC(10,3)"))
        self.added[name] = kind
        return [f"ALTER TABLE accounts ADD COLUMN {name} {kind}", *self._update_accounts(3)]

    # -- values

    def _new_key(self) -> int:
        self._next += 1
        return self._next

    def _taken(self, keys: list[T], count: int) -> list[T]:
        """Taken out of `keys`, which keeps some."""
        return [keys.pop(self._rng.randrange(len(keys))) for _ in range(min(count, len(keys) - 50))]

    def _name(self) -> str:
        return f"{self._rng.choice(NAMES)} {self._rng.randrange(1000)}"[:40]

    def _money(self) -> Decimal | None:
        return None if self._rng.random() < 0.1 else Decimal(self._rng.randrange(-(10**9), 10**9)) / 100

    def _price(self) -> Decimal:
        return Decimal(self._rng.randrange(10**8)) / 100

    def _note(self) -> str | None:
        shape = self._rng.random()
        if shape < 0.3:
            return None
        return self._rng.randbytes(4_000).hex() if shape < 0.4 else f"note {self._rng.randrange(10**6)}"

    def _value(self, kind: str) -> object:
        if self._rng.random() < 0.3:
            return None
        return {"INT": self._rng.randrange(10**6), "VARCHAR(40)": self._name()}.get(
            kind, Decimal(self._rng.randrange(10**9)) / 1000
        )


def literal(value: object) -> str:
    """In SQL, for both databases (no text here has a backslash)."""
    if value is None:
        return "NULL"
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)
