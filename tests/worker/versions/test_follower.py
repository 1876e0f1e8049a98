"""Workers follow the control stream: the newest complete version is served, whatever dies, lies or comes late."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from rollstream import Client
from rollstream.producer.cli.app import app as commands
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.producer.demo.tiny_model import write_model
from rollstream.worker.adapters.folder import AdapterDirectory
from rollstream.worker.adapters.supply import AdapterSupply
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.errors import EngineDiedError
from rollstream.worker.redis_io.connections import connect
from rollstream.worker.versions.follower import Policy
from rollstream.worker.versions.retries import is_due, refusal
from rollstream.worker.weights import checkpoint
from tests.support.checkpoints import shard
from tests.support.fault_steps import (
    LEASE_S,
    kill,
    stub,
    stub_flags,
    tokens,
    wait_until_done,
    wait_until_held,
    wait_until_logged,
)
from tests.support.faults import Queue, audit
from tests.support.versions import (
    announce,
    codes,
    publish,
    report,
    spans,
    wait_until_refused,
    wait_until_reported,
    wait_until_serves,
)
from tests.support.worker_process import WorkerProcess, wait_for

SEEN_S = 3.0
"""Within which a version that has just become complete is served: two seconds between two tries, and slack."""


def worker_row(redis_url: str, policy: str) -> str:
    """What `rollstream status` shows of the only worker."""
    shown = CliRunner(env={"COLUMNS": "200"}).invoke(commands, ["status", "--policy", policy, "--redis", redis_url])
    return shown.stdout


def endless_file(folder: Path) -> None:
    """A checkpoint whose digest takes minutes, and no disk."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(200 * 2**30)


