"""The stub engine scores rows so that what is built on scores can be tested without a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rollstream import GenerationConfig
from rollstream.producer.demo.tiny_model import write_model
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.requests import GenerateRequest, ScoreRequest, Scores

ROW = [5, 6, 7, 8, 9]


async def scores(engine: StubEngine, row: list[int] = ROW, first: int = 1, k: int = 0) -> Scores:
    return await engine.score(ScoreRequest(request_id="r", token_ids=row, first=first, top_logprobs=k, adapter=None))


def stub() -> StubEngine:
    return StubEngine(WorkerSettings(policy="test", engine="stub", stub_vocab_size=1000))


async def test_a_tokens_score_follows_from_what_comes_before_it() -> None:
    whole, tail, other = (
        await scores(stub()), await scores(stub(), first=3, k=4), await scores(stub(), [*ROW[:3], 1, 9])
    )  # fmt: skip

    assert (whole.logprobs.shape, whole.top_logprobs.shape) == ((4,), (4, 0))
    assert (tail.logprobs.shape, tail.top_token_ids.shape, tail.top_logprobs.shape) == ((2,), (2, 4), (2, 4))
    assert np.array_equal(whole.logprobs[:2], other.logprobs[:2])
    assert not np.isin(whole.logprobs[2:], other.logprobs[2:]).any()
    assert (np.diff(tail.top_logprobs) <= 0).all()


async def test_another_version_scores_otherwise_and_is_named(tmp_path: Path) -> None:
    engine = stub()
    before = await scores(engine)

    await engine.load_checkpoint(3, write_model(tmp_path / "step-3", seed=3, tokenizer=False), "keep")

    after = await scores(engine)
    assert (before.version, after.version) == (0, 3)
    assert not np.isin(before.logprobs, after.logprobs).any()


async def test_a_text_scores_as_it_was_sampled() -> None:
    engine = stub()
    config = GenerationConfig(max_new_tokens=20, seed=3, ignore_eos=True)
    request = GenerateRequest(request_id="r", prompt=[5, 6], config=config, stop_token_ids=(), seed=3, adapter=None)
    (sampled,) = await engine.generate(request)

    scored = await scores(engine, [5, 6, *sampled.token_ids.tolist()], first=2)

    assert sampled.logprobs is not None
    assert np.array_equal(sampled.logprobs, scored.logprobs)
    assert len(set(sampled.logprobs.tolist())) == 20
