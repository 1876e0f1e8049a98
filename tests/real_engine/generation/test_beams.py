"""Beam search on the real engine gives the beams of transformers, and on a tiny vocabulary the best of all."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rollstream.producer.demo.tiny_model import write_model
from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.jobs.beam_search import beam_search
from rollstream.worker.requests import Adapter
from tests.support.engine.engine_requests import ATOL, PROMPT, end, request, settings
from tests.support.engine.transformers_reference import Reference

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="package")]


BEAMS: dict[str, dict[str, Any]] = {
    "early_stopping=False": {},
    "early_stopping=True": {"early_stopping": True},
    "early_stopping=never": {"early_stopping": "never"},
    "length_penalty=0.5": {"length_penalty": 0.5},
    "length_penalty=2": {"length_penalty": 2.0},
    "length_penalty=-1": {"length_penalty": -1.0},
    "never, length_penalty=2": {"early_stopping": "never", "length_penalty": 2.0},
    "min_new_tokens": {"min_new_tokens": 8},
}


@pytest.mark.parametrize("name", [None, "math@1"])
@pytest.mark.parametrize("options", BEAMS)
async def test_beams_are_transformers_beams(
    engine: VllmEngine,
    adapters: dict[str | None, Adapter | None],
    reference: Callable[[str | None], Reference],
    name: str | None,
    options: str,
) -> None:
    stops = await _reachable_stops(engine, adapters[name])
    wanted = request(
        engine, PROMPT, adapters[name], num_beams=4, num_return_sequences=3, eos_token_id=stops, **BEAMS[options]
    )

    found = await beam_search(engine, wanted)

    tokens, scores = reference(name).generate(
        PROMPT, 16, num_beams=4, num_return_sequences=3, eos_token_id=list(stops), **BEAMS[options]
    )
    for beam, expected in zip(found, tokens, strict=True):
        length = len(beam.token_ids)
        assert beam.token_ids.tolist() == expected[:length]
        assert set(expected[length:]) <= {stops[0]}, "transformers pads with the first EOS id when pad is 0"
        assert beam.logprobs == pytest.approx(reference(name).logprobs(PROMPT, expected[:length]), abs=ATOL)
    assert [beam.score for beam in found] == pytest.approx(scores, rel=1e-6, abs=ATOL)


async def _reachable_stops(engine: VllmEngine, adapter: Adapter | None) -> tuple[int, ...]:
    """Two ids that beams come upon, so that stopping is really at work (the model's own EOS is rare)."""
    beams = await beam_search(engine, request(engine, PROMPT, adapter, num_beams=4, ignore_eos=True))
    tokens = beams[0].token_ids.tolist()
    return tuple(sorted({tokens[4], tokens[9]}))


async def test_on_a_tiny_vocabulary_beams_are_an_exhaustive_search(tmp_path: Path) -> None:
    model = write_model(tmp_path, vocab_size=8, eos_token_ids=(2, 5), tokenizer=False, seed=5)
    engine, reference = VllmEngine(settings(model)), Reference(model)
    await engine.start()
    try:
        assert (engine.info.eos_token_ids, engine.info.has_tokenizer) == ((2, 5), False)
        # 8 ids less 2 that end: 6 beams hold every prefix of one token.
        prompts = [[first, second, 1] for first in range(3) for second in range(3)]
        cases = [(prompt, length_penalty) for prompt in prompts for length_penalty in (0.0, 1.0)]
        options: dict[str, Any] = {"num_beams": 6, "max_new_tokens": 2, "early_stopping": "never"}
        found = await asyncio.gather(
            *(beam_search(engine, request(engine, p, length_penalty=lp, **options)) for p, lp in cases)
        )
    finally:
        await end(engine)

    best = [beams[0].token_ids.tolist() for beams in found]
    assert best == [_exhaustive(reference, prompt, length_penalty, {2, 5}) for prompt, length_penalty in cases]
    assert {len(tokens) for tokens in best} == {1, 2}


def _exhaustive(reference: Reference, prompt: list[int], length_penalty: float, stops: set[int]) -> list[int]:
    """The best of all completions over 8 ids that end in a stop id or after two tokens."""
    scored = []
    for tokens in [*itertools.product(range(8)), *itertools.product(range(8), repeat=2)]:
        ends = tokens[-1] in stops or len(tokens) == 2
        if ends and not stops & set(tokens[:-1]):
            total = float(reference.logprobs(prompt, list(tokens)).sum())
            scored.append((total / len(tokens) ** length_penalty, list(tokens)))
    return max(scored)[1]
