"""`schema_evolution` of a lake sink: what becomes of a table when its source's schema changes."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from config.model import Model

Policy = Literal["evolve", "lenient", "freeze", "quarantine", "stop"]
KeyPolicy = Literal["quarantine", "stop"]
Kind = Literal["add", "drop", "rename", "widen", "narrow", "type", "nullability", "key"]


class SchemaEvolution(Model):
    """`schema_evolution`: a policy per kind of change; one word instead of the keys stands for all of them."""

    add: Policy = "evolve"
    """Records have a column that the table lacks. `freeze` leaves it out."""
    drop: Policy = "lenient"
    """A new schema lacks a column of the table: the column stays, and is null in new rows."""
    rename: Policy = "lenient"
    """A new schema lacks a column and brings another one of its type, which may be the same one under a new name. Both
    are kept; `freeze` leaves the new one out."""
    widen: Policy = "evolve"
    """A column's new type holds all values of the table's. `evolve` widens it in place, or stops where the format
    can't; `lenient` keeps both types, the new one in a column `{column}__{type}`; `freeze` writes values that fit."""
    narrow: Policy = "evolve"
    """A column's new type is narrower than the table's, which stays."""
    type: Policy = "stop"
    """A column has another type, also after it was dropped and added again. `lenient` and `evolve` keep both, the new
    one in a column `{column}__{type}`; `freeze` stops."""
    nullability: Policy = "evolve"
    """A column that is required in the table may be null in the records: it becomes optional. `freeze` stops."""
    key: KeyPolicy = "stop"
    """The primary key of an upsert table has other columns, or (in topics with several partitions) other types."""

    @property
    def sets_aside(self) -> bool:
        """Whether records of some kind of change go to the dead letters."""
        return "quarantine" in self.model_dump().values()

    @model_validator(mode="before")
    @classmethod
    def _one_word(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value not in get_args(Policy):
            raise ValueError(f"is one of {', '.join(get_args(Policy))}, or a policy per kind of change")
        kinds = [kind for kind in get_args(Kind) if kind != "key" or value in get_args(KeyPolicy)]
        return dict.fromkeys(kinds, value)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        by_kind = handler.resolve_ref_schema(handler(core))
        return {"anyOf": [by_kind, {"enum": list(get_args(Policy))}]}
