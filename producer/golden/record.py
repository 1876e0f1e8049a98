"""Record golden jobs: half of the cases greedy, half sampled with a seed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from rollstream.schemas import GenerationConfig, Golden, GoldenBatch, GroupError, GroupResult, Keys, Tensor, Tolerance
from rollstream.schemas.wire.proofs.golden import MAX_CASES, MAX_GOLDEN_TOKENS, check_repeatable

from ..batches.read_answers import Answer
from ..errors import GoldenRefusedError
from ..redis_io.connection import Connection
from .origin import origin_of, reports_of, vocabulary_of
from .sampling import Wanted, completions_of, sample, told

SHORTEST, LONGEST = 8, 48
"""Tokens of prompts that are made up."""


def made_up_prompts(vocab_size: int, count: int) -> list[NDArray[np.int32]]:
    """The same ids at each call."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(SHORTEST, LONGEST + 1, count)
    return [generator.integers(0, vocab_size, length).astype(np.int32) for length in lengths]


def configs(sampled: GenerationConfig) -> tuple[GenerationConfig, GenerationConfig]:
    """How the cases are sampled: greedily, and by `sampled`, which has a seed."""
    greedy = GenerationConfig(max_new_tokens=sampled.max_new_tokens, temperature=0.0, logprobs=sampled.logprobs)
    return greedy, sampled


async def record(
    connection: Connection,
    keys: Keys,
    *,
    prompts: Sequence[Sequence[int]] | None,
    cases: int,
    sampled: GenerationConfig,
    tolerance: Tolerance | None,
    timeout: float | None,
) -> Golden:
    """Sample `cases` cases, or two for each of `prompts` if these are fewer, by the live workers.

    Without `prompts` these are made up. Raises `GoldenRefusedError` where the answers are not those of one version and
    of like workers, or one of them is an error, `ResultTimeoutError`, `RedisUnavailableError`.
    """
    if not 2 <= cases <= MAX_CASES:
        raise GoldenRefusedError(f"{cases} cases: give 2 to {MAX_CASES}")
    half, vocab_size = cases // 2, vocabulary_of(await reports_of(connection, keys))
    given = made_up_prompts(vocab_size, half) if prompts is None else _arrays(prompts[:half])
    wanted = [(given, config) for config in configs(sampled)]
    _check(wanted)
    answered = await sample(connection, keys, wanted, timeout)
    results = [[_result(answer) for answer in answers] for answers in answered]
    origin = origin_of((one for batch in results for one in batch), await reports_of(connection, keys))
    try:
        return Golden(
            batches=tuple(_batch(one, batch) for one, batch in zip(wanted, results, strict=True)),
            model=origin.model,
            vocab_size=origin.vocab_size,
            dtype=origin.dtype,
            engine=origin.engine,
            runs_on=origin.runs_on,
            policy_version=origin.policy_version,
            policy_sha256=origin.policy_sha256,
            recorded_at=time.time(),
            tolerance=tolerance,
        )
    except ValidationError as error:
        raise GoldenRefusedError(str(error.errors(include_url=False, include_input=False)[0]["msg"])) from None


def _check(wanted: Sequence[Wanted]) -> None:
    """Raises `GoldenRefusedError` before anything is queued that no file may hold."""
    try:
        for _, config in wanted:
            check_repeatable(config)
    except ValueError as error:
        raise GoldenRefusedError(str(error)) from None
    tokens = sum(
        sum(map(len, prompts)) + len(prompts) * config.num_return_sequences * config.max_new_tokens
        for prompts, config in wanted
    )
    if tokens > MAX_GOLDEN_TOKENS:
        problem = f"the cases may take {tokens} tokens, at most {MAX_GOLDEN_TOKENS} are kept"
        raise GoldenRefusedError(f"{problem}: take fewer cases, shorter prompts or fewer max_new_tokens")


def _arrays(prompts: Sequence[Sequence[int]]) -> list[NDArray[np.int32]]:
    return [np.array(prompt, np.int32) for prompt in prompts]


def _result(answer: Answer) -> GroupResult:
    if isinstance(answer, GroupError):
        raise GoldenRefusedError(f"prompt {answer.group} got no completion: {told(answer)}")
    return answer


def _batch(wanted: Wanted, results: Sequence[GroupResult]) -> GoldenBatch:
    prompts, config = wanted
    completions = [one for result in results for one in completions_of(result)]
    logprobs: list[Any] = [one.logprobs for one in completions]
    return GoldenBatch(
        config=config,
        prompt_ids=Tensor.of(np.concatenate(prompts)),
        prompt_lengths=Tensor.of(np.array(list(map(len, prompts)), np.int32)),
        token_ids=Tensor.of(np.concatenate([one.token_ids for one in completions])),
        lengths=Tensor.of(np.array([len(one.token_ids) for one in completions], np.int32)),
        logprobs=Tensor.of(np.concatenate(logprobs)),
    )
