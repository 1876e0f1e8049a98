"""Rows through a real Redis to a worker with the real vLLM engine: their scores are transformers' log-probs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rollstream import AsyncClient, GenerationConfig
from rollstream.schemas import GroupError, GroupScores
from rollstream.worker.config import WorkerSettings
from rollstream.worker.requests import ScoreRequest
from tests.support.engine.real_workers import REAL_POLICY, RealWorkers
from tests.support.engine.scoring import answers_to, queue_scores, score_job
from tests.support.engine.transformers_reference import Reference
from tests.support.faults import Queue

pytestmark = pytest.mark.vllm

LONGEST = 1024
"""What the tiny model's own context holds."""
BLOCK_BYTES = 32 * 2 * 2 * 2 * 32 * 4
"""32 tokens in the cache of the models that this file writes: layers, keys and values, heads, their size, float32.

vLLM keeps one block for itself.
"""


@pytest.fixture
def served(redis_url: str, real_workers: RealWorkers) -> Iterator[Queue]:
    real_workers.serving()
    with Queue(redis_url, REAL_POLICY) as queue:
        yield queue


def rows(*lengths: int) -> list[list[int]]:
    return [np.random.default_rng(length).integers(3, 512, length).tolist() for length in lengths]


@pytest.mark.parametrize("adapter", [None, "math@1"])
def test_ragged_rows_score_as_in_transformers(
    served: Queue, tiny_model: Path, adapter_dir: Path, adapter: str | None
) -> None:
    asked, firsts = rows(2, 40, 300, LONGEST, LONGEST + 1), [1, 20, 1, 1000, 1]
    job = score_job(
        asked, firsts, batch_id="ragged-base" if adapter is None else "ragged-lora", top_logprobs=3, adapter=adapter
    )

    *answers, too_long = answers_to(served, queue_scores(served, job), 5)

    reference = Reference(tiny_model, None if adapter is None else adapter_dir / adapter)
    for answer, row, first in zip(answers, asked, firsts, strict=False):
        assert isinstance(answer, GroupScores)
        assert (answer.policy_version, answer.adapter) == (0, adapter)
        expected = reference.logits(row[:first], row[first:]).log_softmax(-1)
        known = expected.gather(1, torch.tensor(row[first:])[:, None])[:, 0].numpy()
        assert answer.logprobs.numpy() == pytest.approx(known, abs=1e-4)
        assert answer.top_logprobs is not None
        assert answer.top_logprobs.numpy() == pytest.approx(expected.topk(3).values.numpy(), abs=1e-4)
    assert isinstance(too_long, GroupError)
    assert too_long.code == "too_long"


async def test_what_was_generated_scores_as_it_was_sampled(served: Queue, redis_url: str) -> None:
    config = GenerationConfig(max_new_tokens=30, temperature=1.0, ignore_eos=True, seed=5, num_return_sequences=2)
    async with AsyncClient(redis_url, policy=REAL_POLICY) as client:
        rollouts = await client.generate([[5, 6, 7, 8]], None, config, timeout=60)
    job = score_job(rollouts.sequences.tolist(), [4, 4], batch_id="as-sampled")

    answers = answers_to(served, queue_scores(served, job), 2)

    assert rollouts.old_log_probs is not None
    for answer, sampled in zip(answers, rollouts.old_log_probs.numpy(), strict=True):
        assert isinstance(answer, GroupScores)
        assert answer.logprobs.numpy() == pytest.approx(sampled, abs=1e-4)


@pytest.mark.large
@pytest.mark.parametrize("family", ["gpt2", "qwen3", "llama", "gemma3"])
@pytest.mark.parametrize("limit", [None, 64, 40])
async def test_a_row_as_long_as_the_limit_is_scored(family: str, limit: int | None, tmp_path: Path) -> None:
    from rollstream.worker.engines.vllm.engine import VllmEngine

    model = written(family, tmp_path / family)
    known: dict[str, Any] = {"kv_cache_bytes": 2**24, "max_num_seqs": 4, "max_model_len": limit, "dtype": "float32"}
    engine = VllmEngine(WorkerSettings(policy="test", model=model, **known))
    [row] = rows(limit or 64)
    try:
        await engine.start()
        assert engine.info.max_model_len == len(row)
        request = ScoreRequest(request_id="r", token_ids=row, first=1, top_logprobs=2, adapter=None)
        found = await engine.score(request)
    finally:
        await engine.close()

    assert found.logprobs == pytest.approx(Reference(model).logprobs(row[:1], row[1:]), abs=1e-4)


@pytest.mark.large
@pytest.mark.parametrize(("limit", "blocks", "longest"), [(None, 2, 64), (-1, 2, 64), (-1, 1, 32)])
async def test_a_cache_and_a_step_that_just_hold_the_longest_row_score_it(
    limit: int | None, blocks: int, longest: int, tmp_path: Path
) -> None:
    from rollstream.worker.engines.vllm.engine import VllmEngine

    model = written("llama", tmp_path / "llama")
    exactly = {
        "block_size": 32, "kv_cache_memory_bytes": (1 + blocks) * BLOCK_BYTES, "max_num_batched_tokens": 64,
        "max_num_seqs": 4, "dtype": "float32",
    }  # fmt: skip
    limited = {} if limit is None else {"max_model_len": limit}
    engine = VllmEngine(WorkerSettings(policy="test", model=model, engine_args=exactly | limited))
    [row] = rows(longest)
    try:
        await engine.start()
        assert engine.info.max_model_len == longest
        request = ScoreRequest(request_id="r", token_ids=row, first=1, top_logprobs=0, adapter=None)
        found = await asyncio.wait_for(engine.score(request), 60)
    finally:
        await engine.close()

    assert found.logprobs == pytest.approx(Reference(model).logprobs(row[:1], row[1:]), abs=1e-4)


def written(family: str, folder: Path) -> Path:
    """A tiny model with a context of 64 tokens, random and in float32."""
    import transformers

    torch.manual_seed(3)
    common = {
        "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 64,
    }  # fmt: skip
    made = {
        "gpt2": lambda: transformers.GPT2LMHeadModel(
            transformers.GPT2Config(vocab_size=512, n_positions=64, n_embd=64, n_layer=2, n_head=2)
        ),
        "qwen3": lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**common)),
        "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**common)),
        "gemma3": lambda: transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**common)),
    }[family]()
    made.save_pretrained(folder)
    return folder
