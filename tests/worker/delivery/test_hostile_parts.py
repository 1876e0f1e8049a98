"""What Redis has instead of a part is dropped with one warning, and its sample begins again; its neighbours do not."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from rollstream.schemas import Envelope, GenerationConfig, Job, Keys, Part, Repetition, Tensor, encode
from rollstream.schemas.hashes.part_fields import FINISHED, part_field, tokens_field
from rollstream.worker.delivery import part_scripts
from rollstream.worker.delivery.part_checks import problem_of
from tests.schemas.wire.messages import int32
from tests.support.partials.parts import (
    CONFIG,
    VOCAB,
    deliver,
    finished,
    job_of,
    part_of,
    parts_at,
    take_over,
    tokens_by_name,
)

JOB = job_of()
OTHER = job_of(config=CONFIG.model_copy(update={"seed": 8}))


def part(tokens: int = 3, **others: Any) -> Part:
    return part_of(JOB, 0, 0, tokens, **others)


def stopped(**others: Any) -> Part:
    return part(3, finish_reason="stop", **others)


NO_PARTS: dict[str, bytes] = {
    "nothing": b"",
    "garbage": b"\xff\x00garbage",
    "another message": encode(JOB),
    "cut short": encode(part())[:-1],
    "another batch's": encode(part(batch_id="c")),
    "another group's": encode(part_of(JOB, 1, 0, 3, of=part().of)),
    "another sample's": encode(part_of(JOB, 0, 1, 3)),
    "of another seed": encode(part_of(OTHER, 0, 0, 3)),
    "of another prompt": encode(part(of=part_of(JOB, 1, 0, 3).of)),
    "of an adapter": encode(part(adapter="math@1")),
}
FALSE: dict[str, tuple[Part, str]] = {
    "too long": (part(9, finish_reason="length"), "at most 8"),
    "as long as can be and not finished": (part(8), "at most 7"),
    "ended by its length before it": (part(7, finish_reason="length"), "max_new_tokens=8 with 7"),
    "ended by its length and by a stop": (part(8, finish_reason="length", stop_reason=7), "and at 7"),
    "stopped at another token": (stopped(stop_reason=1), "not its last token"),
    "stopped at a string that nobody gave": (stopped(stop_reason="end"), "no stop string"),
    "a repetition that nobody asked for": (part(3, finish_reason="repetition"), "nobody asked"),
    "a text that nobody asked for": (stopped(text="abc"), "stop strings"),
    "an id outside the vocabulary": (part(token_ids=int32(0, VOCAB, 1)), "vocabulary"),
    "no log-probs": (part(logprobs=None, logprobs_flavour=None), "log-probs"),
    "log-probs of another flavour": (part(logprobs_flavour="raw"), "log-probs"),
    "candidates that nobody asked for": (
        part(top_token_ids=Tensor.of(np.zeros((3, 1), np.int32)), top_logprobs=Tensor.of(np.zeros((3, 1), np.float32))),
        "top_logprobs",
    ),
    "labels that nobody asked for": (
        part(label_logprobs=Tensor.of(np.zeros((3, 2), np.float32))),
        "label_token_ids",
    ),
    "a support that nobody asked for": (
        part(support_ids=int32(1, 2, 3), support_lengths=int32(1, 1, 1)),
        "sampling_support",
    ),
    "forced tokens without a budget": (part(forced=Tensor.of(np.ones(3, np.bool_))), "thinking_budget"),
}


@pytest.mark.parametrize(("claimed", "problem"), FALSE.values(), ids=FALSE)
def test_a_part_that_its_config_cannot_have_given_is_named(claimed: Part, problem: str) -> None:
    assert problem in (problem_of(claimed, JOB, 0, 0, VOCAB) or "")


def with_config(**options: Any) -> Job:
    return job_of(config=CONFIG.model_copy(update=options))


TRUE: dict[str, tuple[Job, Callable[[Job], Part]]] = {
    "some tokens": (JOB, lambda job: part_of(job, 0, 0, 7)),
    "by weights of several versions": (JOB, lambda job: part_of(job, 0, 0, 5, version_spans=((3, 2), (9, 3)))),
    "ended by its length": (JOB, lambda job: finished(job, 0, 0)),
    "ended by EOS": (JOB, lambda job: part_of(job, 0, 0, 3, finish_reason="stop")),
    "ended by a stop id": (JOB, lambda job: part_of(job, 0, 0, 3, finish_reason="stop", stop_reason=2)),
    "ended by a stop string": (
        with_config(stop_strings=("end",)),
        lambda job: part_of(job, 0, 0, 3, finish_reason="stop", stop_reason="end", text="a"),
    ),
    "ended by a stop id that its config names": (
        with_config(stop_token_ids=(2,), min_new_tokens=2),
        lambda job: part_of(job, 0, 0, 3, finish_reason="stop", stop_reason=2),
    ),
    "with an EOS that its config ignores": (
        with_config(eos_token_id=(1,), ignore_eos=True),
        lambda job: part_of(job, 0, 0, 3),
    ),
    "with a candidate that was ruled out": (
        with_config(top_logprobs=1),
        lambda job: part_of(
            job,
            0,
            0,
            1,
            top_token_ids=Tensor.of(np.zeros((1, 1), np.int32)),
            top_logprobs=Tensor.of(np.full((1, 1), -np.inf, np.float32)),
        ),
    ),
    "ended by a repetition": (
        with_config(stop_on_repetition=Repetition(max_pattern_size=1, min_count=2)),
        lambda job: part_of(job, 0, 0, 3, finish_reason="repetition"),
    ),
    "without log-probs": (
        with_config(logprobs=None),
        lambda job: part_of(job, 0, 0, 3, logprobs=None, logprobs_flavour=None),
    ),
    "of a single sample": (
        job_of(config=GenerationConfig(max_new_tokens=8)),
        lambda job: part_of(job, 0, 0, 3),
    ),
}


@pytest.mark.parametrize(("job", "made"), TRUE.values(), ids=TRUE)
def test_a_true_part_is_gone_on_with(job: Job, made: Callable[[Job], Part]) -> None:
    assert problem_of(made(job), job, 0, 0, VOCAB) is None


def floats(*values: float) -> Tensor:
    return Tensor.of(np.array(values, np.float32))


STOPS = with_config(stop_token_ids=(9,), eos_token_id=(8,), min_new_tokens=2)
CANDIDATES = with_config(top_logprobs=1)
UNSAMPLED: dict[str, tuple[Job, dict[str, Any], str]] = {
    "log-probs of infinity": (JOB, {"logprobs": floats(-1, np.inf, -1)}, "logprobs"),
    "log-probs of minus infinity": (JOB, {"logprobs": floats(-1, -np.inf, -1)}, "logprobs"),
    "log-probs above 0": (JOB, {"logprobs": floats(-1, 0.5, -1)}, "logprobs"),
    "candidates of NaN": (
        CANDIDATES,
        {
            "top_token_ids": Tensor.of(np.zeros((3, 1), np.int32)),
            "top_logprobs": Tensor.of(np.full((3, 1), np.nan, "f4")),
        },
        "top_logprobs",
    ),
    "labels above 0": (
        with_config(label_token_ids=(1,)),
        {"label_logprobs": Tensor.of(np.full((3, 1), 7, np.float32))},
        "label_logprobs",
    ),
    "an id that is not allowed": (with_config(allowed_token_ids=(0, 2)), {}, "allowed_token_ids"),
    "a stop id too early": (STOPS, {"token_ids": int32(1, 9), "finish_reason": "stop"}, "min_new_tokens=2"),
    "the config's EOS too early": (STOPS, {"token_ids": int32(1, 8), "finish_reason": "stop"}, "min_new_tokens=2"),
    "a stop id in its middle": (STOPS, {"token_ids": int32(1, 2, 9, 8), "finish_reason": "stop"}, "goes on after"),
    "a stop id and not finished": (STOPS, {"token_ids": int32(1, 2, 9)}, "goes on after"),
}


@pytest.mark.parametrize(("job", "fields", "problem"), UNSAMPLED.values(), ids=UNSAMPLED)
def test_a_part_that_no_engine_can_have_sampled_is_named(job: Job, fields: dict[str, Any], problem: str) -> None:
    tokens = fields["token_ids"].shape[0] if "token_ids" in fields else 3
    assert problem in (problem_of(part_of(job, 0, 0, tokens, **fields), job, 0, 0, VOCAB) or "")


@pytest.fixture
def keys(policy: str) -> Keys:
    return Keys(policy)


HOSTILE = NO_PARTS | {name: encode(claimed) for name, (claimed, _) in FALSE.items()}


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
async def test_what_is_no_part_is_dropped_and_its_neighbour_is_not(redis: Redis, keys: Keys, value: bytes) -> None:
    parts, lease = parts_at(redis, keys), await deliver(redis, keys, JOB)
    await parts.keep(lease, Envelope.of_job(JOB), [part(3), part_of(JOB, 0, 1, 3)])
    await redis.hset(keys.parts("b"), part_field(0, 0), value)
    lease = await take_over(redis, lease, "w2")

    with capture_logs() as logs:
        found = await parts.kept(lease, JOB, [0, 1])

    assert tokens_by_name(found) == {(0, 1): 3}
    assert [one["parts"] for one in logs if one["log_level"] == "warning"] == [1]
    assert not await redis.hexists(keys.parts("b"), part_field(0, 0))
    assert (await parts.keep(lease, Envelope.of_job(JOB), [part(1)])).written == 1
    assert tokens_by_name(await parts.kept(lease, JOB, [0])) == {(0, 0): 1, (0, 1): 3}


@pytest.mark.parametrize("reached", [b"4", b"2", FINISHED.encode(), b"", b"-1", b"1e999", None], ids=repr)
async def test_a_part_that_is_not_as_far_as_it_says_is_dropped(redis: Redis, keys: Keys, reached: bytes | None) -> None:
    parts, lease = parts_at(redis, keys), await deliver(redis, keys, JOB)
    await parts.keep(lease, Envelope.of_job(JOB), [part(3)])
    if reached is None:
        await redis.hdel(keys.parts("b"), tokens_field(0, 0))
    else:
        await redis.hset(keys.parts("b"), tokens_field(0, 0), reached)

    assert await parts.kept(lease, JOB, [0]) == {}
    assert (await parts.keep(lease, Envelope.of_job(JOB), [part(1)])).written == 1
    assert tokens_by_name(await parts.kept(lease, JOB, [0])) == {(0, 0): 1}


async def test_a_mark_without_a_part_keeps_no_sample_from_being_kept(redis: Redis, keys: Keys) -> None:
    parts, lease = parts_at(redis, keys), await deliver(redis, keys, JOB)
    await parts.keep(lease, Envelope.of_job(JOB), [part(3)])
    await redis.hdel(keys.parts("b"), part_field(0, 0))

    assert await parts.kept(lease, JOB, [0]) == {}
    assert (await parts.keep(lease, Envelope.of_job(JOB), [part(1)])).written == 1
    assert tokens_by_name(await parts.kept(lease, JOB, [0])) == {(0, 0): 1}


@pytest.mark.parametrize("count", [b"\xff", b"-7", b"999999999999", b"1e99", b"0"], ids=repr)
async def test_a_wrong_number_of_samples_hangs_nobody(redis: Redis, keys: Keys, count: bytes) -> None:
    parts, lease = parts_at(redis, keys), await deliver(redis, keys, JOB)
    await parts.keep(lease, Envelope.of_job(JOB), [part(3)])
    await redis.hset(keys.parts("b"), "0", count)
    began = time.monotonic()

    found = await parts.kept(lease, JOB, [0])
    kept = await parts.keep(lease, Envelope.of_job(JOB), [part(4)])

    assert tokens_by_name(found) in ({(0, 0): 3}, {})
    assert kept.written == 1
    assert time.monotonic() - began < 5


async def test_a_part_larger_than_a_message_is_not_fetched(
    redis: Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_scripts, "MAX_BYTES", 1000)
    parts, lease = parts_at(redis, keys), await deliver(redis, keys, JOB)
    await parts.keep(lease, Envelope.of_job(JOB), [part(3)])
    await redis.hset(keys.parts("b"), part_field(0, 0), bytes(5000))

    with capture_logs() as logs:
        assert await parts.kept(lease, JOB, [0]) == {}
    assert [one["why"] for one in logs] == ["it has 5000 bytes"]


async def test_fields_that_nobody_asks_for_are_not_read(redis: Redis, keys: Keys) -> None:
    parts, lease = parts_at(redis, keys), await deliver(redis, keys, JOB)
    await parts.keep(lease, Envelope.of_job(JOB), [part(3)])
    await redis.hset(keys.parts("b"), mapping={f"0:{sample}": b"x" * 100 for sample in range(3, 30_000)})
    await redis.hset(keys.parts("b"), "0", 30_000)

    with capture_logs() as logs:
        found = await parts.kept(await take_over(redis, lease, "w2"), JOB, [0])

    assert (tokens_by_name(found), logs) == ({(0, 0): 3}, [])


LARGE = b"1" * 3_000_000


@pytest.mark.parametrize("field", ["0", tokens_field(0, 0), tokens_field(0, 1)])
async def test_a_number_of_many_bytes_is_not_fetched(redis: Redis, keys: Keys, field: str) -> None:
    parts, lease = parts_at(redis, keys), await deliver(redis, keys, JOB)
    await parts.keep(lease, Envelope.of_job(JOB), [part(3)])
    await redis.hset(keys.parts("b"), field, LARGE)

    counts = await part_scripts.read_counts(redis, keys.parts("b"), [0, 1])
    found = await part_scripts.read_parts(redis, keys.parts("b"), [(0, 0), (0, 1)], most=2**23)

    assert max(len(count or b"") for count in counts) <= 16
    assert max(len(one.reached or b"") for one in found) <= 16
    kept = tokens_by_name(await parts.kept(lease, JOB, [0]))
    assert kept == ({} if field == tokens_field(0, 0) else {(0, 0): 3})
    if field == tokens_field(0, 0):
        assert not await redis.hexists(keys.parts("b"), field)
