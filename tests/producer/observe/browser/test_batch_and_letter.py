"""A batch's page and a dead letter's page show all that is kept, and each page is fit for screen readers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from rollstream import Client, GenerationConfig
from tests.support.dead_letters import bury, letter_of
from tests.support.faults import Queue
from tests.support.watching.live_page import Theme, log_in, opened, running_web, scrolls_sideways, violations
from tests.support.worker_process import running_worker

CONFIG = GenerationConfig(max_new_tokens=8, num_return_sequences=2, temperature=0.7)
POLICY = "two-pages"


@pytest.fixture(scope="module")
def letter(redis_url: str) -> Iterator[str]:
    """A batch that is done, one group of which failed, and a dead letter; the letter's place in URLs."""
    with Client(redis_url, policy=POLICY) as client, Queue(redis_url, POLICY) as queue:
        with running_worker(redis_url, POLICY, "--engine", "stub", "--stub-vocab-size", "1000"):
            rows = [*([5, row] for row in range(119)), [5000]]
            client.submit(rows, None, CONFIG, batch_id="mixed", prompts_per_job=40).result(timeout=60)
        fields = ((b"batch", b"mixed"), (b"job", b"0"))
        yield f"0/{bury(queue, letter_of(POLICY, fields=fields), b'no job')}"


@pytest.fixture(scope="module")
def url(redis_url: str, letter: str) -> Iterator[str]:
    with running_web(redis_url, POLICY, "--allow-actions") as url:
        yield url


def test_a_batch_shows_its_groups_and_one_of_them_whole(browser: Browser, url: str) -> None:
    with opened(browser, url) as page:
        page.locator("#batches").get_by_role("link", name="mixed").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Batch mixed")
        expect(page.locator("main")).to_contain_text("Done: 120 groups.")
        expect(page.locator("#config")).to_contain_text("temperature")
        rows = page.locator("#groups tbody tr")
        expect(rows).to_have_count(100)
        page.get_by_role("link", name="Next 100").click()
        expect(rows).to_have_count(20)
        expect(rows.last).to_contain_text("error: token_out_of_vocabulary")
        assert violations(page) == []

        page.get_by_role("button", name="Show group 103", exact=True).click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("in delivery 1 of entry")
        expect(dialog).to_contain_text("Completion 1, 8 tokens, it reached max_new_tokens, version 0")
        assert violations(page) == []
        page.keyboard.press("Escape")
        expect(page.get_by_role("button", name="Show group 103", exact=True)).to_be_focused()


def test_a_dead_letter_says_what_happened_and_what_to_do(browser: Browser, url: str, letter: str) -> None:
    with opened(browser, url, may_fail="409") as page:
        page.locator("#letters tbody a").first.click()
        expect(page.get_by_role("heading", level=1)).to_have_text(f"Dead letter {letter}")
        expect(page.locator("main")).to_contain_text("DataError: given up after 3 deliveries")
        expect(page.locator("#traceback")).to_contain_text("boom")
        expect(page.locator("#advice")).to_contain_text(f"rollstream dead requeue {letter} --policy {POLICY}")
        expect(page.locator("#facts")).to_contain_text("gpu-7")
        assert violations(page) == []

        page.get_by_role("button", name="Queue again").click()
        page.get_by_role("dialog").get_by_role("button", name="Queue again").click()
        expect(page.locator("#said")).to_contain_text(f"dead letter {letter} cannot be queued again")


def test_what_is_not_there_is_said(browser: Browser, url: str) -> None:
    with opened(browser, f"{url}batches/nobody", token="", may_fail="404") as page:
        assert violations(page) == []
        log_in(page)
        expect(page.get_by_role("heading", level=1)).to_have_text("There is no such batch")
        page.goto(f"{url}letters/0/1-1")
        expect(page.get_by_role("heading", level=1)).to_have_text("There is no such dead letter")
        page.get_by_role("link", name="To the overview").click()
        expect(page.locator("#batches")).to_contain_text("mixed")


@pytest.mark.parametrize(("theme", "width"), [("light", 1300), ("dark", 360)])
def test_the_overview_is_fit_for_screen_readers_and_phones(
    browser: Browser, url: str, theme: Theme, width: int
) -> None:
    with opened(browser, url, theme=theme, width=width) as page:
        expect(page.locator("#letters")).to_contain_text("DataError")
        assert violations(page) == []
        assert not scrolls_sideways(page)
        assert focus_order(page, 2) == ["Skip to content", "Rollstream"]


def focus_order(page: Page, steps: int) -> list[str]:
    """What the Tab key comes to from the top of the page."""
    page.evaluate("document.activeElement.blur()")
    found = []
    for _ in range(steps):
        page.keyboard.press("Tab")
        found.append(str(page.evaluate("document.activeElement.textContent")))
    return found
