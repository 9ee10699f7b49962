"""Writes docs/types.md: `python -m app.types_page`."""

from __future__ import annotations

from app.types_page import PAGE, page

PAGE.write_text(page(), encoding="utf-8")
