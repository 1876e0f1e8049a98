"""Log-probs of other ids than the sampled ones, against transformers: the likeliest, labels, and what was left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from rollstream.schemas import ErrorCode
from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.errors import DataError
from rollstream.worker.requests import Adapter, Completion
from tests.support.engine.engine_requests import ATOL, ON_GPU, PROMPT, generate
from tests.support.engine.sampling_support import SHAPES, agreement
from tests.support.engine.transformers_reference import Reference

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="package")]

LONG = 150
"""Tokens of completions that leave the engine in several pieces."""
SHAPED = {"temperature": 0.7, "top_k": 40, "top_p": 0.9}


def shaped(reference: Reference, tokens: list[int], **shape: Any) -> torch.Tensor:
    """(L, vocab): transformers' log-probs under the distribution that was sampled."""
    logits = reference.logits(PROMPT, tokens) / shape.get("temperature", 1)
    if k := shape.get("top_k", 0):
        logits = logits.masked_fill(logits < logits.topk(k).values[:, -1:], -torch.inf)
    if (p := shape.get("top_p", 1)) < 1:
        ordered = logits.sort(-1)
        cut = ordered.values.softmax(-1).cumsum(-1) <= 1 - p
        cut[:, -1] = False
        logits = logits.masked_fill(cut.scatter(-1, ordered.indices, cut), -torch.inf)
    logprobs: torch.Tensor = logits.log_softmax(-1)
    return logprobs


def likeliest(found: Completion, expected: torch.Tensor, k: int) -> float:
    """The share of tokens whose k likeliest ids and own log-prob are those of `expected`, within 1e-4."""
    ids, logprobs = found.top_token_ids, found.top_logprobs
    assert ids is not None
    assert logprobs is not None
    assert found.logprobs is not None
    assert ids.shape == logprobs.shape == (len(found.token_ids), k)
    assert all(len(set(row)) == k for row in ids.tolist())
    by_rank = expected.sort(-1, descending=True).values[:, :k].numpy()
    of_those = np.take_along_axis(expected.numpy(), ids.astype(np.int64), 1)
    own = np.take_along_axis(expected.numpy(), found.token_ids[:, None].astype(np.int64), 1)[:, 0]
    close = np.isclose(logprobs, by_rank, rtol=0, atol=ATOL) & np.isclose(logprobs, of_those, rtol=0, atol=ATOL)
    return float((close.all(1) & np.isclose(found.logprobs, own, rtol=0, atol=ATOL)).mean())


@pytest.mark.parametrize("shape", [{}, SHAPED], ids=["plain", "shaped"])
async def test_the_likeliest_are_transformers_likeliest_also_in_pieces_and_beside_adapters(
    engine: VllmEngine,
    adapters: dict[str | None, Adapter | None],
    reference: Callable[[str | None], Reference],
    shape: dict[str, Any],
) -> None:
    asked = [(name, k) for name in (None, "math@1", "code@1") for k in (1, 20, 128)]

    found = await asyncio.gather(
        *(
            generate(
                engine, adapter=adapters[name], top_logprobs=k, max_new_tokens=LONG, num_return_sequences=2,
                ignore_eos=True, **shape,
            )
            for name, k in asked
        )
    )  # fmt: skip

    shares = [
        likeliest(one, shaped(reference(name), one.token_ids.tolist(), **shape), k)
        for (name, k), completions in zip(asked, found, strict=True)
        for one in completions
    ]
    assert len(shares) == 18
    # Now and then a token is so near the limit of top_p or top_k that rounding decides whether it is kept.
    assert np.mean(shares) >= (0.995 if shape else 1)


