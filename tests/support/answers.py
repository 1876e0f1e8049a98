"""What a worker would publish, made by hand: the answers of a batch and the writes that its script makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import redis

from rollstream import RolloutBatch
from rollstream.producer.batches.read_answers import AnyAnswer
from rollstream.producer.rollouts.assemble import assemble
from rollstream.schemas import Batch, ErrorCode, GenerationConfig, GroupError, GroupResult, Keys, Sealed, Tensor, encode

BATCH_ID = "batch"
KEPT_S = 600
"""How long the answers stay, so that no test waits for one that is gone."""


def batch_of(prompts: Sequence[Sequence[int]], config: GenerationConfig, prompt_width: int | None = None) -> Batch:
    return Batch(
        batch_id=BATCH_ID,
        num_groups=len(prompts),
        num_jobs=1,
        prompt_width=max(map(len, prompts)) if prompt_width is None else prompt_width,
        config=config,
        submitted_at=0.0,
    )


def result_of(
    group: int, prompt: Sequence[int], completions: Sequence[Sequence[int]], batch_id: str = BATCH_ID, **changes: Any
) -> GroupResult:
    """Log-prob of the token at position j of completion i: -(i + 1) - j / 8, exact in float32."""
    n, width = len(completions), max(map(len, completions))
    lengths = np.array([len(ids) for ids in completions], np.int32)
    mask = np.arange(width) < lengths[:, None]
    token_ids = np.array([[*ids, *[0] * (width - len(ids))] for ids in completions], np.int32).reshape(n, width)
    logprobs = np.where(mask, -np.arange(1, n + 1)[:, None] - np.arange(width) / 8, 0).astype(np.float32)
    fields: dict[str, Any] = {
        "batch_id": batch_id,
        "group": group,
        "prompt": Tensor.of(np.array(prompt, np.int32)),
        "token_ids": Tensor.of(token_ids),
        "lengths": Tensor.of(lengths),
        "response_mask": Tensor.of(mask),
        "logprobs": Tensor.of(logprobs),
        "logprobs_flavour": "processed",
        "finish_reasons": ("stop",) * n,
        "stop_reasons": tuple(ids[-1] if ids else None for ids in completions),
        "version_spans": tuple(((0, len(ids)),) for ids in completions),
        "worker": "by-hand",
        "queued_s": 0.0,
        "generate_s": 0.0,
    }
    return GroupResult(**fields | changes)


def error_of(group: int, prompt: Sequence[int] | None = None, batch_id: str = BATCH_ID) -> GroupError:
    return GroupError(
        batch_id=batch_id,
        group=group,
        code=ErrorCode.TOO_LONG,
        field="prompt",
        message="too long by far",
        worker="by-hand",
        prompt=None if prompt is None else Tensor.of(np.array(prompt, np.int32)),
    )


class Answering:
    """Writes to a batch's result stream and ledger as the worker's script does, without a job or a lease."""

    def __init__(self, redis_url: str, policy: str, batch_id: str, num_groups: int) -> None:
        self._redis = redis.Redis.from_url(redis_url)
        self._batch_id = batch_id
        self._num_groups = num_groups
        self.results = Keys(policy).results(batch_id)
        self.ledger = Keys(policy).ledger(batch_id)

    def publish(self, *answers: AnyAnswer) -> None:
        for answer in answers:
            self.write(answer.kind.encode(), encode(answer))
            if self._redis.hincrby(self.ledger, "done", 1) == self._num_groups:
                self.write(b"sealed", encode(Sealed(batch_id=self._batch_id, num_groups=self._num_groups)))
                self._redis.expire(self.results, KEPT_S)
                self._redis.expire(self.ledger, KEPT_S)

    def write(self, kind: bytes, payload: bytes) -> None:
        self._redis.xadd(self.results, {b"kind": kind, b"payload": payload})


def rollouts(*rows: tuple[tuple[int, int], ...] | None) -> RolloutBatch:
    """A prompt a row, by the spans of its completion; None failed."""
    batch = batch_of([[5]] * len(rows), GenerationConfig(max_new_tokens=8))
    done = {
        group: error_of(group, [5])
        if spans is None
        else result_of(group, [5], [[6] * sum(tokens for _, tokens in spans)], version_spans=(spans,))
        for group, spans in enumerate(rows)
    }
    return assemble(batch, done)
