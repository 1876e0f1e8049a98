"""The live page in a real browser: `rollstream web` as a process, a headless Chromium, and what a page may not do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Playwright

from rollstream.producer.demo.embedded_redis import die_with_parent
from tests.support.worker_process import ROOT

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
    "--disable-background-networking", "--disable-sync",
)  # fmt: skip
Theme = Literal["light", "dark"]
TOKEN = "a-token-of-some-length"
WAIT_MS = 30_000
"""So long a page may take to show something: the machine may be busy."""


def start_chromium(playwright: Playwright) -> Browser:
    """The Chromium of this machine."""
    assert CHROMIUM is not None
    return playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS])


@contextmanager
def running_web(redis_url: str, policy: str, *flags: str, token: str = TOKEN) -> Iterator[str]:
    """`rollstream web` at a free port; its URL. With an empty `token` nobody needs one."""
    command = [sys.executable, "-m", "rollstream", "web", "--policy", policy, "--redis", redis_url, "--port", "auto"]
    given = {"ROLLSTREAM_WEB_TOKEN": token} if token else {}
    process = subprocess.Popen(
        [*command, *flags],
        cwd=ROOT,
        env={**os.environ, **given},
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        preexec_fn=die_with_parent(),
    )
    with process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


@contextmanager
def opened(
    browser: Browser,
    url: str,
    *,
    token: str = TOKEN,
    width: int = 1300,
    height: int = 900,
    theme: Theme = "light",
    may_fail: str = "",
) -> Iterator[Page]:
    """A page in a profile of its own, logged in.

    Fails at the end where the page asked another host, or wrote an error to its console without the text `may_fail`.
    """
    wrong: list[str] = []
    with browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=theme, reduced_motion="reduce"
    ) as context:
        context.set_default_timeout(WAIT_MS)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda asked: None if is_ours(asked.url, url) else wrong.append(asked.url))
        page.goto(url)
        if token:
            log_in(page, token)
        yield page
    grave = [text for text in wrong if not (may_fail and may_fail in text)]
    assert grave == [], f"the page did wrong: {grave}"


def log_in(page: Page, token: str = TOKEN) -> None:
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Log in").click()


def is_ours(asked: str, url: str) -> bool:
    return urlsplit(asked).scheme == "data" or urlsplit(asked).netloc == urlsplit(url).netloc


def violations(page: Page) -> list[str]:
    """What axe finds serious or critical."""
    found: list[dict[str, Any]] = Axe().run(page).response["violations"]
    grave = [one for one in found if one["impact"] in {"serious", "critical"}]
    return [f"{one['id']}: {node['html'][:200]}" for one in grave for node in one["nodes"]]


def scrolls_sideways(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"))
