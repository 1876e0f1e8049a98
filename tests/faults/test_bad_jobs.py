"""Bad input is answered by name, whatever it is, and the same worker serves the next job."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import msgpack
import numpy as np
import pytest
from redis.asyncio import Redis

from rollstream import AsyncClient, GenerationConfig, GroupError
from rollstream.schemas import Envelope, Job, Keys, Tensor, encode
from rollstream.schemas.keys import GROUP
from tests.support.worker_process import WorkerProcess, running_worker, until

POLICY = "bad-jobs"
CONFIG = GenerationConfig(max_new_tokens=5, num_return_sequences=2, ignore_eos=True)
_numbers = itertools.count()


@pytest.fixture(scope="module", autouse=True)
def worker(redis_url: str) -> Iterator[WorkerProcess]:
    """One for all of this file: whatever a test sends must not harm the next."""
    with running_worker(redis_url, POLICY, "--engine", "stub", "--stub-vocab-size", "1000") as worker:
        yield worker


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(redis_url, policy=POLICY) as client:
        yield client


@pytest.fixture
def batch_id() -> str:
    return f"batch-{next(_numbers)}"


def job(batch_id: str, **changes: Any) -> Job:
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


async def push(redis: Redis, batch_id: str, payload: bytes) -> None:
    """XADD a two-group job with any payload, as another producer might."""
    fields: Any = Envelope(batch_id=batch_id, job=0, first_group=0, job_groups=2, num_groups=2).fields(payload)
    await redis.xadd(Keys(POLICY).jobs(0), fields)


async def answers(redis: Redis, batch_id: str, expected: int) -> list[tuple[bytes, Any]]:
    """Kinds and unpacked payloads of a batch's results, once there are `expected`."""
    key = Keys(POLICY).results(batch_id)

    async def complete() -> bool:
        return int(await redis.xlen(key)) >= expected

    await until(complete)
    entries: Any = await redis.xrange(key)
    return [(fields[b"kind"], msgpack.unpackb(fields[b"payload"])) for _, fields in entries]


async def dead_letters(redis: Redis) -> list[dict[bytes, bytes]]:
    entries: Any = await redis.xrange(Keys(POLICY).dead(0))
    return [fields for _, fields in entries]


async def pending(redis: Redis) -> int:
    """Entries delivered and not acknowledged."""
    return int((await redis.xpending(Keys(POLICY).jobs(0), GROUP))["pending"])


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


HUGE = 20 * 2**20
ENVELOPES: dict[str, dict[str, Any]] = {
    "a total beyond 31 bits": {"total": "9999999999"},
    "a first group beyond 31 bits": {"first": "9999999990", "groups": "1", "total": "9999999999"},
    "a batch of 20 MB": {"batch": bytes(HUGE)},
    "twenty thousand fields": {f"field-{number}": "x" for number in range(20_000)},
}


@pytest.mark.parametrize("fields", ENVELOPES.values(), ids=ENVELOPES.keys())
async def test_an_entry_that_no_producer_wrote_does_not_harm_the_worker(
    redis: Redis, client: AsyncClient, batch_id: str, fields: dict[str, Any]
) -> None:
    entry: dict[Any, Any] = {"batch": batch_id, "job": "0", "first": "0", "groups": "1", "total": "1", "payload": "x"}
    entry.update(fields)
    await redis.xadd(Keys(POLICY).jobs(0), entry)

    good = await client.generate([[5]], None, CONFIG, timeout=30)

    assert good.errors == {}
    await until(lambda: none_pending(redis))


async def none_pending(redis: Redis) -> bool:
    return await pending(redis) == 0


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


async def test_a_batch_whose_result_key_is_something_else_is_a_dead_letter(
    redis: Redis, client: AsyncClient, batch_id: str
) -> None:
    await redis.set(Keys(POLICY).results(batch_id), "no stream")
    await push(redis, batch_id, encode(job(batch_id)))

    good = await client.generate([[5]], None, CONFIG, timeout=20)

    assert good.errors == {}
    await until(lambda: none_pending(redis))
    assert b"UnpublishableError" in (await dead_letters(redis))[-1][b"letter"]


