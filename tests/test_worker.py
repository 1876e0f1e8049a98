"""The worker process on a real Redis, with the stub engine: what arrives, what is refused, how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import msgpack
import numpy as np
import pytest
from redis.asyncio import Redis

from producer import AsyncClient, GenerationConfig, GroupError, GroupResult
from schemas import Envelope, Job, Keys, Tensor, encode
from schemas.keys import GROUP
from tests.worker_process import ROOT, WorkerProcess, running_worker, until
from worker.connections import connect

CONFIG = GenerationConfig(max_new_tokens=5, num_return_sequences=2, ignore_eos=True)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    client = connect(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
async def client(redis_url: str, policy: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(redis_url, policy=policy) as client:
        yield client


def job(batch_id: str = "raw", **changes: Any) -> Job:
    fields: dict[str, Any] = {
        "batch_id": batch_id,
        "job": 0,
        "first_group": 0,
        "num_groups": 2,
        "prompt_ids": Tensor.of(np.array([5, 6, 7], np.int32)),
        "prompt_lengths": Tensor.of(np.array([1, 2], np.int32)),
        "config": CONFIG,
        "submitted_at": 0.0,
    }
    return Job(**{**fields, **changes})


async def push(redis: Redis, policy: str, payload: bytes, batch_id: str = "raw") -> None:
    """XADD a two-group job with any payload, as another producer might."""
    await redis.xadd(Keys(policy).jobs(0), dict(Envelope(batch_id, 0, 0, 2, 2).fields(payload)))


async def answers(redis: Redis, policy: str, batch_id: str, expected: int) -> list[tuple[bytes, Any]]:
    """Kinds and unpacked payloads of a batch's results, once there are `expected`."""
    key = Keys(policy).results(batch_id)

    async def complete() -> bool:
        return int(await redis.xlen(key)) >= expected

    await until(complete)
    return [(fields[b"kind"], msgpack.unpackb(fields[b"payload"])) for _, fields in await redis.xrange(key)]


async def pending(redis: Redis, policy: str) -> int:
    """Entries delivered and not acknowledged."""
    return int((await redis.xpending(Keys(policy).jobs(0), GROUP))["pending"])


async def test_a_batch_comes_back_in_submission_order(stub_worker: WorkerProcess, client: AsyncClient) -> None:
    prompts = [[10 + row] * (row + 1) for row in range(20)]

    rollouts = await client.generate(prompts, None, CONFIG, prompts_per_job=3, timeout=20)

    assert rollouts.sequences.shape == (40, 20 + 5)
    assert rollouts.prompt_lengths.tolist() == [row + 1 for row in range(20) for _ in range(2)]
    assert rollouts.errors == {}


async def test_a_job_queued_before_the_first_worker_ever_ran_is_answered(
    redis_url: str, policy: str, client: AsyncClient
) -> None:
    handle = await client.submit([[5]], None, CONFIG)

    with running_worker(redis_url, policy, "--engine", "stub"):
        assert len((await handle.result(timeout=20)).sequences) == 2


async def test_two_workers_on_one_queue_give_one_result_a_group(
    redis_url: str, policy: str, client: AsyncClient, redis: Redis
) -> None:
    flags = ("--engine", "stub", "--inflight-sequences", "4", "--stub-tokens-per-s", "500")
    with running_worker(redis_url, policy, *flags), running_worker(redis_url, policy, *flags):
        handle = await client.submit([[5 + row] for row in range(60)], None, CONFIG, prompts_per_job=1)
        results = [answer async for answer in handle.groups()]

    workers = {answer.worker for answer in results}
    entries = await redis.xlen(Keys(policy).results(handle.batch_id))
    assert len(workers) == 2
    assert sorted(answer.group for answer in results) == list(range(60))
    assert entries == 60 + 1


