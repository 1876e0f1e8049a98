"""The stub says what it has sampled so far, and leaves it to a caller that goes on from there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rollstream.producer.demo.tiny_model import write_model
from rollstream.schemas import GenerationConfig
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engine import Engine
from rollstream.worker.engines.replicas import Replicas
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.requests import GenerateRequest, Partial
from tests.support.worker_process import until_true

LENGTH = 100


def engine(tokens_per_s: float = 200) -> StubEngine:
    return StubEngine(
        WorkerSettings(policy="test", engine="stub", stub_tokens_per_s=tokens_per_s, stub_vocab_size=1000)
    )


def request(**fields: Any) -> GenerateRequest:
    config = GenerationConfig(**{"max_new_tokens": LENGTH, "seed": 3, "logprobs": "raw", **fields})
    return GenerateRequest(
        request_id="r", prompt=[5, 6], config=config, stop_token_ids=(), seed=config.seed, adapter=None
    )


async def seen(engine: Engine, enough: Callable[[list[Partial]], bool]) -> list[Partial]:
    await until_true(lambda: enough(engine.partials("r")))
    return engine.partials("r")


def has_tokens(partials: list[Partial]) -> bool:
    return bool(partials)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_model(tmp_path / "step-4", seed=4, tokenizer=False)


@pytest.mark.parametrize("replicas", [1, 2])
async def test_what_it_has_so_far_is_the_beginning_of_what_it_gives_in_the_end(replicas: int) -> None:
    stub = Replicas([engine() for _ in range(replicas)]) if replicas > 1 else engine()
    running = asyncio.create_task(stub.generate(request(num_return_sequences=2)))

    found = await seen(stub, has_tokens)
    completions = await running

    assert [partial.sample for partial in found] == [0, 1]
    for partial in found:
        whole, so_far = completions[partial.sample], partial.completion
        length = len(so_far.token_ids)
        assert not partial.ended
        assert 0 < length < LENGTH
        assert so_far.token_ids.tolist() == whole.token_ids[:length].tolist()
        assert so_far.logprobs is not None
        assert whole.logprobs is not None
        assert so_far.logprobs.tolist() == whole.logprobs[:length].tolist()
        assert so_far.version_spans == ((0, length),)
    assert stub.partials("r") == stub.partials("unknown") == []


async def test_it_grows_with_the_clock_until_it_has_all() -> None:
    stub = engine(tokens_per_s=500)
    running = asyncio.create_task(stub.generate(request()))
    lengths = []

    while not running.done():
        lengths += [len(partial.completion.token_ids) for partial in stub.partials("r")]
        await asyncio.sleep(0.02)

    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 2


async def test_a_swap_shows_in_the_spans_of_what_there_is_so_far(checkpoint: Path) -> None:
    stub = engine()
    running = asyncio.create_task(stub.generate(request()))
    await seen(stub, has_tokens)

    await stub.load_checkpoint(4, checkpoint, "keep")
    (found,) = await seen(stub, lambda partials: len(partials[0].completion.version_spans) > 1)
    (whole,) = await running

    (_, by_old), (version, by_new) = found.completion.version_spans
    assert (version, by_old) == (4, whole.version_spans[0][1])
    assert found.completion.token_ids.tolist() == whole.token_ids[: by_old + by_new].tolist()


async def test_a_request_that_goes_on_gets_what_an_aborting_swap_left(checkpoint: Path) -> None:
    stub = engine()
    goes_on = asyncio.create_task(stub.generate(replace(request(), goes_on=True)))
    again = asyncio.create_task(stub.generate(replace(request(), request_id="again")))
    await seen(stub, has_tokens)

    await stub.load_checkpoint(4, checkpoint, "abort")

    ((left,), (whole,)) = await goes_on, await again
    assert (left.finish_reason, left.stop_reason) == ("abort", None)
    assert left.version_spans == ((0, len(left.token_ids)),)
    assert 0 < len(left.token_ids) < LENGTH
    assert whole.version_spans == ((4, LENGTH),)


class Slow(StubEngine):
    """Its process stands still between two of its steps, as on a busy machine."""

    async def _spend(self, *args: Any) -> int:
        time.sleep(0.5)  # noqa: ASYNC251 - the event loop is to stand still
        return await super()._spend(*args)


async def test_no_token_that_was_told_is_missing_after_a_swap_on_a_busy_machine(checkpoint: Path) -> None:
    stub = Slow(WorkerSettings(policy="test", engine="stub", stub_tokens_per_s=1000, stub_vocab_size=1000))
    running = asyncio.create_task(stub.generate(replace(request(max_new_tokens=4000), goes_on=True)))

    (told,) = await seen(stub, has_tokens)
    await stub.load_checkpoint(4, checkpoint, "abort")
    (left,) = await running

    told_ids = told.completion.token_ids.tolist()
    assert left.token_ids[: len(told_ids)].tolist() == told_ids


async def test_a_sample_that_has_ended_is_told_with_the_others_and_why_it_ended() -> None:
    stub = engine()
    (first, second) = await engine(tokens_per_s=0).generate(request(num_return_sequences=2))
    stop = next(token for token in first.token_ids.tolist() if token not in second.token_ids.tolist()[:90])
    asked = replace(request(num_return_sequences=2), stop_token_ids=(stop,))
    running = asyncio.create_task(stub.generate(asked))

    found = await seen(stub, lambda partials: any(partial.ended for partial in partials))

    assert [partial.ended for partial in found] == [True, False]
    assert (found[0].completion.finish_reason, found[0].completion.stop_reason) == ("stop", stop)
    assert found[0].completion.token_ids.tolist() == (await running)[0].token_ids.tolist()
