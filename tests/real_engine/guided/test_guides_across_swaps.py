"""New weights in the middle of guided completions: the guide goes on from where the text is."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from rollstream.producer.demo.tiny_model import write_model
from rollstream.worker.engine import SwapMode
from rollstream.worker.engines.vllm.engine import VllmEngine
from tests.support.engine.engine_requests import PROMPT, end, generate, settings, skip_without, until_under_way

pytestmark = [pytest.mark.vllm, pytest.mark.large, pytest.mark.asyncio]

SWAPS: tuple[SwapMode, ...] = ("keep", "abort", "keep", "wait")
LETTERS = 120


async def test_a_guided_completion_matches_its_guide_through_swaps_in_every_mode(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    models = [write_model(tmp_path / f"step-{seed}", seed=seed) for seed in range(2)]
    tokenizer = AutoTokenizer.from_pretrained(models[0])
    start, stop = (tokenizer.encode(mark, add_special_tokens=False)[0] for mark in "[]")
    engine = VllmEngine(settings(models[0], thinking_marks="[ ]"))
    await engine.start()
    try:
        skip_without("thinking_budget", engine)
        guided: dict[str, Any] = {"regex": f"([abc][xyz]){{{LETTERS}}}"}
        await generate(engine, guided=guided, max_new_tokens=1)  # the compiler of guides takes seconds to start
        for version, mode in enumerate(SWAPS, 1):
            answers = asyncio.gather(
                generate(engine, guided=guided, num_return_sequences=3, max_new_tokens=2 * LETTERS + 1, seed=version),
                generate(
                    engine, [*PROMPT, start], thinking_budget=150, max_new_tokens=2 * LETTERS, ignore_eos=True,
                    logit_bias={stop: -100.0, start: -100.0},
                ),
            )  # fmt: skip
            await until_under_way([engine], 4, 32)

            await engine.load_checkpoint(version, models[version % 2], mode)

            matched, (thought,) = await answers
            for found in matched:
                assert re.fullmatch(guided["regex"], tokenizer.decode(found.token_ids[:-1])), mode
                assert found.stop_reason == 2
                assert len(found.version_spans) == (2 if mode == "keep" else 1)
            assert thought.forced is not None
            assert thought.forced.nonzero()[0].tolist() == [150], mode
            assert thought.token_ids[150] == stop
    finally:
        await end(engine)
