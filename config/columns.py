"""`source.columns`: what a pipeline says of single columns."""

from __future__ import annotations

from typing import Literal

from config.model import Model


class ColumnConfig(Model):
    """`source.columns.<table>.<column>`: a column's type, and what becomes of values that a lake table can't hold."""

    type: str | None = None
    """Its type as the database writes it (`numeric(10,2)`, `timestamptz`, `int unsigned`), for JSON without schema. A
    table with one declared type has to declare all its columns; with none, the source's catalogue is asked."""
    misfit: Literal["dead_letter", "error", "set_null", "text"] = "dead_letter"
    """What becomes of a value that the lake's type can't hold (infinity, 24:00:00, a year beyond 9999): its record goes
    to the dead letters, the pipeline stops, the value becomes null, or the whole column is kept as text."""
    accept_loss: bool = False
    """Capture the column although Debezium changes its values on the way; `cdc deploy` says how, and refuses it."""
