"""A real browser, and a worker's pages to read with it (`workplace.py`)."""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, async_playwright

from stack.manager import Endpoint

sys.path.insert(0, str(Path(__file__).parent))

from workplace import Workplace, open_workplace

SWITCHES = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync"
)


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """Debian's Chromium."""
    executable = shutil.which("chromium")
    assert executable, "the browser tests need Chromium: apt-get install -y --no-install-recommends chromium"
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=executable, args=SWITCHES.split())
        yield chromium
        await chromium.close()


@pytest.fixture
async def workplace(kafka: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Workplace]:
    """The pages of a worker whose destinations are in memory."""
    async with open_workplace(kafka.address, tmp_path) as place:
        yield place