async def test_the_same_seed_gives_the_same_tokens_however_the_batch_is_cut(
    stub_worker: WorkerProcess, client: AsyncClient
) -> None:
    config = GenerationConfig(max_new_tokens=8, num_return_sequences=3, seed=3)
    prompts = [[5, 6], [7], [8, 9, 10]]

    whole = await client.generate(prompts, None, config, prompts_per_job=8, timeout=20)
    cut = await client.generate(prompts, None, config, prompts_per_job=1, timeout=20)

    assert whole.sequences.equal(cut.sequences)


async def test_one_bad_prompt_fails_its_group_alone(stub_worker: WorkerProcess, client: AsyncClient) -> None:
    prompts = [[5 + row] for row in range(16)]
    prompts[7] = [1000]

    rollouts = await client.generate(prompts, None, CONFIG, timeout=20)

    assert list(rollouts.errors) == [7]
    assert rollouts.errors[7].code == "token_out_of_vocabulary"
    assert "1000" in rollouts.errors[7].message
    assert sum(reason == "length" for reason in rollouts.finish_reasons) == 15 * 2


async def test_an_all_zero_row_fails_alone(stub_worker: WorkerProcess, client: AsyncClient) -> None:
    ids = np.array([[0, 5, 6], [0, 0, 0], [7, 0, 8]])
    mask = np.array([[0, 1, 1], [0, 0, 0], [1, 0, 1]])

    rollouts = await client.generate(ids, mask, CONFIG, timeout=20)

    assert {group: error.code for group, error in rollouts.errors.items()} == {1: "empty_prompt"}
    assert rollouts.sequences[4, :3].tolist() == [0, 7, 8]
    assert rollouts.prompt_mask[4, :3].tolist() == [0, 1, 1]


REFUSED_CONFIGS: list[tuple[dict[str, Any], str, str]] = [
    ({"max_new_tokens": 4096}, "too_long", "max_model_len"),
    ({"eos_token_id": (1000,)}, "token_out_of_vocabulary", "eos_token_id"),
    ({"stop_token_ids": (1000,)}, "token_out_of_vocabulary", "stop_token_ids"),
    ({"logit_bias": {1000: 1.0}}, "token_out_of_vocabulary", "logit_bias"),
    ({"allowed_token_ids": (1000,)}, "token_out_of_vocabulary", "allowed_token_ids"),
    ({"stop_strings": ("x",)}, "needs_tokenizer", "tokenizer"),
    ({"bad_words": ("x",)}, "needs_tokenizer", "tokenizer"),
    ({"logprobs": "raw", "temperature": 0.5}, "invalid_config", "--logprobs-mode"),
]


@pytest.mark.parametrize(("changes", "code", "said"), REFUSED_CONFIGS, ids=lambda value: str(value)[:30])
async def test_what_only_the_worker_can_know_is_refused_by_name_and_the_worker_lives_on(
    stub_worker: WorkerProcess, client: AsyncClient, changes: dict[str, Any], code: str, said: str
) -> None:
    bad = await client.generate([[5], [6]], None, GenerationConfig(**{"max_new_tokens": 5, **changes}), timeout=20)
    good = await client.generate([[5]], None, CONFIG, timeout=20)

    assert {error.code for error in bad.errors.values()} == {code}
    assert all(said in error.message for error in bad.errors.values())
    assert good.errors == {}


async def test_an_adapter_is_never_replaced_by_the_base_model(stub_worker: WorkerProcess, client: AsyncClient) -> None:
    rollouts = await client.generate([[5]], None, CONFIG, adapter="math@3", timeout=20)

    assert rollouts.errors[0].code == "unknown_adapter"
    assert "--adapter-dir" in rollouts.errors[0].message


