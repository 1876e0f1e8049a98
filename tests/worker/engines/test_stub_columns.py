"""The stub engine makes up candidates, labels and supports, so that what is built on them needs no model."""

from __future__ import annotations

from typing import Any

import numpy as np

from rollstream import GenerationConfig
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.requests import Completion, GenerateRequest


async def sampled(**fields: Any) -> Completion:
    engine = StubEngine(WorkerSettings(policy="test", engine="stub", stub_vocab_size=1000))
    config = GenerationConfig(max_new_tokens=20, seed=3, ignore_eos=True, **fields)
    request = GenerateRequest(request_id="r", prompt=[5, 6], config=config, stop_token_ids=(), seed=3, adapter=None)
    (found,) = await engine.generate(request)
    return found


async def test_the_likeliest_come_in_order_beside_the_same_tokens_and_log_probs() -> None:
    plain, found, again = await sampled(), await sampled(top_logprobs=4), await sampled(top_logprobs=4)

    assert found.top_token_ids is not None
    assert found.top_logprobs is not None
    assert found.top_token_ids.shape == found.top_logprobs.shape == (20, 4)
    assert (np.diff(found.top_logprobs) <= 0).all()
    assert np.array_equal(found.token_ids, plain.token_ids)
    assert found.logprobs is not None
    assert plain.logprobs is not None
    assert again.top_logprobs is not None
    assert np.array_equal(found.logprobs, plain.logprobs)
    assert np.array_equal(found.top_logprobs, again.top_logprobs)


async def test_each_label_has_a_log_prob() -> None:
    found = await sampled(label_token_ids=(7, 8, 9))

    assert found.label_logprobs is not None
    assert found.label_logprobs.shape == (20, 3)


async def test_each_token_is_in_its_support_and_the_supports_differ_in_length() -> None:
    found = await sampled(sampling_support=True, top_k=8)

    assert found.support_ids is not None
    assert found.support_lengths is not None
    supports = np.split(found.support_ids, np.cumsum(found.support_lengths)[:-1])
    assert len(supports) == 20
    assert all(token in support for token, support in zip(found.token_ids, supports, strict=True))
    assert 1 <= found.support_lengths.min() < found.support_lengths.max() <= 8
