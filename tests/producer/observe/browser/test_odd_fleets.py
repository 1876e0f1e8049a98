"""Fleets that are large, hostile, empty or unknown are shown as well as any other."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from rollstream import Client, GenerationConfig
from tests.support.faults import Queue
from tests.support.watching.live_page import opened, running_web, scrolls_sideways, violations
from tests.support.weights.publishing import reporting

MARKUP = '<img src=x onerror="document.title=1"><script>alert(2)</script>\x1b[31m'
LONG = MARKUP + "W" * 10_000


@pytest.mark.keys_by_hand
def test_hostile_names_are_text_and_break_nothing(
    browser: Browser, redis_url: str, policy: str, queue: Queue, server: Any
) -> None:
    now = str(time.time())
    for n, text in enumerate((MARKUP, LONG)):
        name = f"{MARKUP}{n}"
        reporting(queue, name, 2, model=text, engine=text, seen_at=now, newest_version="3", policy_error=text)
    server.hset(queue.keys.history(int(time.time() // 60)), mapping={f"error:{LONG}": 3, "error:__proto__": 1})

    with running_web(redis_url, policy, token="") as url:
        for width in (1300, 360):
            with opened(browser, url, token="", width=width) as page:
                expect(page.locator("#workers")).to_contain_text(MARKUP[:40])
                expect(page.locator("#workers")).to_contain_text("\\x1b")
                expect(page.locator("#errors")).to_contain_text("__proto__")
                assert page.locator("main img, main script").count() == 0
                assert page.title() != "1"
                assert not scrolls_sideways(page)
                assert height_of(page, "#workers") < 1200


def height_of(page: Page, selector: str) -> float:
    box = page.locator(selector).bounding_box()
    assert box is not None
    return box["height"]


def test_five_hundred_workers_stay_rows_that_change_in_place(
    browser: Browser, redis_url: str, policy: str, queue: Queue
) -> None:
    for n in range(500):
        reporting(queue, f"worker-{n}", 7, seen_at=str(time.time()), tokens_per_s=str(n))
    with running_web(redis_url, policy, token="") as url, opened(browser, url, token="") as page:
        rows = page.locator("#workers tbody tr")
        expect(rows).to_have_count(50)
        page.get_by_role("button", name="Show all 500").click()
        expect(rows).to_have_count(500)
        expect(page.get_by_role("button", name="Drain")).to_have_count(0)  # this server allows no actions
        rows.first.evaluate("row => { row.dataset.mine = row.cells[0].textContent }")
        page.get_by_role("button", name="Tokens/s", exact=True).click()
        expect(rows.first).to_contain_text("worker-499")
        expect(page.get_by_role("columnheader", name="Tokens/s")).to_have_attribute("aria-sort", "descending")
        reporting(queue, "worker-499", 7, seen_at=str(time.time()), tokens_per_s="12345")
        expect(rows.first).to_contain_text("12,345")
        marked = page.locator("[data-mine]")
        assert marked.locator("th").text_content() == marked.get_attribute("data-mine")


def test_nothing_submitted_yet_shows_how_to_begin_in_the_theme_that_was_chosen(
    browser: Browser, redis_url: str, policy: str
) -> None:
    with running_web(redis_url, policy, token="") as url, opened(browser, url, token="", width=360) as page:
        expect(page.locator("#start")).to_contain_text(f"rollstream submit - --policy {policy} --redis {redis_url}")
        expect(page.locator("#start")).to_contain_text("rollstream-worker --policy")
        expect(page.locator("#workers")).to_be_hidden()
        assert violations(page) == []
        assert not scrolls_sideways(page)

        root = page.locator("html")
        for words, theme in (("Theme: light", "light"), ("Theme: dark", "dark")):
            page.get_by_role("button", name="Theme").click()
            expect(page.get_by_role("button", name=words)).to_be_visible()
            expect(root).to_have_attribute("data-theme", theme)
        page.reload()
        expect(root).to_have_attribute("data-theme", "dark")
        page.get_by_role("button", name="Theme: dark").click()
        expect(page.get_by_role("button", name="Theme: as the system")).to_be_visible()


def test_jobs_without_a_worker_are_what_the_first_line_is_about(
    browser: Browser, redis_url: str, policy: str, client: Client
) -> None:
    client.submit([[5]], None, GenerationConfig(max_new_tokens=4), batch_id="waits")
    with running_web(redis_url, policy, token="") as url, opened(browser, url, token="") as page:
        expect(page.locator("#headline-text")).to_contain_text("No worker: 1 job waits, the oldest for")
        expect(page.locator("#batches")).to_contain_text("waits")


def test_a_redis_that_was_never_there_and_a_server_that_ended_are_said(browser: Browser, policy: str) -> None:
    with ExitStack() as server:
        url = server.enter_context(running_web("redis://127.0.0.1:1/0", policy, token=""))
        with opened(browser, url, token="", may_fail="ERR_") as page:
            expect(page.locator("#headline-text")).to_contain_text("Redis does not answer since")
            expect(page.locator("#headline-why")).to_contain_text("127.0.0.1:1")

            server.close()
            expect(page.locator("#headline-text")).to_contain_text("The server of this page does not answer since")