VALID = encode(job())
MALFORMED = {
    "nothing": (b"", "unreadable_job"),
    "truncated": (VALID[:-3], "unreadable_job"),
    "trailing bytes": (VALID + b"\0", "unreadable_job"),
    "not msgpack": (b"\xc1\xc1", "unreadable_job"),
    "a pickle": (b"\x80\x04\x95\x10\0\0\0\0\0\0\0.", "unreadable_job"),
    "a bomb": (b"\x91" * 50_000, "unreadable_job"),
    "wire version 2": (msgpack.packb({**msgpack.unpackb(VALID), "v": 2}), "unreadable_job"),
    "wrong dtype": (
        msgpack.packb({**msgpack.unpackb(VALID), "prompt_ids": {"dtype": "int64", "shape": [3], "data": bytes(24)}}),
        "unreadable_job",
    ),
    "wrong shape": (
        msgpack.packb({**msgpack.unpackb(VALID), "prompt_ids": {"dtype": "int32", "shape": [4], "data": bytes(12)}}),
        "unreadable_job",
    ),
    "another batch inside": (encode(job("other")), "unreadable_job"),
    "n = 0": (
        msgpack.packb({**msgpack.unpackb(VALID), "config": {"max_new_tokens": 4, "num_return_sequences": 0}}),
        "invalid_config",
    ),
    "NaN temperature": (
        msgpack.packb({**msgpack.unpackb(VALID), "config": {"max_new_tokens": 4, "temperature": float("nan")}}),
        "invalid_config",
    ),
    "beams < returns": (
        msgpack.packb(
            {
                **msgpack.unpackb(VALID),
                "config": {"max_new_tokens": 4, "num_beams": 2, "num_return_sequences": 3},
            }
        ),
        "invalid_config",
    ),
    "unknown config key": (
        msgpack.packb({**msgpack.unpackb(VALID), "config": {"max_new_tokens": 4, "temperatur": 1.0}}),
        "invalid_config",
    ),
}


