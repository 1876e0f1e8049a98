"""What an operator sees happens on the page, with real workers and a real Redis."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from rollstream import Client, GenerationConfig
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from tests.support.watching.live_page import opened, running_web, violations
from tests.support.weights.versions import publish
from tests.support.worker_process import WorkerProcess

POISON = 999
FLAGS = (
    "--engine", "stub", "--stub-tokens-per-s", "200", "--stub-poison-token", str(POISON), "--max-num-seqs", "32",
    "--lease-s", "2", "--max-deliveries", "1", "--heartbeat-s", "1",
)  # fmt: skip
TOKENS = GenerationConfig(max_new_tokens=400)


@pytest.fixture
def server() -> Iterator[EmbeddedRedis]:
    """A Redis of this test alone, which it stops."""
    with EmbeddedRedis(appendonly=True) as server:
        yield server


class Told:
    """How long after its cause something was shown, kept in the test's report."""

    def __init__(self, test: pytest.Item) -> None:
        self._properties = test.user_properties

    def shown(self, what: str, since: float) -> float:
        seconds = round(time.monotonic() - since, 2)
        self._properties.append((what, seconds))
        return seconds


def test_a_fleet_at_work_and_all_that_befalls_it(
    server: EmbeddedRedis, browser: Browser, policy: str, models: Path, request: pytest.FixtureRequest
) -> None:
    told = Told(request.node)
    with ExitStack() as stack:
        url = stack.enter_context(running_web(server.url, policy, "--allow-actions"))
        page = stack.enter_context(opened(browser, url))
        expect(page.locator("#headline-text")).to_contain_text("Nothing here yet")
        workers = [WorkerProcess(server.url, policy, *FLAGS, "--checkpoint-dir", str(models)) for _ in range(3)]
        for worker in workers:
            stack.callback(worker.end)
        client = stack.enter_context(Client(server.url, policy=policy))
        for worker in workers:
            worker.wait_until_serving()
        client.submit([[5, row] for row in range(2000)], None, TOKENS, batch_id="load", prompts_per_job=4)

        numbers_move(page)
        told.shown("a version that all serve", publish_seen(page, client, models))
        killed_worker_is_late(page, workers[0], told)
        cancelled_by_confirmation(page)
        dead_letter_is_shown(page, client)
        redis_goes_and_comes(page, server, told)


def numbers_move(page: Page) -> None:
    expect(page.locator("#headline-text")).to_contain_text("3 workers serve the model they booted with")
    row = page.locator("#batches tr", has_text="load")
    expect(row).to_contain_text("under way")
    first = row.inner_text()
    expect(row).not_to_have_text(first, use_inner_text=True)
    expect(page.locator("[data-figure=tokens] .value")).not_to_have_text("0")


def publish_seen(page: Page, client: Client, models: Path) -> float:
    publish(client, models, 1)
    since = time.monotonic()
    expect(page.locator("#versions")).to_contain_text("3 of 3 workers")
    expect(page.locator("#headline-text")).to_contain_text("3 workers serve version 1,")
    return since


def killed_worker_is_late(page: Page, worker: WorkerProcess, told: Told) -> None:
    os.kill(worker.process.pid, signal.SIGKILL)
    since = time.monotonic()
    expect(page.locator("#workers")).to_contain_text("late since")
    assert told.shown("a killed worker is late", since) < 20
    expect(page.locator("#headline-text")).to_contain_text("2 of 3 workers serve")


def cancelled_by_confirmation(page: Page) -> None:
    page.get_by_role("button", name="Cancel load").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("This cannot be undone")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(page.locator("#batches")).to_contain_text("under way")

    page.get_by_role("button", name="Cancel load").click()
    page.get_by_role("button", name="Cancel the batch").click()
    expect(page.locator("#said")).to_contain_text("load is cancelled")
    expect(page.locator("#batches tr", has_text="load")).to_contain_text("cancelled")


def dead_letter_is_shown(page: Page, client: Client) -> None:
    """The job kills the worker that takes it; the one that is left finds it and gives it up."""
    client.submit([[POISON]], None, TOKENS, batch_id="poisoned")
    expect(page.locator("#letters")).to_contain_text("poisoned")
    expect(page.locator("#errors")).to_contain_text("too_many_deliveries")
    expect(page.locator("#headline-text")).to_contain_text("1 of ")


def redis_goes_and_comes(page: Page, server: EmbeddedRedis, told: Told) -> None:
    server.stop()
    since = time.monotonic()
    expect(page.locator("#headline-text")).to_contain_text("Redis does not answer since")
    assert told.shown("Redis is away", since) < 20
    expect(page.locator("#workers")).to_contain_text("serving")
    assert violations(page) == []
    server.start()
    since = time.monotonic()
    expect(page.locator("#headline-text")).to_contain_text("serves version 1")
    assert told.shown("Redis is back", since) < 30
