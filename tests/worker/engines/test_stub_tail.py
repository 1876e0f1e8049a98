"""Which completions of the stub run long follows from prompt and seed alone, so that a producer can tell it, too."""

from __future__ import annotations

import asyncio

import pytest

from rollstream.schemas import GenerationConfig
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.engines.stub_tail import runs_long
from rollstream.worker.requests import GenerateRequest

CONFIG = GenerationConfig(max_new_tokens=80, num_return_sequences=8)


def lengths(tail: str, prompt: int, config: GenerationConfig = CONFIG) -> list[int]:
    engine = StubEngine(WorkerSettings(policy="p", engine="stub", stub_long_tail=tail))
    request = GenerateRequest(
        request_id="r", prompt=[prompt], config=config, stop_token_ids=(2,), seed=None, adapter=None
    )
    return [len(completion.token_ids) for completion in asyncio.run(engine.generate(request))]


def test_a_tenth_of_the_samples_is_eight_times_as_long() -> None:
    found = [lengths("samples", prompt) for prompt in range(50)]

    for prompt, of_prompt in enumerate(found):
        assert of_prompt == [80 if runs_long([prompt], sample) else 10 for sample in range(8)]
    assert 20 < sum(length == 80 for of_prompt in found for length in of_prompt) < 60


def test_a_tenth_of_the_prompts_is_eight_times_as_long_with_all_samples() -> None:
    found = {prompt: set(lengths("prompts", prompt)) for prompt in range(60)}

    assert found == {prompt: {80 if runs_long([prompt], None) else 10} for prompt in range(60)}
    assert {10, 80} == set.union(*found.values())


@pytest.mark.parametrize("least", [30, 80])
def test_none_is_shorter_than_it_must_be(least: int) -> None:
    config = CONFIG.model_copy(update={"min_new_tokens": least})

    assert min(min(lengths("samples", prompt, config)) for prompt in range(10)) >= least
