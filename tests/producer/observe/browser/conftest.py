"""One Chromium for the tests of this folder. It is closed before others run: its loop would be in their way."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.support.watching.live_page import CHROMIUM, WAIT_MS, start_chromium


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on PATH: apt-get install chromium")
    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as playwright, start_chromium(playwright) as browser:
        yield browser
