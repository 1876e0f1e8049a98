"""The stub engine swaps as the real one does, so that what is tested on it is tested."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from rollstream.producer.demo.tiny_model import write_model
from rollstream.schemas import GenerationConfig
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engine import SwapMode
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.errors import CheckpointRefusedError
from rollstream.worker.jobs.beam_search import beam_search
from rollstream.worker.requests import GenerateRequest

LENGTH = 100


def engine(model: Path | None = None, *, tokens_per_s: float = 200, max_num_seqs: int = 8) -> StubEngine:
    return StubEngine(
        WorkerSettings(
            policy="test", engine="stub", model=model, stub_tokens_per_s=tokens_per_s, stub_vocab_size=1000,
            max_num_seqs=max_num_seqs,
        )
    )  # fmt: skip


def request(stops: tuple[int, ...] = (), **fields: Any) -> GenerateRequest:
    config = GenerationConfig(**{"max_new_tokens": LENGTH, "seed": 3, **fields})
    return GenerateRequest(
        request_id="r", prompt=[5, 6], config=config, stop_token_ids=stops, seed=config.seed, adapter=None
    )


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_model(tmp_path / "step-4", seed=4, tokenizer=False)


async def alone(version: int, checkpoint: Path) -> list[int]:
    """All tokens of an undisturbed completion."""
    at_once = engine(tokens_per_s=0)
    if version:
        await at_once.load_checkpoint(version, checkpoint, "keep")
    (found,) = await at_once.generate(request())
    assert found.version_spans == ((version, LENGTH),)
    tokens: list[int] = found.token_ids.tolist()
    return tokens


@pytest.mark.parametrize(("mode", "versions"), [("keep", [0, 4]), ("wait", [0]), ("abort", [4])])
async def test_a_completion_in_flight_is_sampled_by_the_versions_that_its_spans_say(
    mode: SwapMode, versions: list[int], checkpoint: Path
) -> None:
    old, new = await alone(0, checkpoint), await alone(4, checkpoint)
    stub = engine()
    running = asyncio.create_task(stub.generate(request()))
    await asyncio.sleep(0.1)

    swapping = asyncio.create_task(stub.load_checkpoint(4, checkpoint, mode))
    await asyncio.sleep(0.05)
    late = asyncio.create_task(stub.generate(request(max_new_tokens=2)))
    await swapping

    ((found,), (later,)) = await running, await late
    assert [version for version, _ in found.version_spans] == versions
    by = found.version_spans[0][1] if mode == "keep" else (LENGTH if mode == "wait" else 0)
    assert sum(tokens for _, tokens in found.version_spans) == LENGTH
    assert found.token_ids.tolist() == old[:by] + new[by:]
    assert (stub.policy_version, later.version_spans) == (4, ((4, 2),))


async def test_version_0_gives_the_tokens_that_it_always_gave(checkpoint: Path) -> None:
    assert (await alone(0, checkpoint))[:5] == [279, 220, 766, 319, 166]
    assert await alone(4, checkpoint) != await alone(5, checkpoint) != await alone(0, checkpoint)


async def test_before_min_new_tokens_no_stop_id_is_sampled_as_in_vllm(checkpoint: Path) -> None:
    first, second, third, fourth = (await alone(0, checkpoint))[:4]

    (found,) = await engine(tokens_per_s=0).generate(request(stops=(second, fourth), min_new_tokens=3))

    assert found.token_ids.tolist() == [first, 0, third, fourth]
    assert (found.finish_reason, found.stop_reason) == ("stop", fourth)


async def test_a_stop_id_is_looked_for_after_the_swap_only_in_what_is_left(checkpoint: Path) -> None:
    new = await alone(4, checkpoint)
    stub = engine()
    # Its tenth token would have ended the new version's own completion; by then the old one is further on.
    running = asyncio.create_task(stub.generate(request(stops=(new[10],))))
    await asyncio.sleep(0.2)

    await stub.load_checkpoint(4, checkpoint, "keep")

    (found,) = await running
    assert (len(found.token_ids), found.finish_reason) == (LENGTH, "length")
    assert new[10] not in found.token_ids.tolist()


async def test_beams_say_which_version_gave_each_token(checkpoint: Path) -> None:
    stub = engine(tokens_per_s=100)
    search = asyncio.create_task(beam_search(stub, request(num_beams=2, max_new_tokens=20)))
    await asyncio.sleep(0.08)

    await stub.load_checkpoint(4, checkpoint, "keep")

    for beam in await search:
        assert [version for version, _ in beam.version_spans] == [0, 4]
        assert sum(tokens for _, tokens in beam.version_spans) == 20


async def test_a_swap_that_waits_admits_nothing_and_goes_on_when_it_is_given_up(checkpoint: Path) -> None:
    stub = engine(tokens_per_s=50)
    running = asyncio.create_task(stub.generate(request()))
    await asyncio.sleep(0.05)
    swapping = asyncio.create_task(stub.load_checkpoint(4, checkpoint, "wait"))
    await asyncio.sleep(0.1)
    late = asyncio.create_task(stub.generate(request(max_new_tokens=1)))
    await asyncio.sleep(0.1)
    assert not late.done()

    swapping.cancel()

    ((found,), (waited,)) = await late, await running
    assert (found.version_spans, waited.version_spans) == (((0, 1),), ((0, LENGTH),))


async def test_a_broken_checkpoint_is_refused_and_the_old_version_serves(checkpoint: Path) -> None:
    os.truncate(checkpoint / "model.safetensors", 5000)
    stub = engine()

    with pytest.raises(CheckpointRefusedError, match="truncated"):
        await stub.load_checkpoint(4, checkpoint, "keep")

    assert stub.policy_version == 0


async def test_a_checkpoint_of_another_model_is_refused_where_the_stub_has_one(
    checkpoint: Path, tmp_path: Path
) -> None:
    other = write_model(tmp_path / "other", vocab_size=300, tokenizer=False)

    with pytest.raises(CheckpointRefusedError, match="vocab_size is 512, the worker's model has 300"):
        await engine(other).load_checkpoint(4, checkpoint, "keep")
