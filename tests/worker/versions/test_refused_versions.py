"""A version that cannot be verified is refused by name, looked at again, and never served instead of a good one."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from redis.asyncio import Redis
from safetensors.torch import load_file, save_file
from structlog.testing import capture_logs
from typer.testing import CliRunner

from rollstream import Client
from rollstream.producer.cli.app import app as commands
from rollstream.producer.demo.tiny_model import write_model
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.versions.retries import CHANGED_S, is_due, refusal
from rollstream.worker.weights import checkpoint
from tests.support.fault_steps import (
    stub,
    stub_flags,
    tokens,
    wait_until_done,
)
from tests.support.faults import Queue
from tests.support.weights.versions import (
    announce,
    follower_of,
    publish,
    report,
    shard,
    spans,
    wait_until_refused,
    wait_until_reported,
    wait_until_serves,
)
from tests.support.worker_process import WorkerProcess, until_true, wait_for

SEEN_S = 8.0
"""Within which a version that has just become complete is served: two looks at its files are two seconds apart, two
loads without a look ten.
"""


def worker_row(redis_url: str, policy: str) -> str:
    """What `rollstream status` shows of the only worker."""
    shown = CliRunner(env={"COLUMNS": "200"}).invoke(commands, ["status", "--policy", policy, "--redis", redis_url])
    return shown.stdout


FILES: checkpoint.Stamp = (("model.safetensors", 5, 7),)


@pytest.mark.parametrize(
    ("now", "stamp", "due"),
    [(101, None, False), (102, None, True), (102, FILES, False), (102, (), True), (109, FILES, False),
     (110, None, True), (110, FILES, True)],
)  # fmt: skip
def test_a_refused_version_is_looked_at_every_2_s_and_loaded_when_its_files_change_or_in_10_s(
    now: float, stamp: checkpoint.Stamp | None, due: bool
) -> None:
    refused = refusal(None, "why", FILES, 100)

    assert is_due(refused, now, stamp) == due
    assert is_due(None, now, stamp)


def test_each_refusal_of_the_same_files_waits_twice_as_long_up_to_5_minutes() -> None:
    refused, waits = None, []
    for _ in range(7):
        refused = refusal(refused, "why", FILES, 100)
        waits.append(refused.retry_at - 100)

    assert waits == [10, 20, 40, 80, 160, 300, 300]
    assert refusal(refused, "why", (), 100).retry_at == 110


def wrong_digest(client: Client, queue: Queue, root: Path, version: int) -> None:
    announce(queue, version, "step-1", "ab" * 32)


def changed_since(client: Client, queue: Queue, root: Path, version: int) -> None:
    folder = shutil.copytree(root / "step-1", root / f"changed-{version}")
    client.publish_policy(version, checkpoint=folder)
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-3, os.SEEK_END)
        file.write(b"\x77")


def half_written(client: Client, queue: Queue, root: Path, version: int) -> None:
    folder = shutil.copytree(root / "step-1", root / f"half-{version}")
    os.truncate(folder / "model.safetensors", 10_000)
    announce(queue, version, folder.name, checkpoint.digest(folder))


def diverged(client: Client, queue: Queue, root: Path, version: int) -> None:
    folder = Path(shutil.copytree(root / "step-1", root / f"diverged-{version}"))
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][3] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    announce(queue, version, folder.name, checkpoint.digest(folder))


def left_over(client: Client, queue: Queue, root: Path, version: int) -> None:
    """A whole model saved into a copy of a sharded one, whose index still names the shards."""
    folder = shard(Path(shutil.copytree(root / "step-1", root / f"left-over-{version}")))
    shutil.copy(root / "step-2" / "model.safetensors", folder)
    announce(queue, version, folder.name, checkpoint.digest(folder))


def wrong_shape(client: Client, queue: Queue, root: Path, version: int) -> None:
    client.publish_policy(version, checkpoint=write_model(root / f"other-{version}", vocab_size=300, tokenizer=False))


def no_folder(client: Client, queue: Queue, root: Path, version: int) -> None:
    announce(queue, version, "nowhere")


def a_path(client: Client, queue: Queue, root: Path, version: int) -> None:
    announce(queue, version, "../steps/step-1")


def garbage(client: Client, queue: Queue, root: Path, version: int) -> None:
    queue.redis.xadd(queue.keys.versions(), {"payload": b"\xff\x00"}, id=f"{version}-0")


def another_number(client: Client, queue: Queue, root: Path, version: int) -> None:
    announce(queue, version, "step-1", says=77)


def an_adapter(client: Client, queue: Queue, root: Path, version: int) -> None:
    announce(queue, version, "math@1", source="adapter")


REFUSED: list[tuple[Any, str]] = [
    (an_adapter, "publish one kind only"),
    (wrong_digest, "not those that were published"),
    (changed_since, "not those that were published"),
    (half_written, "truncated"),
    (diverged, "model.norm.weight has a weight that is NaN or infinite"),
    (left_over, "model.safetensors: is not named by model.safetensors.index.json"),
    (wrong_shape, "vocab_size is 300, the worker's model has 512"),
    (no_folder, "no folder of that name directly below this worker's --checkpoint-dir"),
    (a_path, "is not usable"),
    (garbage, "cannot be read"),
    (another_number, "that of version 77"),
]


def test_what_cannot_be_verified_is_refused_by_name_and_the_old_version_serves(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path, tiny_model: Path
) -> None:
    flags = ("--checkpoint-dir", str(steps), "--model", str(tiny_model))
    with stub(redis_url, policy, *flags) as worker:
        publish(client, steps, 1)
        wait_until_serves(worker, queue, 1)
        for version, (harm, why) in enumerate(REFUSED, start=10):
            harm(client, queue, steps, version)
            wait_until_refused(worker, queue, version, why)
            batch = client.submit([[5]], None, tokens())
            wait_until_done(queue, batch.batch_id, 1, worker)
            assert spans(redis_url, queue, batch.batch_id, 1) == [((1, 10),)], harm
        client.publish_policy(50, checkpoint=steps / "step-2")
        wait_until_serves(worker, queue, 50)


def test_entries_that_no_trainer_wrote_are_passed_over(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    publish(client, steps, 1)
    queue.redis.xadd(queue.keys.versions(), {"payload": b""}, id="2-7")
    queue.redis.xadd(queue.keys.versions(), {"payload": b""})  # the time in ms, as an id
    with stub(redis_url, policy, "--checkpoint-dir", str(steps)) as worker:
        wait_until_reported(worker, queue, policy_version="1", newest_version="1", policy_error="")


def test_a_worker_without_a_checkpoint_dir_says_so_and_serves_on(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    with stub(redis_url, policy) as worker:
        publish(client, steps, 1)
        wait_until_refused(worker, queue, 1, "without --checkpoint-dir")
        batch = client.submit([[5]], None, tokens())
        wait_until_done(queue, batch.batch_id, 1, worker)


def test_a_worker_that_boots_and_can_serve_nothing_announced_says_so_and_takes_no_job_until_it_can(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    announce(queue, 1, "nowhere")
    garbage(client, queue, steps, 2)
    batch = client.submit([[5], [6]], None, tokens())
    worker = WorkerProcess(redis_url, policy, *stub_flags(), "--checkpoint-dir", str(steps))
    try:
        wait_until_reported(worker, queue, 30, state="paused", paused_for="policy", policy_version="0")
        wait_until_refused(worker, queue, 2, "cannot be read")
        again = client.submit([[5]], None, tokens(), min_policy_version=3)
        looks = worker.log.count("policy version refused")
        wait_for(lambda: worker.log.count("policy version refused") > looks, 60, lambda: worker.log)
        assert (queue.done(batch.batch_id), queue.holders()) == (0, {})
        assert "PAUSED" not in worker_row(redis_url, policy)
        assert "paused (policy)" in worker_row(redis_url, policy)

        publish(client, steps, 3)
        wait_until_done(queue, batch.batch_id, 2, worker)
        wait_until_done(queue, again.batch_id, 1, worker)
        wait_until_reported(worker, queue, state="serving", paused_for="", policy_version="3", policy_error="")
        assert spans(redis_url, queue, batch.batch_id, 2) == [((3, 10),)] * 2
    finally:
        worker.end()


def test_while_the_newest_is_refused_the_newest_complete_one_is_served(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    publish(client, steps, 1, 2)
    half_written(client, queue, steps, 3)
    with stub(redis_url, policy, "--checkpoint-dir", str(steps)) as worker:
        wait_until_reported(worker, queue, policy_version="2", newest_version="3")
        wait_until_refused(worker, queue, 3, "truncated")
        announce(queue, 4, "step-3")
        announce(queue, 5, "nowhere")
        wait_until_refused(worker, queue, 5, "no folder")
        assert report(worker, queue)["policy_version"] == "2"
        client.publish_policy(6, checkpoint=steps / "step-3")
        wait_until_serves(worker, queue, 6)


def test_a_version_whose_files_come_late_is_served_once_they_are_there(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (steps / "step-1").rename(elsewhere / "step-1")
    with stub(redis_url, policy, "--checkpoint-dir", str(steps)) as worker:
        publish(client, elsewhere, 1)
        wait_until_refused(worker, queue, 1, "no folder of that name")
        (steps / "step-1").mkdir()
        shutil.copy(elsewhere / "step-1" / "config.json", steps / "step-1")
        wait_until_refused(worker, queue, 1, "not those that were published")
        (elsewhere / "step-1" / "model.safetensors").rename(steps / "step-1" / "model.safetensors")

        wait_until_serves(worker, queue, 1, SEEN_S)


async def test_a_version_that_stays_broken_is_looked_at_often_and_read_again_seldom(
    redis: Redis, policy: str, queue: Queue, client: Client, steps: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("rollstream.worker.versions.follower.time", SimpleNamespace(monotonic=lambda: now))
    engine = StubEngine(WorkerSettings(policy=policy, engine="stub"))
    follower = follower_of(redis, queue, engine, steps)
    wrong_digest(client, queue, steps, 1)
    with capture_logs() as told:

        def loads() -> int:
            return sum(line["event"] == "loading policy version" for line in told)

        await follower.begin()
        following = asyncio.create_task(follower.run())
        ((announced, first),) = follower._refused.items()
        for _ in range(4):
            before, now = follower._refused[announced].look_at, now + CHANGED_S
            await until_true(lambda: follower._refused[announced].look_at > before)  # noqa: B023 - awaited in its turn
        assert loads() == 1

        now = first.retry_at
        await until_true(lambda: loads() == 2)
        following.cancel()
        await asyncio.wait([following])
