"""The worker process on a real Redis, with the stub engine: how it starts, shares a queue, drains and ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from redis.asyncio import Redis

from rollstream import AsyncClient, GenerationConfig, GroupResult
from rollstream.producer.policies.live_workers import live_reports
from rollstream.schemas import Keys
from rollstream.schemas.keys import GROUP
from rollstream.worker import command
from rollstream.worker.config import WorkerSettings
from rollstream.worker.errors import SettingsError
from rollstream.worker.exit_codes import MEANINGS
from rollstream.worker.redis_io.connections import connect
from tests.support.worker_process import ROOT, WorkerProcess, running_worker, until

CONFIG = GenerationConfig(max_new_tokens=5, num_return_sequences=2, ignore_eos=True)


async def pending(redis: Redis, policy: str) -> int:
    """Entries delivered and not acknowledged."""
    return int((await redis.xpending(Keys(policy).jobs(0), GROUP))["pending"])


async def test_a_batch_comes_back_in_submission_order(stub_worker: WorkerProcess, trainer: AsyncClient) -> None:
    prompts = [[10 + row] * (row + 1) for row in range(20)]

    rollouts = await trainer.generate(prompts, None, CONFIG, prompts_per_job=3, timeout=20)

    assert rollouts.sequences.shape == (40, 20 + 5)
    assert rollouts.prompt_lengths.tolist() == [row + 1 for row in range(20) for _ in range(2)]
    assert rollouts.errors == {}


async def test_a_worker_reports_its_vocabulary_its_dtype_and_its_engine(
    stub_worker: WorkerProcess, policy: str, redis: Redis
) -> None:
    (report,) = (await live_reports(redis, Keys(policy))).values()

    assert (report.vocab_size, report.dtype, report.runs_on) == (1000, "float32", "stub")


async def test_a_job_queued_before_the_first_worker_ever_ran_is_answered(
    redis_url: str, policy: str, trainer: AsyncClient
) -> None:
    handle = await trainer.submit([[5]], None, CONFIG)

    with running_worker(redis_url, policy, "--engine", "stub"):
        assert len((await handle.result(timeout=20)).sequences) == 2


async def test_two_workers_on_one_queue_give_one_result_a_group(
    redis_url: str, policy: str, trainer: AsyncClient, redis: Redis
) -> None:
    flags = ("--engine", "stub", "--inflight-sequences", "4", "--stub-tokens-per-s", "500")
    with running_worker(redis_url, policy, *flags), running_worker(redis_url, policy, *flags):
        handle = await trainer.submit([[5 + row] for row in range(60)], None, CONFIG, prompts_per_job=1)
        results = [answer async for answer in handle.groups()]

    workers = {answer.worker for answer in results}
    entries = await redis.xlen(Keys(policy).results(handle.batch_id))
    assert len(workers) == 2
    assert sorted(answer.group for answer in results) == list(range(60))
    assert entries == 60 + 1


async def test_the_same_seed_gives_the_same_tokens_however_the_batch_is_cut(
    stub_worker: WorkerProcess, trainer: AsyncClient
) -> None:
    config = GenerationConfig(max_new_tokens=8, num_return_sequences=3, seed=3)
    prompts = [[5, 6], [7], [8, 9, 10]]

    whole = await trainer.generate(prompts, None, config, prompts_per_job=8, timeout=20)
    cut = await trainer.generate(prompts, None, config, prompts_per_job=1, timeout=20)

    assert whole.sequences.equal(cut.sequences)


async def test_groups_are_published_as_they_finish(redis_url: str, policy: str, trainer: AsyncClient) -> None:
    with running_worker(redis_url, policy, "--engine", "stub", "--stub-tokens-per-s", "50"):
        slow = GenerationConfig(max_new_tokens=60, ignore_eos=True)
        stopping = [await trainer.submit([[5]], None, slow), await trainer.submit([[6]], None, CONFIG)]
        first = await anext(aiter(stopping[1].groups()))
        assert isinstance(first, GroupResult)
        assert await stopping[0].done() == 0


async def test_a_full_engine_leaves_the_backlog_in_redis(
    redis_url: str, policy: str, trainer: AsyncClient, redis: Redis
) -> None:
    flags = ("--engine", "stub", "--stub-tokens-per-s", "20", "--inflight-sequences", "4")
    config = GenerationConfig(max_new_tokens=20, num_return_sequences=2, ignore_eos=True)
    with running_worker(redis_url, policy, *flags):
        handle = await trainer.submit([[5 + row] for row in range(5)], None, config, prompts_per_job=1)
        seen = set()

        async def finished() -> bool:
            seen.add(await pending(redis, policy))
            return await handle.done() == 5

        await until(finished)

    assert max(seen) == 2


async def test_sigterm_finishes_what_was_taken_and_exits_0(
    redis_url: str, policy: str, trainer: AsyncClient, redis: Redis
) -> None:
    with running_worker(redis_url, policy, "--engine", "stub", "--stub-tokens-per-s", "20") as worker:
        handle = await trainer.submit([[5]], None, GenerationConfig(max_new_tokens=20, ignore_eos=True))
        await until(lambda: pending(redis, policy))

        assert worker.terminate() == 0

        assert len((await handle.result(timeout=30)).sequences) == 1
        assert [key async for key in redis.scan_iter(Keys(policy).worker("*"))] == []


async def test_a_job_longer_than_the_grace_period_stays_pending(
    redis_url: str, policy: str, trainer: AsyncClient, redis: Redis
) -> None:
    flags = ("--engine", "stub", "--stub-tokens-per-s", "1", "--grace-s", "0.2")
    with running_worker(redis_url, policy, *flags) as worker:
        await trainer.submit([[5]], None, GenerationConfig(max_new_tokens=1000, ignore_eos=True))
        await until(lambda: pending(redis, policy))

        assert worker.terminate() == 0

    assert await pending(redis, policy) == 1


async def test_a_second_signal_ends_the_worker_at_once(
    redis_url: str, policy: str, trainer: AsyncClient, redis: Redis
) -> None:
    with running_worker(redis_url, policy, "--engine", "stub", "--stub-tokens-per-s", "1") as worker:
        await trainer.submit([[5]], None, GenerationConfig(max_new_tokens=1000, ignore_eos=True))
        await until(lambda: pending(redis, policy))
        worker.process.send_signal(signal.SIGTERM)
        await until(lambda: logged(worker, "draining"))

        assert worker.terminate() == -signal.SIGTERM


async def logged(worker: WorkerProcess, text: str) -> bool:
    return text in worker.log


async def test_a_consumer_group_that_was_deleted_is_created_again(
    stub_worker: WorkerProcess, redis: Redis, policy: str, trainer: AsyncClient
) -> None:
    await redis.xgroup_destroy(Keys(policy).jobs(0), GROUP)

    rollouts = await trainer.generate([[5]], None, CONFIG, timeout=20)

    assert rollouts.errors == {}


def worker_command(*flags: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rollstream.worker", *flags],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_bad_redis_url_is_refused_without_any_of_its_password() -> None:
    with pytest.raises(SettingsError, match="not a Redis URL") as caught:
        connect("redis://:sec/ret@h:6379/0")

    assert "sec" not in str(caught.value).replace("special", "")


def test_print_config_shows_settings_of_flags_and_environment_without_the_password() -> None:
    done = worker_command(
        "--policy", "p", "--engine", "stub", "--print-config",
        ROLLSTREAM_REDIS="redis://:secret@h:1/0", ROLLSTREAM_MAX_NUM_SEQS="7",
    )  # fmt: skip

    shown = json.loads(done.stdout)
    assert done.returncode == 0
    assert (shown["max_num_seqs"], shown["redis"]) == (7, "redis://***@h:1/0")
    assert "secret" not in done.stdout + done.stderr


BAD_SETTINGS: list[tuple[list[str], str]] = [
    (["--engine", "stub"], "--policy"),
    (["--policy", "p"], "--model"),
    (["--policy", "p", "--model", "/nowhere"], "/nowhere is no folder"),
    (["--policy", "a b", "--engine", "stub"], "--policy"),
    (["--policy", "p", "--engine", "stub", "--max-num-seqs", "0"], "--max-num-seqs"),
    (["--policy", "p", "--engine", "stub", "--redis", "http://x"], "--redis"),
    (["--policy", "p", "--engine", "stub", "--no-such-flag"], "no-such-flag"),
]


@pytest.mark.parametrize(("flags", "said"), BAD_SETTINGS, ids=lambda value: " ".join(value)[-30:])
def test_a_setting_that_cannot_work_is_named_and_exits_2(
    flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(flags) == 2

    told = capsys.readouterr().err
    assert said in told
    assert "Traceback" not in told


def test_the_process_ends_with_that_exit_code() -> None:
    assert worker_command("--policy", "p", "--engine", "stub", "--max-num-seqs", "0").returncode == 2


def test_help_and_readme_tell_what_each_exit_code_means() -> None:
    shown, readme = worker_command("--help").stdout, (ROOT / "README.md").read_text()

    assert len(MEANINGS) == 5
    for code, meaning in MEANINGS.items():
        assert f"  {code:<8} {meaning}\n" in shown
        assert f"| {code} | {meaning} |\n" in readme


def test_help_teaches_every_flag_and_by_example() -> None:
    done = worker_command("--help")

    assert done.returncode == 0
    assert "\n  rollstream-worker --engine stub --policy math-7b\n" in done.stdout
    for flag in ("--policy", "--engine", "--model", "--redis", "--adapter-dir", "--print-config"):
        assert flag in done.stdout


def test_help_says_that_an_aborting_swap_goes_on_from_partials() -> None:
    told = WorkerSettings.model_fields["swap"].description or ""

    assert "abort ends them: with --keep-partials they go on from their tokens, else they start again" in told
