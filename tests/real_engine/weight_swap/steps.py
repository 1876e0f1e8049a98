"""What tests of a swap ask of the engine, and what they do to a checkpoint."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rollstream.producer.demo.tiny_model import write_model
from rollstream.schemas import GenerationConfig
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engine import SwapMode
from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.requests import Adapter, Completion, GenerateRequest
from rollstream.worker.weights import checkpoint
from tests.support.engine.engine_requests import until_under_way
from tests.support.engine.transformers_reference import Reference
from tests.support.weights.versions import shard

PROMPT = [5, 6, 7, 8]
LONG_PROMPT = [(i * 37) % 500 + 3 for i in range(300)]
_numbers = itertools.count()
versions = itertools.count(1)


def settings(model: Path, adapter_dir: Path | None = None) -> WorkerSettings:
    return WorkerSettings(
        policy="test", model=model, adapter_dir=adapter_dir, dtype="float32", kv_cache_bytes=64 * 2**20,
        max_num_seqs=32, engine_timeout_s=20, weight_transfer="gloo", weights="redis",
    )  # fmt: skip


def request(prompt: list[int] = PROMPT, adapter: Adapter | None = None, **fields: Any) -> GenerateRequest:
    config = GenerationConfig(**{"max_new_tokens": 24, "ignore_eos": True, **fields})
    return GenerateRequest(
        request_id=f"test/{next(_numbers)}",
        prompt=prompt,
        config=config,
        stop_token_ids=(),
        seed=config.seed,
        adapter=adapter,
    )


async def swap(engine: VllmEngine, folder: Path, mode: SwapMode = "keep") -> int:
    version = next(versions)
    paused_s = await engine.load_checkpoint(version, folder, mode)
    assert engine.policy_version == version
    assert 0 < paused_s < 600, "its weights changed while it sampled"
    return version


async def greedy(engine: VllmEngine, prompt: list[int] = PROMPT, adapter: Adapter | None = None) -> Completion:
    (found,) = await engine.generate(request(prompt, adapter, temperature=0))
    return found


async def serves(engine: VllmEngine, reference: Reference, prompt: list[int] = PROMPT) -> bool:
    """Whether greedy tokens and their log-probs are those of transformers."""
    found = await greedy(engine, prompt)
    expected, _ = reference.generate(prompt, 24, eos_token_id=None)
    same = [found.token_ids.tolist()] == expected
    return same and found.logprobs == pytest.approx(reference.logprobs(prompt, expected[0]), abs=1e-4)


async def in_flight(engine: VllmEngine, requests: list[GenerateRequest], tokens: int = 20) -> asyncio.Future[Any]:
    """The answers to come, once each sequence has `tokens` tokens."""
    answers = asyncio.gather(*(engine.generate(one) for one in requests))
    sequences = sum(one.config.num_return_sequences for one in requests)
    await until_under_way([engine], sequences, tokens)
    return answers


def scribble(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(os.urandom(10_000))


def write_again(folder: Path) -> None:
    """vLLM loads it without a word, but it is another version than was asked for."""
    shutil.rmtree(folder)
    shard(write_model(folder, seed=33, tied=True, tokenizer=False))


def remove_all(folder: Path) -> None:
    shutil.rmtree(folder)


def harm_after_the_check(monkeypatch: pytest.MonkeyPatch, harm: Callable[[Path], None]) -> None:
    """What a trainer does that removes old checkpoints at the wrong moment."""
    check = checkpoint.check

    def check_then_harm(folder: Path, like: checkpoint.Booted | None) -> None:
        check(folder, like)
        harm(folder)

    monkeypatch.setattr(checkpoint, "check", check_then_harm)


def unfinished(engine: VllmEngine) -> int:
    return int(engine._llm.output_processor.get_num_unfinished_requests())
