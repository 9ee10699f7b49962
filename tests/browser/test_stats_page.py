"""What a person reads on the stats page, in a real Chromium: rows, lag, errors with their cause, and that it lives."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import httpx
import pytest
from playwright.async_api import Browser, Page, Request, expect
from playwright.async_api import TimeoutError as NothingCame
from workplace import Workplace

from config.errors import Unavailable
from sources.changes import TopicPartition

SECONDS = 1000


async def opened(browser: Browser, place: Workplace, **context: object) -> Page:
    """The stats page in a new window; an error of its script, or a request to elsewhere, fails the test."""
    window = await browser.new_context(viewport={"width": 1360, "height": 900}, **context)  # type: ignore[arg-type]
    page = await window.new_page()
    page.set_default_timeout(15 * SECONDS)
    expect.set_options(timeout=15 * SECONDS)

    def fail(what: object) -> None:
        raise AssertionError(f"the page's script failed: {what}")

    def stays_here(request: Request) -> None:
        if not request.url.startswith((place.url, "data:")):
            fail(request.url)

    page.on("pageerror", fail)
    page.on("request", stays_here)
    await page.goto(f"{place.url}/stats/")
    return page


def cell(page: Page, row: str, column: str) -> str:
    """The selector of a cell of the watermark table, by the words of its row and column."""
    columns = [
        "Next offset",
        "Lag, rows",
        "Lag, time",
        "Rows/s",
        "Rows",
        "Last commit",
        "Files",
        "Snapshot or version",
        "Worker",
    ]
    return f"#progress tr:has(th:has-text('{row}')) td:nth-of-type({columns.index(column) + 1}) >> nth=0"


async def test_rows_lag_and_watermarks_are_shown_and_refresh_by_themselves(
    browser: Browser, workplace: Workplace
) -> None:
    place = workplace
    customers, orders = place.topics
    await place.create_topics(2)
    await place.start_pipeline()
    await place.assign(0, 1)
    await place.deliver(customers, 0, 1000)
    page = await opened(browser, place)
    await expect(page.locator("#state")).to_have_text("running")
    await expect(page.locator("#state-text")).to_have_text("all changes are in the tables")
    await expect(page.locator("h1")).to_have_text("shop")
    await expect(page.locator("#partitions")).to_have_text("4 of 4")
    # twice 980: each of the two sinks has them, and 20 of 1,000 records are no change
    await expect(page.locator("#rate-note")).to_have_text("1,960 rows in 2 commits here")
    await expect(page.locator(cell(page, "partition 0", "Next offset"))).to_have_text("1,000")
    await expect(page.locator(cell(page, "partition 0", "Rows"))).to_have_text("980")
    await expect(page.locator(cell(page, "partition 0", "Lag, rows"))).to_have_text("0")
    await expect(page.locator("#progress tr.group >> nth=0").locator("td >> nth=6")).to_have_text("44 + 12, 25 MiB")
    decoding = page.locator(f"#topics tr:has-text('{customers}')")
    await expect(decoding).to_contain_text("20 tombstone")

    await place.produce(customers, 0, 345)  # nobody fetches these
    await expect(page.locator("#state-text")).to_have_text("690 rows to write")
    await expect(page.locator("#lag")).to_have_text("690 rows")
    await expect(page.locator(cell(page, "partition 0", "Lag, rows"))).to_have_text("345")

    await place.deliver(orders, 1, 50)
    group = f"#progress tbody:has-text('{orders}')"
    await expect(page.locator(f"{group} >> nth=0").locator("tr", has_text="partition 1")).to_contain_text("49")


async def test_error_is_shown_with_its_cause_and_without_secrets_until_a_commit_lands(
    browser: Browser, workplace: Workplace
) -> None:
    place = workplace
    await place.create_topics(1)
    await place.start_pipeline()
    await place.assign(0)
    page = await opened(browser, place)
    await expect(page.locator("#state")).to_have_text("running")

    away = Unavailable("s3://lake/lake at http://admin:geheim@127.0.0.1:9000: the store doesn't answer")
    away.__cause__ = ConnectionRefusedError(111, "Connection refused, password hunter2-secret")
    for destination in place.destinations["lake"]:
        destination.away = away
    await place.deliver(place.topics[0], 0, 10)
    card = page.locator("article", has_text="lake").first
    await expect(card.locator(".pill")).to_have_text("retrying")
    await expect(card.locator(".problem")).to_contain_text("the store doesn't answer")
    await expect(card.locator(".problem")).to_contain_text("ConnectionRefusedError: [Errno 111] Connection refused")
    await expect(page.locator("#state")).to_have_text("retrying")
    await expect(page.locator("#state-text")).to_contain_text("can't be written, trying again: lake")
    await expect(page.locator("article", has_text="archive").locator(".pill")).to_have_text("running")
    assert await page.locator(".problem:visible").count() == 1
    for secret in ("hunter2-secret", "geheim"):
        assert secret not in await page.content()

    for destination in place.destinations["lake"]:
        destination.away = None
    await expect(card.locator(".pill")).to_have_text("running")
    await expect(card.locator(".problem")).to_contain_text("Last error, over since")


async def test_worker_that_does_not_answer_is_said_and_comes_back(browser: Browser, workplace: Workplace) -> None:
    page = await opened(browser, workplace)
    await expect(page.locator("#live")).to_contain_text("live")
    await page.context.set_offline(True)
    await expect(page.locator("#silence")).to_contain_text("The worker doesn't answer")
    await expect(page.locator("#live")).to_have_text("no answer")
    assert "no answer" in await page.title()
    await page.context.set_offline(False)
    await expect(page.locator("#silence")).to_be_hidden()
    await expect(page.locator("#live")).to_contain_text("live")


async def test_topics_that_are_waited_for_are_named(browser: Browser, workplace: Workplace) -> None:
    page = await opened(browser, workplace)
    await expect(page.locator("#state")).to_have_text("starting")
    await workplace.start_pipeline()
    await expect(page.locator("#state")).to_have_text("waiting")
    for topic in workplace.topics:
        await expect(page.locator("#empty")).to_contain_text(topic)
    await expect(page.locator("#topics")).to_contain_text("not there yet")
    await expect(page.locator("#lag")).to_have_text("–")


async def test_forty_partitions_of_several_workers_stay_readable(browser: Browser, workplace: Workplace) -> None:
    place = workplace
    customers, _ = place.topics
    await place.create_topics(40)
    await place.start_pipeline()
    await place.assign(*range(20))
    await place.deliver(customers, 0, 200)
    place.another_worker_committed("lake", TopicPartition(customers, 33), 0, timedelta(minutes=3))
    page = await opened(browser, place)
    await expect(page.locator("#partitions")).to_have_text("40 of 80")
    group = page.locator("#progress tbody", has_text=customers).filter(has_text="→ lake")
    button = group.get_by_role("button")
    await expect(button).to_have_attribute("aria-expanded", "false")
    await expect(group).to_contain_text("20 here")
    await expect(page.locator("tr.part")).to_have_count(0)
    await button.focus()
    await page.keyboard.press("Enter")  # by keyboard, and the focus survives the redraws
    await expect(group.locator("tr.part")).to_have_count(40)
    elsewhere = group.locator("tr", has_text="partition 33")
    await expect(elsewhere).to_contain_text("4611…7905")
    await expect(elsewhere.get_by_title("4611686018427387905")).to_be_visible()  # the exact snapshot id
    wide, room = await page.locator("#watermarks .scroll").evaluate("node => [node.scrollWidth, node.clientWidth]")
    assert wide <= room  # nothing of the table is out of sight
    await expect(elsewhere).to_contain_text("3 min ago")
    await expect(elsewhere).to_contain_text("elsewhere")
    await expect(button).to_be_focused()
    await page.get_by_label("Find").fill("archive")
    await expect(page.locator("#progress tbody")).to_have_count(2)
    await page.get_by_label("Find").fill("no such thing")
    await expect(page.locator("#empty")).to_have_text("Nothing fits what you look for.")


async def test_hidden_tab_asks_nothing(browser: Browser, workplace: Workplace) -> None:
    page = await opened(browser, workplace)
    await expect(page.locator("#live")).to_contain_text("live")
    await page.evaluate(
        """() => { Object.defineProperty(document, 'hidden', { value: true, configurable: true });
                   document.dispatchEvent(new Event('visibilitychange')); }"""
    )
    await expect(page.locator("#live")).to_have_text("paused")
    with pytest.raises(NothingCame):  # none for three periods
        async with page.expect_request("**/api/stats", timeout=3 * SECONDS):
            pass
    async with page.expect_request("**/api/stats"):
        await page.evaluate("() => { delete document.hidden; document.dispatchEvent(new Event('visibilitychange')); }")


async def test_probes_and_metrics_answer(workplace: Workplace) -> None:
    place = workplace
    customers, _ = place.topics
    async with httpx.AsyncClient(base_url=place.url) as http:
        assert (await http.get("/healthz")).status_code == 200
        answer = await http.get("/readyz")
        assert answer.status_code == 503, "a worker without a pipeline isn't ready"
        await place.create_topics(1)
        await place.start_pipeline()
        await place.assign(0)
        await place.deliver(customers, 0, 100)
        await _until_everything_is_committed(http)
        answer = await http.get("/readyz")
        assert answer.status_code == 200, answer.text
        ready = answer.json()
        assert ready["pipeline_id"] == "shop"
        assert ready["source"]["connector"]["state"] == "UNREACHABLE"
        assert ready["sinks"] == [{"sink_id": s, "status": "running"} for s in ("lake", "archive")]
        assert ready["consumer_lag"][0] == {"topic": customers, "partition": 0, "lag": 0, "offset": 100}
        metrics = (await http.get("/metrics")).text
        assert f'lakeward_rows_total{{sink="lake",topic="{customers}",partition="0"}} 98\n' in metrics
        assert f'lakeward_decode_skipped_total{{topic="{customers}",kind="tombstone"}} 2\n' in metrics
        place.destinations["lake"][0].away = Unavailable("away")
        await place.deliver(customers, 0, 100)
        async with asyncio.timeout(15):
            while (await http.get("/readyz")).status_code == 200:
                pass
        status = (await http.get("/readyz")).json()["sinks"][0]
        assert status == {"sink_id": "lake", "status": "retrying", "error": "Unavailable: away"}
        redirect = await http.get("/stats")
        assert (redirect.status_code, redirect.headers["location"]) == (308, "stats/")
        for path in ("/api/stats", "/readyz", "/metrics", "/stats/"):
            assert "hunter2" not in (await http.get(path)).text


async def _until_everything_is_committed(http: httpx.AsyncClient) -> None:
    async with asyncio.timeout(15):
        while True:
            sinks = (await http.get("/api/stats")).json()["sinks"]
            totals = [sink["totals"] for sink in sinks]
            if all(t["commits"] and t["lag_rows"] == t["lag_unknown"] == 0 for t in totals):
                return
