"""Several engines agree on the weights that they serve, and on their proof."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from rollstream.producer.demo.tiny_model import write_model
from rollstream.worker.engine import Score
from rollstream.worker.engines.replicas import Replicas
from rollstream.worker.errors import (
    CheckpointRefusedError,
    EngineDiedError,
    ProofFailedError,
    SwapFailedError,
)
from rollstream.worker.requests import ScoreRequest, Scores
from tests.support.weights.seen_engine import Seen

ROW = ScoreRequest(request_id="probe", token_ids=[5, 6, 7], first=1, top_logprobs=0, adapter=None)


async def nothing(_: Score) -> None: ...


async def test_the_oldest_version_is_reported_until_the_engine_that_failed_has_followed(checkpoint: Path) -> None:
    engines = [Seen(), Seen()]
    both = Replicas(engines)
    engines[0].fails = SwapFailedError(checkpoint, 4, 0, "test")

    with pytest.raises(SwapFailedError):
        await both.load_checkpoint(4, checkpoint, "keep")
    assert [engine.policy_version for engine in engines] == [0, 4]
    assert both.policy_version == 0

    engines[0].fails, engines[1].fails = None, EngineDiedError("it was asked again")
    await both.load_checkpoint(4, checkpoint, "keep")
    assert both.policy_version == 4


async def test_a_swap_paused_for_as_long_as_the_engine_that_paused_longest(checkpoint: Path) -> None:
    engines = [Seen(), Seen(), Seen()]
    for engine, paused_s in zip(engines, (0.2, 0.5, 0.1), strict=True):
        engine.paused_s = paused_s
    all_of_them = Replicas(engines)

    assert await all_of_them.load_checkpoint(4, checkpoint, "keep") == 0.5
    assert await all_of_them.load_checkpoint(4, checkpoint, "keep") == 0.0, "all of them have it"


async def test_a_number_that_is_announced_again_for_other_weights_is_loaded_by_every_engine(tmp_path: Path) -> None:
    first, other = (write_model(tmp_path / name, seed=4, tokenizer=False) for name in ("first", "other"))
    engines = [Seen(), Seen()]
    both = Replicas(engines)

    await both.load_checkpoint(1, first, "keep")
    await both.load_checkpoint(1, other, "keep")
    write_model(other, seed=5, tokenizer=False)
    await both.load_checkpoint(1, other, "keep")

    assert [engine.loaded for engine in engines] == [[first, other, other]] * 2


async def test_a_version_is_served_once_every_engine_has_proven_it(checkpoint: Path) -> None:
    engines = [Seen(), Seen(), Seen()]
    all_of_them = Replicas(engines)
    proven: list[Scores] = []
    third, goes_on = asyncio.Event(), asyncio.Event()

    async def prove(score: Score) -> None:
        proven.append(await score(ROW))
        if len(proven) == 3:
            third.set()
            await goes_on.wait()

    loading = asyncio.create_task(all_of_them.load_checkpoint(4, checkpoint, "keep", None, prove))
    await asyncio.wait_for(third.wait(), 20)
    assert [engine.policy_version for engine in engines] == [0, 0, 0]
    goes_on.set()
    await loading

    assert [scores.version for scores in proven] == [4, 4, 4]
    assert [engine.policy_version for engine in engines] == [4, 4, 4]


@pytest.mark.parametrize(
    "fails",
    [
        ProofFailedError(4, "it is wrong", 7.0, 9.0),
        SwapFailedError(Path("step-4"), 4, 0, "test"),
        CheckpointRefusedError(Path("step-4"), "config.json", "test"),
    ],
)
async def test_what_one_engine_cannot_prove_is_served_by_none_and_its_error_is_raised(
    checkpoint: Path, fails: Exception
) -> None:
    engines = [Seen(), Seen(), Seen()]
    proven = 0

    async def prove(_: Score) -> None:
        nonlocal proven
        proven += 1
        if isinstance(fails, ProofFailedError) and proven == 2:
            raise fails

    if not isinstance(fails, ProofFailedError):
        engines[1].fails = fails
    with pytest.raises(type(fails)) as raised:
        await Replicas(engines).load_checkpoint(4, checkpoint, "keep", None, prove)

    assert raised.value is fails
    assert [engine.policy_version for engine in engines] == [0, 0, 0]


async def test_the_death_of_an_engine_ends_the_proofs_of_the_others(checkpoint: Path) -> None:
    engines = [Seen(), Seen()]
    engines[1].fails = EngineDiedError("test")

    async with asyncio.timeout(20):
        with pytest.raises(EngineDiedError):
            await Replicas(engines).load_checkpoint(4, checkpoint, "keep", None, nothing)

    assert engines[0].policy_version == 0


async def test_every_engine_is_asked_for_each_proof_whatever_it_has_loaded(checkpoint: Path) -> None:
    engines = [Seen(), Seen()]
    both = Replicas(engines)
    await both.load_checkpoint(4, checkpoint, "keep")

    for _ in range(2):
        await both.load_checkpoint(4, checkpoint, "keep", None, nothing)

    assert [engine.loaded for engine in engines] == [[checkpoint] * 3] * 2


@pytest.mark.parametrize(
    ("of_each", "of_all"), [([(7, 8), (6, 8)], (6, 8)), ([(8, 8), None], None), ([None, None], None)]
)
def test_a_probe_reached_the_experts_that_it_reached_in_every_engine(
    of_each: list[tuple[int, int] | None], of_all: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter(of_each)
    monkeypatch.setattr(Seen, "experts_reached", property(lambda _: next(left)))

    assert Replicas([Seen(), Seen()]).experts_reached == of_all
