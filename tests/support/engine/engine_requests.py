"""Requests to a real engine in the test's own process, as `worker.jobs.runner` makes them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rollstream.schemas import GenerationConfig
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engine import Engine
from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.jobs import request_checks
from rollstream.worker.requests import Adapter, Completion, GenerateRequest

PROMPT = [5, 6, 7, 8]
ON_GPU = torch.cuda.is_available()
ATOL = 3e-2 if ON_GPU else 1e-4
"""Nats between two log-probs of a token, by transformers or in another batch: a GPU has fewer digits in float32."""
WITH_LORA = pytest.mark.skipif(ON_GPU, reason="these tests compare float32, in which vLLM loads no adapter on a GPU")
_numbers = itertools.count()


def settings(model: Path, adapters: Path | None = None, **fields: Any) -> WorkerSettings:
    small = {"dtype": "float32", "kv_cache_bytes": 64 * 2**20, "max_num_seqs": 64}
    return WorkerSettings(policy="test", model=model, adapter_dir=adapters, **{**small, **fields})


def request(
    engine: Engine, prompt: list[int] = PROMPT, adapter: Adapter | None = None, **fields: Any
) -> GenerateRequest:
    """A request as `worker.jobs.runner` makes it."""
    config = GenerationConfig(**{"max_new_tokens": 16, **fields})
    request_checks.check_config(config, engine.info)
    request_checks.check_prompt(np.array(prompt, np.int32), config, engine.info)
    stops = request_checks.stop_ids(config, engine.info)
    late = request_checks.late_stop_ids(config, engine.info)
    return GenerateRequest(
        request_id=f"test/{next(_numbers)}",
        prompt=prompt,
        config=config,
        stop_token_ids=stops,
        seed=config.seed,
        adapter=adapter,
        late_stop_ids=late,
    )


def skip_without(feature: str, engine: Engine) -> None:
    """Skip the test, with the engine's own reason, where the engine does not offer what it is about."""
    if (why := dict(engine.info.missing).get(feature)) is not None:
        pytest.skip(f"no {feature} here: {why}")


async def end(engine: VllmEngine) -> None:
    """At once: an end in good order takes 8 s, and the tests of generation have it."""
    engine._processes.signal()
    await engine.close()


async def generate(engine: Engine, *args: Any, **fields: Any) -> list[Completion]:
    return await engine.generate(request(engine, *args, **fields))


def ids(completions: list[Completion]) -> list[list[int]]:
    return [completion.token_ids.tolist() for completion in completions]


async def until_under_way(engines: Sequence[VllmEngine], sequences: int, tokens: int) -> None:
    """Until these engines run just so many sequences, each of which has as many tokens. Raises `TimeoutError`."""

    def reached() -> bool:
        states = [state for engine in engines for state in engine._llm.output_processor.request_states.values()]
        lengths = [state.detokenizer.num_output_tokens() for state in states]
        return len(lengths) == sequences and min(lengths) >= tokens

    async with asyncio.timeout(20):
        while not reached():  # noqa: ASYNC110 - vLLM has no event for it
            await asyncio.sleep(0.005)
