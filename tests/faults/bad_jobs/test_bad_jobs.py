"""Bad input is answered by name, whatever it is, and the same worker serves the next job."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
import pytest
from redis.asyncio import Redis

from rollstream import AsyncClient, GenerationConfig, GroupError
from rollstream.schemas import Envelope, Keys, Tensor, encode
from tests.faults.bad_jobs.steps import CONFIG, HUGE, POLICY, answers, job, pending, push
from tests.support.worker_process import WorkerProcess


async def test_one_bad_prompt_fails_its_group_alone(client: AsyncClient) -> None:
    prompts = [[5 + row] for row in range(16)]
    prompts[7] = [1000]

    rollouts = await client.generate(prompts, None, CONFIG, timeout=20)

    assert list(rollouts.errors) == [7]
    assert rollouts.errors[7].code == "token_out_of_vocabulary"
    assert "1000" in rollouts.errors[7].message
    assert sum(reason == "length" for reason in rollouts.finish_reasons) == 15 * 2


async def test_an_all_zero_row_fails_alone(client: AsyncClient) -> None:
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
    client: AsyncClient, changes: dict[str, Any], code: str, said: str
) -> None:
    bad = await client.generate([[5], [6]], None, GenerationConfig(**{"max_new_tokens": 5, **changes}), timeout=20)
    good = await client.generate([[5]], None, CONFIG, timeout=20)

    assert {error.code for error in bad.errors.values()} == {code}
    assert all(said in error.message for error in bad.errors.values())
    assert good.errors == {}


async def test_an_adapter_is_never_replaced_by_the_base_model(client: AsyncClient) -> None:
    rollouts = await client.generate([[5]], None, CONFIG, adapter="math@3", timeout=20)

    assert rollouts.errors[0].code == "unknown_adapter"
    assert "--adapter-dir" in rollouts.errors[0].message


def changed(**fields: Any) -> Callable[[str], bytes]:
    """A valid job of the batch, but for `fields`."""
    return lambda batch_id: msgpack.packb({**msgpack.unpackb(encode(job(batch_id))), **fields})


def config(**fields: Any) -> Callable[[str], bytes]:
    return changed(config={"max_new_tokens": 4, **fields})


def tensor(dtype: str, shape: list[int], size: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data": bytes(size)}


MALFORMED: dict[str, tuple[Callable[[str], bytes], str, str]] = {
    "nothing": (lambda _: b"", "unreadable_job", "truncated"),
    "truncated": (lambda batch_id: encode(job(batch_id))[:-3], "unreadable_job", "truncated"),
    "trailing bytes": (lambda batch_id: encode(job(batch_id)) + b"\0", "unreadable_job", "after the end"),
    "not msgpack": (lambda _: b"\xc1\xc1", "unreadable_job", "0xc1"),
    "a pickle": (lambda _: b"\x80\x04\x95\x10\0\0\0\0\0\0\0.", "unreadable_job", "after the end"),
    "a bomb": (lambda _: b"\x91" * 50_000, "unreadable_job", "nested deeper"),
    "wire version 2": (changed(v=2), "unreadable_job", "wire version 2"),
    "wrong dtype": (changed(prompt_ids=tensor("int64", [3], 24)), "unreadable_job", "expected int32"),
    "wrong shape": (changed(prompt_ids=tensor("int32", [4], 12)), "unreadable_job", "needs 16 bytes"),
    "another batch inside": (lambda _: encode(job("other")), "unreadable_job", "the entry says"),
    "n = 0": (config(num_return_sequences=0), "invalid_config", "num_return_sequences"),
    "NaN temperature": (config(temperature=float("nan")), "invalid_config", "temperature"),
    "beams < returns": (config(num_beams=2, num_return_sequences=3), "invalid_config", "num_beams"),
    "unknown config key": (config(temperatur=1.0), "invalid_config", "did you mean 'temperature'"),
}


@pytest.mark.parametrize(("payload", "code", "said"), MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_malformed_job_is_answered_and_the_next_one_served(
    redis: Redis, client: AsyncClient, batch_id: str, payload: Callable[[str], bytes], code: str, said: str
) -> None:
    await push(redis, batch_id, payload(batch_id))
    found = await answers(redis, batch_id, expected=3)
    good = await client.generate([[5]], None, CONFIG, timeout=20)

    assert [kind for kind, _ in found] == [b"error", b"error", b"sealed"]
    assert {answer["code"] for kind, answer in found if kind == b"error"} == {code}
    assert all(said in answer["message"] for kind, answer in found if kind == b"error")
    assert good.errors == {}
    assert await pending(redis) == 0


async def test_a_huge_bad_value_is_not_repeated_in_every_answer(redis: Redis, batch_id: str) -> None:
    payload = msgpack.packb({"v": "\0" * HUGE, "kind": "job"})
    fields: Any = Envelope(batch_id=batch_id, job=0, first_group=0, job_groups=200, num_groups=200).fields(payload)
    await redis.xadd(Keys(POLICY).jobs(0), fields)

    found = await answers(redis, batch_id, expected=201)

    assert all(len(answer.get("message", "")) < 1000 for _, answer in found)


async def test_a_prompt_of_a_whole_message_is_answered_without_being_repeated(redis: Redis, batch_id: str) -> None:
    size = 2**24 - 1000
    ids, lengths = np.zeros(size, np.int32), np.array([0, size], np.int32)
    await push(redis, batch_id, encode(job(batch_id, prompt_ids=Tensor.of(ids), prompt_lengths=Tensor.of(lengths))))

    found = await answers(redis, batch_id, expected=3)

    assert {answer.get("code") for _, answer in found} == {"empty_prompt", "too_long", None}


async def test_an_error_answer_names_its_worker(worker: WorkerProcess, client: AsyncClient) -> None:
    handle = await client.submit([[]], None, CONFIG)
    answer = await anext(aiter(handle.groups()))

    assert isinstance(answer, GroupError)
    assert f"-{worker.process.pid}-" in answer.worker