@pytest.mark.parametrize(("payload", "code"), MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_malformed_job_is_answered_and_the_next_one_served(
    stub_worker: WorkerProcess, redis: Redis, policy: str, client: AsyncClient, payload: bytes, code: str
) -> None:
    await push(redis, policy, payload)
    found = await answers(redis, policy, "raw", expected=3)
    good = await client.generate([[5]], None, CONFIG, timeout=20)

    assert [kind for kind, _ in found] == [b"error", b"error", b"sealed"]
    assert {answer["code"] for kind, answer in found if kind == b"error"} == {code}
    assert good.errors == {}
    assert await pending(redis, policy) == 0


async def test_an_unreadable_payload_is_kept_byte_for_byte(
    stub_worker: WorkerProcess, redis: Redis, policy: str
) -> None:
    await push(redis, policy, b"\xc1 not msgpack")
    await answers(redis, policy, "raw", expected=3)

    (_, letter), *_ = await redis.xrange(Keys(policy).dead(0))
    assert letter[b"payload"] == b"\xc1 not msgpack"
    assert b"WireError" in letter[b"letter"]


async def test_an_entry_that_names_no_batch_becomes_a_dead_letter(
    stub_worker: WorkerProcess, redis: Redis, policy: str, client: AsyncClient
) -> None:
    await redis.xadd(Keys(policy).jobs(0), {"who": "knows", "payload": b"\xff"})
    await client.generate([[5]], None, CONFIG, timeout=20)

    (_, letter), *_ = await redis.xrange(Keys(policy).dead(0))
    assert letter[b"payload"] == b"\xff"
    assert b"'batch' is missing" in letter[b"letter"]
    assert await pending(redis, policy) == 0


async def test_groups_are_published_as_they_finish(redis_url: str, policy: str, client: AsyncClient) -> None:
    with running_worker(redis_url, policy, "--engine", "stub", "--stub-tokens-per-s", "50"):
        slow = GenerationConfig(max_new_tokens=60, ignore_eos=True)
        stopping = [await client.submit([[5]], None, slow), await client.submit([[6]], None, CONFIG)]
        first = await anext(aiter(stopping[1].groups()))
        assert isinstance(first, GroupResult)
        assert await stopping[0].done() == 0


async def test_a_full_engine_leaves_the_backlog_in_redis(
    redis_url: str, policy: str, client: AsyncClient, redis: Redis
) -> None:
    flags = ("--engine", "stub", "--stub-tokens-per-s", "20", "--inflight-sequences", "4")
    config = GenerationConfig(max_new_tokens=20, num_return_sequences=2, ignore_eos=True)
    with running_worker(redis_url, policy, *flags):
        handle = await client.submit([[5 + row] for row in range(5)], None, config, prompts_per_job=1)
        seen = set()

        async def finished() -> bool:
            seen.add(await pending(redis, policy))
            return await handle.done() == 5

        await until(finished)

    assert max(seen) == 2


async def test_sigterm_finishes_what_was_taken_and_exits_0(
    redis_url: str, policy: str, client: AsyncClient, redis: Redis
) -> None:
    with running_worker(redis_url, policy, "--engine", "stub", "--stub-tokens-per-s", "20") as worker:
        handle = await client.submit([[5]], None, GenerationConfig(max_new_tokens=20, ignore_eos=True))
        await until(lambda: pending(redis, policy))

        assert worker.terminate() == 0

        assert len((await handle.result(timeout=1)).sequences) == 1
        assert [key async for key in redis.scan_iter(Keys(policy).workers_pattern())] == []


async def test_a_job_longer_than_the_grace_period_stays_pending(
    redis_url: str, policy: str, client: AsyncClient, redis: Redis
) -> None:
    flags = ("--engine", "stub", "--stub-tokens-per-s", "1", "--grace-s", "0.2")
    with running_worker(redis_url, policy, *flags) as worker:
        await client.submit([[5]], None, GenerationConfig(max_new_tokens=1000, ignore_eos=True))
        await until(lambda: pending(redis, policy))

        assert worker.terminate() == 0

    assert await pending(redis, policy) == 1


async def test_a_second_signal_ends_the_worker_at_once(
    redis_url: str, policy: str, client: AsyncClient, redis: Redis
) -> None:
    with running_worker(redis_url, policy, "--engine", "stub", "--stub-tokens-per-s", "1") as worker:
        await client.submit([[5]], None, GenerationConfig(max_new_tokens=1000, ignore_eos=True))
        await until(lambda: pending(redis, policy))
        worker.process.send_signal(signal.SIGTERM)
        await until(lambda: logged(worker, "draining"))

        assert worker.terminate() == -signal.SIGTERM


async def logged(worker: WorkerProcess, text: str) -> bool:
    return text in worker.log


async def test_a_consumer_group_that_was_deleted_is_created_again(
    stub_worker: WorkerProcess, redis: Redis, policy: str, client: AsyncClient
) -> None:
    await redis.xgroup_destroy(Keys(policy).jobs(0), GROUP)

    rollouts = await client.generate([[5]], None, CONFIG, timeout=20)

    assert rollouts.errors == {}


def worker_command(*flags: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "worker", *flags],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_print_config_shows_settings_of_flags_and_environment_without_the_password() -> None:
    done = worker_command(
        "--policy", "p", "--engine", "stub", "--print-config",
        ROLLSTREAM_REDIS="redis://:secret@h:1/0", ROLLSTREAM_MAX_NUM_SEQS="7",
    )  # fmt: skip

    shown = json.loads(done.stdout)
    assert done.returncode == 0
    assert (shown["max_num_seqs"], shown["redis"]) == (7, "redis://:***@h:1/0")
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
def test_a_setting_that_cannot_work_is_named_and_exits_2(flags: list[str], said: str) -> None:
    done = worker_command(*flags)

    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_help_teaches_every_flag() -> None:
    done = worker_command("--help")

    assert done.returncode == 0
    for flag in ("--policy", "--engine", "--model", "--redis", "--adapter-dir", "--print-config"):
        assert flag in done.stdout


async def test_an_error_answer_names_its_worker(stub_worker: WorkerProcess, client: AsyncClient) -> None:
    handle = await client.submit([[]], None, CONFIG)
    answer = await anext(aiter(handle.groups()))

    assert isinstance(answer, GroupError)
    assert f"-{stub_worker.process.pid}-" in answer.worker
