"""Writes the shipped schemas anew, and in a checkout the tables of docs/configuration.md."""

from __future__ import annotations

from config.schemas import FOLDER, SCHEMAS, render_schema
from config.schemas.tables import insert_tables

for name, model in SCHEMAS.items():
    (FOLDER / name).write_text(render_schema(model), encoding="utf-8")

page = FOLDER.parent.parent / "docs" / "configuration.md"
if page.exists():
    page.write_text(insert_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