def test_a_swap_under_load_loses_nothing_and_every_token_says_its_version(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    with stub(redis_url, policy, "--checkpoint-dir", str(steps), group_s=0.05, at_once=16) as worker:
        batch = client.submit([[5 + row] for row in range(24)], None, tokens(200), prompts_per_job=3)
        wait_for(lambda: worker.log.count("job started") >= 6, 10, lambda: worker.log)
        publish(client, steps, 1)
        client.wait_for_version(1, timeout=10)
        assert queue.done(batch.batch_id) == 0, "nothing was in flight during the swap"
        publish(client, steps, 2)
        wait_until_serves(worker, queue, 2)
        wait_until_done(queue, batch.batch_id, 24, worker)
        after = client.submit([[5]], None, tokens(7))
        wait_until_done(queue, after.batch_id, 1, worker)

    found = spans(redis_url, queue, batch.batch_id, 24)
    for of_one in found:
        versions = [version for version, _ in of_one]
        assert versions == sorted(set(versions))
    first = [of_one for of_one in found if of_one[0][0] == 0]
    assert len(first) == 16, "jobs waited for a swap"
    assert {len(of_one) > 1 for of_one in first} == {True}, "no completion lived through a swap"
    assert spans(redis_url, queue, after.batch_id, 1) == [((2, 7),)]


def test_a_worker_that_starts_late_loads_the_newest_version_before_its_first_job(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    publish(client, steps, 1, 3)
    batch = client.submit([[5], [6]], None, tokens())
    with stub(redis_url, policy, "--checkpoint-dir", str(steps)) as worker:
        wait_until_done(queue, batch.batch_id, 2, worker)
        assert worker.log.index("policy version served") < worker.log.index("job started")

    assert spans(redis_url, queue, batch.batch_id, 2) == [((3, 10),)] * 2


def test_while_the_first_version_loads_nothing_is_admitted_and_a_drain_ends_it_at_once(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    endless_file(steps / "endless")
    announce(queue, 4, "endless")
    batch = client.submit([[5]], None, tokens())
    worker = WorkerProcess(redis_url, policy, *stub_flags(), "--checkpoint-dir", str(steps))
    try:
        wait_until_reported(worker, queue, 20, state="starting")
        wait_until_logged(worker, "loading policy version")
        assert (queue.done(batch.batch_id), queue.holders()) == (0, {})

        assert worker.terminate(timeout_s=5) == 0, worker.log
    finally:
        worker.end()


def test_a_version_that_takes_long_to_load_stops_neither_jobs_nor_a_drain(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    endless_file(steps / "endless")
    with stub(redis_url, policy, "--checkpoint-dir", str(steps)) as worker:
        announce(queue, 4, "endless")
        wait_until_logged(worker, "loading policy version")
        batch = client.submit([[5]], None, tokens())
        wait_until_done(queue, batch.batch_id, 1, worker)

        assert worker.terminate(timeout_s=5) == 0, worker.log


class DyingEngine(StubEngine):
    async def load_checkpoint(self, *_: object) -> None:
        raise EngineDiedError("its process ended")


async def test_an_engine_that_dies_while_it_loads_ends_the_role(
    redis_url: str, policy: str, queue: Queue, steps: Path
) -> None:
    engine, redis = DyingEngine(WorkerSettings(policy=policy, engine="stub")), connect(redis_url)
    adapters = AdapterSupply(engine, AdapterDirectory(None, 16, None), None)
    follower = Policy(redis, queue.keys, engine, adapters, steps, "keep", lambda: None)
    await follower.begin()
    announce(queue, 1, "step-1", checkpoint.digest(steps / "step-1"))

    with pytest.raises(ExceptionGroup) as died:
        await asyncio.wait_for(follower.run(), 20)
    await redis.aclose()

    assert died.group_contains(EngineDiedError)


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


def test_a_drain_during_a_swap_that_waits_for_completions_ends_within_its_grace(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    flags = ("--checkpoint-dir", str(steps), "--swap", "wait", "--grace-s", "0.5")
    with stub(redis_url, policy, *flags, group_s=30, lease_s=30) as worker:
        client.submit([[5]], None, tokens())
        wait_until_held(worker, queue)
        publish(client, steps, 1)
        wait_until_logged(worker, "loading policy version")

        assert worker.terminate(timeout_s=5) == 0, worker.log


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
    (no_folder, "no folder of that name"),
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
        wait_for(lambda: worker.log.count("policy version refused") > looks, 20, lambda: worker.log)
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


def test_the_newest_version_is_heard_of_while_another_loads(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    endless_file(steps / "endless")
    with stub(redis_url, policy, "--checkpoint-dir", str(steps)) as worker:
        announce(queue, 1, "endless")
        wait_until_logged(worker, "loading policy version")
        announce(queue, 7, "step-1")
        strict = client.submit([[5]], None, tokens(), max_staleness=6)
        lenient = client.submit([[5]], None, tokens(), max_staleness=7)
        wait_until_done(queue, strict.batch_id, 1, worker)
        wait_until_done(queue, lenient.batch_id, 1, worker)
        wait_until_reported(worker, queue, policy_version="0", newest_version="7", policy_error="")

        assert worker.terminate(timeout_s=5) == 0, worker.log

    assert codes(redis_url, queue, strict.batch_id, 1) == ["too_stale"]
    assert codes(redis_url, queue, lenient.batch_id, 1) == [None]


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


def test_a_version_that_stays_broken_is_not_read_again_and_again(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    with stub(redis_url, policy, "--checkpoint-dir", str(steps)) as worker:
        wrong_digest(client, queue, steps, 1)
        wait_until_refused(worker, queue, 1, "not those that were published")
        began = time.monotonic()
        wait_for(lambda: time.monotonic() - began > 2 * SEEN_S, 20, lambda: worker.log)

        assert worker.log.count("loading policy version") == 1


def test_redis_killed_between_announcement_and_load_delays_the_version_and_loses_nothing(
    policy: str, steps: Path
) -> None:
    with (
        EmbeddedRedis(appendonly=True) as server,
        Queue(server.url, policy) as queue,
        Client(server.url, policy=policy, reconnect_s=30) as client,
        stub(server.url, policy, "--checkpoint-dir", str(steps), group_s=2.0, lease_s=10) as worker,
    ):
        batch = client.submit([[5], [6]], None, tokens(40))
        wait_until_held(worker, queue)
        os.kill(worker.process.pid, signal.SIGSTOP)
        publish(client, steps, 1)
        server.kill()
        os.kill(worker.process.pid, signal.SIGCONT)
        wait_until_logged(worker, "heartbeat missed")
        assert worker.process.poll() is None
        server.start()
        wait_until_serves(worker, queue, 1)
        wait_until_done(queue, batch.batch_id, 2, worker)

        assert [of_one[-1][0] for of_one in spans(server.url, queue, batch.batch_id, 2)] == [1, 1]


def test_a_worker_killed_during_a_swap_comes_back_with_the_newest_version(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    flags = ("--checkpoint-dir", str(steps), "--swap", "wait")
    with stub(redis_url, policy, *flags, group_s=30, lease_s=LEASE_S) as first:
        batch = client.submit([[5], [6]], None, tokens())
        wait_until_held(first, queue)
        publish(client, steps, 1)
        wait_until_logged(first, "loading policy version")
        kill(first)
    publish(client, steps, 2)
    with stub(redis_url, policy, *flags) as second:
        wait_until_serves(second, queue, 2)
        wait_until_done(queue, batch.batch_id, 2, second)

    assert spans(redis_url, queue, batch.batch_id, 2) == [((2, 10),)] * 2
    audit(redis_url, policy, batch.batch_id, 2)
