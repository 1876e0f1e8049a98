"""A row that is scored while weights are swapped has the scores of one version: the one that it names."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rollstream.worker.engine import SwapMode
from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.requests import ScoreRequest
from tests.real_engine.weight_swap.steps import swap
from tests.support.engine.transformers_reference import Reference

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="package")]

ROWS = [[(i * 37 + number) % 500 + 3 for i in range(300)] for number in range(60)]
_numbers = itertools.count()


@pytest.mark.parametrize("mode", ["keep", "wait", "abort"])
async def test_rows_under_way_are_scored_by_the_version_that_they_name(
    engine: VllmEngine, models: list[Path], reference: Callable[..., Reference], mode: SwapMode
) -> None:
    by_version = {await swap(engine, models[0]): models[0]}
    asked = [
        engine.score(
            ScoreRequest(request_id=f"row/{next(_numbers)}", token_ids=ids, first=1, top_logprobs=0, adapter=None)
        )
        for ids in ROWS
    ]
    scoring = [asyncio.create_task(one) for one in asked]
    await asyncio.wait(scoring, return_when=asyncio.FIRST_COMPLETED)
    assert not all(one.done() for one in scoring)

    by_version[await swap(engine, models[1], mode)] = models[1]

    found = await asyncio.gather(*scoring)
    assert {scores.version for scores in found} == by_version.keys()
    for ids, scores in zip(ROWS, found, strict=True):
        logprobs = reference(by_version[scores.version]).logits(ids[:1], ids[1:]).log_softmax(-1)
        expected = logprobs.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].numpy()
        assert scores.logprobs == pytest.approx(expected, abs=1e-4)