async def test_an_unreadable_job_whose_ledger_is_something_else_is_a_dead_letter(
    redis: Redis, client: AsyncClient, batch_id: str
) -> None:
    await redis.set(Keys(POLICY).ledger(batch_id), "no hash")
    await push(redis, batch_id, b"no job")

    good = await client.generate([[5]], None, CONFIG, timeout=20)

    assert good.errors == {}
    await until(lambda: none_pending(redis))
    assert (await dead_letters(redis))[-1][b"payload"] == b"no job"


async def test_a_job_that_requires_what_this_worker_does_not_know_is_unsupported(redis: Redis, batch_id: str) -> None:
    """An old worker would sample the text without its images: it drops the field that holds them."""
    newer = {**msgpack.unpackb(encode(job(batch_id, requires=("images",)))), "images": [b"\xff\xd8"]}
    await push(redis, batch_id, msgpack.packb(newer))

    found = await answers(redis, batch_id, 2)

    assert [kind for kind, _ in found] == [b"error", b"error", b"sealed"]
    errors = [answer for kind, answer in found if kind == b"error"]
    assert {(error["code"], error["field"], error["group"]) for error in errors} == {
        ("unsupported", "requires", 0), ("unsupported", "requires", 1),
    }  # fmt: skip
    assert {error["message"] for error in errors} == {
        "the job requires images, which this worker does not know: upgrade the workers, or submit it without"
    }
    assert [error["prompt"]["shape"] for error in sorted(errors, key=lambda error: error["group"])] == [[1], [2]]
    assert await pending(redis) == 0
    assert not [letter for letter in await dead_letters(redis) if batch_id.encode() in letter[b"letter"]]


async def test_an_entry_of_a_kind_that_this_worker_does_not_know_is_unsupported(redis: Redis, batch_id: str) -> None:
    fields: Any = Envelope(batch_id=batch_id, job=0, first_group=0, job_groups=2, num_groups=2, kind="score").fields(
        b"rows of a newer producer"
    )
    await redis.xadd(Keys(POLICY).jobs(0), fields)

    errors = [answer for kind, answer in await answers(redis, batch_id, 2) if kind == b"error"]

    assert [(error["code"], error["field"]) for error in errors] == [("unsupported", "kind")] * 2
    assert "kind 'score'" in errors[0]["message"]
    assert "upgrade the workers" in errors[0]["message"]


async def test_a_valid_job_of_another_producer_is_served(redis: Redis, batch_id: str) -> None:
    await push(redis, batch_id, encode(job(batch_id)))

    assert [kind for kind, _ in await answers(redis, batch_id, expected=3)] == [b"group", b"group", b"sealed"]


async def test_an_unreadable_payload_is_kept_byte_for_byte(redis: Redis, batch_id: str) -> None:
    payload = b"\xc1 kept as " + batch_id.encode()

    await push(redis, batch_id, payload)
    await answers(redis, batch_id, expected=3)

    letter = (await dead_letters(redis))[-1]
    assert letter[b"payload"] == payload
    assert b"type 0xc1" in letter[b"letter"]


async def test_an_entry_that_names_no_batch_becomes_a_dead_letter(redis: Redis, client: AsyncClient) -> None:
    await redis.xadd(Keys(POLICY).jobs(0), {"who": "knows", "payload": b"\xff"})
    await client.generate([[5]], None, CONFIG, timeout=20)

    letter = (await dead_letters(redis))[-1]
    assert letter[b"payload"] == b"\xff"
    assert b"'batch' is missing" in letter[b"letter"]
    assert await pending(redis) == 0


async def test_an_error_answer_names_its_worker(worker: WorkerProcess, client: AsyncClient) -> None:
    handle = await client.submit([[]], None, CONFIG)
    answer = await anext(aiter(handle.groups()))

    assert isinstance(answer, GroupError)
    assert f"-{worker.process.pid}-" in answer.worker