async def test_labels_are_scored_beside_requests_that_want_the_likeliest_or_nothing(
    engine: VllmEngine, reference: Callable[[str | None], Reference]
) -> None:
    labels = [7, 300, 5, 511]
    long = {"max_new_tokens": LONG, "ignore_eos": True}

    [labelled], [top], [plain], greedy, again = await asyncio.gather(
        generate(engine, label_token_ids=labels, **long),
        generate(engine, top_logprobs=20, **long),
        generate(engine, **long),
        engine.next_tokens("beam", PROMPT, 5, None),
        generate(engine, label_token_ids=labels[:1], num_return_sequences=3, temperature=0.5, **long),
    )

    assert labelled.label_logprobs is not None
    expected = shaped(reference(None), labelled.token_ids.tolist())
    assert labelled.label_logprobs == pytest.approx(expected[:, labels].numpy(), abs=ATOL)
    own = expected.gather(1, torch.from_numpy(labelled.token_ids.astype(np.int64))[:, None])[:, 0]
    assert labelled.logprobs == pytest.approx(own.numpy(), abs=ATOL)
    assert likeliest(top, shaped(reference(None), top.token_ids.tolist()), 20) == 1
    assert plain.logprobs == pytest.approx(reference(None).logprobs(PROMPT, plain.token_ids.tolist()), abs=ATOL)
    first = reference(None).logits(PROMPT, [0]).log_softmax(-1)[0].topk(5)
    assert [token for token, _ in greedy.candidates] == first.indices.tolist()
    for one in again:
        expected = shaped(reference(None), one.token_ids.tolist(), temperature=0.5)[:, labels[:1]]
        assert one.label_logprobs == pytest.approx(expected.numpy(), abs=ATOL)


async def test_a_label_that_was_ruled_out_has_minus_infinity(engine: VllmEngine) -> None:
    [found] = await generate(engine, label_token_ids=[9, 10], allowed_token_ids=[9, 11], max_new_tokens=40)

    assert found.label_logprobs is not None
    assert np.isfinite(found.label_logprobs[:, 0]).all()
    assert (found.label_logprobs[:, 1] == -np.inf).all()


async def test_ids_that_were_ruled_out_follow_those_that_were_left(engine: VllmEngine) -> None:
    [found] = await generate(engine, top_logprobs=6, allowed_token_ids=[9, 11], max_new_tokens=40)

    assert found.top_logprobs is not None
    assert found.top_token_ids is not None
    assert {tuple(sorted(row)) for row in found.top_token_ids[:, :2].tolist()} == {(9, 11)}
    assert (found.top_logprobs[:, 2:] == -np.inf).all()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
async def test_the_support_is_what_a_plain_computation_keeps(
    engine: VllmEngine, reference: Callable[[str | None], Reference], shape: dict[str, Any]
) -> None:
    fields = {"sampling_support": True, "top_logprobs": 3, "max_new_tokens": 100, "num_return_sequences": 2}
    found = await generate(engine, ignore_eos=True, **fields, **shape)

    told = agreement(reference(None), PROMPT, found, shape)

    assert told.other == 0
    assert told.same >= 0.99 * told.tokens or ON_GPU
    assert told.tokens == 200
    assert found[0].top_logprobs is not None
    assert found[0].top_logprobs.shape == (100, 3)


async def test_a_support_that_allows_one_id_is_that_id(engine: VllmEngine) -> None:
    [found] = await generate(engine, sampling_support=True, top_k=1, max_new_tokens=40)

    assert found.support_ids is not None
    assert found.support_lengths is not None
    assert found.support_ids.tolist() == found.token_ids.tolist()
    assert set(found.support_lengths.tolist()) == {1}


async def test_labels_that_no_engine_could_give_are_refused(engine: VllmEngine) -> None:
    with pytest.raises(DataError) as refused:
        await generate(engine, label_token_ids=[512])

    assert refused.value.code is ErrorCode.TOKEN_OUT_OF_VOCABULARY
    with pytest.raises(DataError, match="label_token_ids beside top_logprobs"):
        await generate(engine, label_token_ids=[5], top_logprobs=1)


@pytest.mark.large
@pytest.mark.timeout(400)  # with the start of the engine; on two busy cores the five take minutes
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
async def test_ten_thousand_supports_are_what_a_plain_computation_keeps(
    engine: VllmEngine,
    reference: Callable[[str | None], Reference],
    shape: dict[str, Any],
    record_property: Callable[[str, object], None],
) -> None:
    fields = {"sampling_support": True, "max_new_tokens": 500, "num_return_sequences": 20, "ignore_eos": True}

    told = agreement(reference(None), PROMPT, await generate(engine, **fields, **shape), shape)

    record_property("same", told.same)
    record_property("bytes a token", round(4 * (told.ids + told.tokens) / told.tokens, 1))
    assert (told.tokens, told.other) == (10_000, 0)
    assert told.same >= 9_950  # rounding decides of about one id in a thousand tokens under top_p
