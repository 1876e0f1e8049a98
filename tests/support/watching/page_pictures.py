"""Make the pictures of the live page that the documents show, of invented fleets, in a real Chromium:
`python -m tests.support.watching.page_pictures`.
"""

from __future__ import annotations

import asyncio
import io
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.async_api import Browser, async_playwright, expect

from rollstream.producer.observe.fleet import Fleet, FleetBatch, FleetVersion, FleetWorker, Presence
from rollstream.producer.operations.queue_state import QueueSeen
from rollstream.producer.redis_io.connection import Connection
from rollstream.schemas import Keys
from rollstream.schemas.hashes.history import Minute, Rate
from rollstream.schemas.hashes.worker_report import WorkerReport
from tests.support.watching.fleets import backlog_lasting
from tests.support.watching.invented_fleet import InventedReader, invented_fleet
from tests.support.watching.live_page import CHROMIUM, FLAGS, Theme
from tests.support.watching.served_page import served
from tests.support.worker_process import ROOT

FOLDER = ROOT / "docs" / "images"
MODEL = "Qwen2.5-1.5B-Instruct"
NAMES = tuple(f"gpu-node-{n}" for n in range(1, 5))


def worker(number: int, presence: Presence = Presence.LIVE, seen_s_ago: float = 0.3, **said: Any) -> FleetWorker:
    chance = random.Random(number)
    plain: dict[str, Any] = {
        "state": "serving",
        "engine": "vllm",
        "model": MODEL,
        "policy_version": 17,
        "newest_version": 17,
        "running_groups": chance.randint(20, 31),
        "waiting_groups": chance.randint(0, 9),
        "running_sequences": chance.randint(190, 256),
        "max_sequences": 256,
        "tokens_per_s": chance.uniform(12_400, 13_900),
        "groups_published": chance.randint(20_000, 21_000),
        "groups_failed": 0,
        "lease_s": 30.0,
        "heartbeat_s": 1.0,
    }
    name = NAMES[number]
    return FleetWorker(consumer=name, presence=presence, seen_s_ago=seen_s_ago, report=WorkerReport(**plain | said))


def hour(now: float) -> tuple[tuple[int, Minute], ...]:
    """Full speed, but for a swap of weights every six minutes."""
    last, chance = int(now // 60), random.Random(5)
    minutes = []
    for minute in range(last - 59, last + 1):
        tokens = chance.uniform(50_000, 54_000) * (0.86 if minute % 6 == 0 else 1) * min(60.0, now - minute * 60)
        groups = int(tokens / 3_300)
        stale = {0: int(groups * 0.93), 1: int(groups * 0.06), 2: int(groups * 0.01)}
        minutes.append((minute, Minute(groups=groups, sequences=8 * groups, tokens=int(tokens), staleness=stale)))
    return tuple(minutes)


def at_work() -> Fleet:
    now = time.time()
    queue = QueueSeen(partition=0, entries=980, waiting=42, pending=16, oldest_waiting_s=21.0, dead_letters=0)
    versions = tuple(
        FleetVersion(
            version=17 - n,
            source="checkpoint",
            location=f"step-{17 - n}",
            announced_s_ago=140.0 + 360.0 * n,
            served_by=NAMES if n == 0 else (),
            refused_by=(),
            reached_all_s=3.7 + 0.2 * (n % 3),
        )
        for n in range(6)
    )
    batches = tuple(
        FleetBatch(
            batch_id=f"grpo-step-{212 - n}",
            submitted_s_ago=14.0 + 118.0 * n,
            groups=256,
            done=min(256, 37 + 140 * n),
            cancelled=False,
            left_s=(190.0, 60.0, 0.0)[min(n, 2)],
        )
        for n in range(6)
    )
    return replace(
        invented_fleet(),
        read_at=now,
        queues=(queue,),
        open_tokens=9_800_000,
        backlog=backlog_lasting(185.0),
        rate=Rate(tokens_per_s=13_100.0, mean_length=410.0, answers=1000, share=0.4),
        minutes=hour(now),
        workers=tuple(worker(n, seen_s_ago=0.2 + 0.2 * n) for n in range(4)),
        versions=versions,
        batches=batches,
        num_batches=212,
        letters=(),
        num_letters=0,
        redis_memory=612 * 2**20,
        redis_memory_limit=4 * 2**30,
    )


def in_trouble() -> Fleet:
    fleet = at_work()
    why = "model.layers.0.self_attn.q_proj.weight: shape (2048, 2048) was announced, the model has (1536, 1536)"
    workers = (
        worker(0),
        worker(1, Presence.LATE, 4.2),
        worker(2, newest_version=18, policy_error=why),
        worker(3, newest_version=18, loading_version=18),
    )
    refused = replace(fleet.versions[0], version=18, announced_s_ago=9.0, served_by=(), refused_by=(NAMES[2],))
    refused = replace(refused, location="step-18", reached_all_s=None)
    return replace(fleet, workers=workers, versions=(refused, *fleet.versions))


def nothing_yet() -> Fleet:
    idle = QueueSeen(partition=0, entries=0, waiting=0, pending=0, oldest_waiting_s=None, dead_letters=0)
    none: dict[str, Any] = dict.fromkeys(("workers", "versions", "batches", "letters", "minutes"), ())
    return replace(
        invented_fleet(),
        queues=(idle,),
        num_batches=0,
        num_letters=0,
        open_tokens=0,
        backlog=backlog_lasting(0.0),
        **none,
    )


async def picture(
    browser: Browser, fleet: Fleet, name: str, *, theme: Theme, width: int, height: int, scale: float = 1.5
) -> Path:
    """The top of the page, in a window of this size in CSS pixels."""
    connection = Connection(access="redis://redis:6379/0", reconnect_s=0)
    async with served(reader=InventedReader(fleet), connection=connection, keys=Keys("math-7b")) as server:
        context = await browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=theme, device_scale_factor=scale
        )
        page = await context.new_page()
        await page.goto(f"http://127.0.0.1:{server.port}/")
        await expect(page.locator("#reading")).to_contain_text("live", timeout=30_000)
        taken = await page.screenshot()
        await context.close()
    path = FOLDER / name
    few = Image.open(io.BytesIO(taken)).convert("RGB").quantize(256, kmeans=8, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    return path


async def main() -> None:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS])
        await picture(browser, at_work(), "page-light.png", theme="light", width=1180, height=1010)
        await picture(browser, in_trouble(), "page-dark.png", theme="dark", width=1180, height=1010)
        await picture(browser, in_trouble(), "page-phone.png", theme="light", width=360, height=780, scale=2)
        await picture(browser, nothing_yet(), "page-empty.png", theme="light", width=960, height=400)
        await browser.close()


if __name__ == "__main__":
    asyncio.run(main())
