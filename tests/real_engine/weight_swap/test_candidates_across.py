"""Log-probs of other ids stay with their tokens when new weights release what was held back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.requests import Adapter, Completion
from tests.real_engine.weight_swap.steps import PROMPT, in_flight, request, swap
from tests.support.engine.transformers_reference import Reference
from tests.support.told_versions import needs_told_versions

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="package")]

LABELS = [7, 300, 5]


def by_both(
    found: Completion, old: int, models: list[Path], reference: Callable[..., Reference], adapter: str | None
) -> torch.Tensor:
    """(L, vocab): the log-probs by the weights that sampled each token."""
    tokens = found.token_ids.tolist()
    before, after = (reference(model, adapter).logits(PROMPT, tokens).log_softmax(-1) for model in models[:2])
    return torch.cat([before[:old], after[old:]])


@needs_told_versions
async def test_the_likeliest_and_labels_are_those_of_the_weights_that_sampled_the_token(
    engine: VllmEngine, models: list[Path], reference: Callable[..., Reference], adapters: dict[str, Adapter]
) -> None:
    await swap(engine, models[0])
    long: dict[str, Any] = {"max_new_tokens": 120, "seed": 7}
    requests = [
        request(top_logprobs=10, num_return_sequences=2, **long),
        request(adapter=adapters["math@1"], top_logprobs=3, **long),
        request(label_token_ids=LABELS, **long),
        request(sampling_support=True, top_k=6, **long),
    ]
    answers = await in_flight(engine, requests)

    await swap(engine, models[1], "keep")

    [*likeliest], [adapted], [labelled], [supported] = await answers
    for found, name in [(one, None) for one in likeliest] + [(adapted, "math@1")]:
        (_, old), _ = found.version_spans
        assert 20 <= old < 120
        k = found.top_logprobs.shape[1]
        by_rank = by_both(found, old, models, reference, name).topk(k).values
        assert found.top_logprobs == pytest.approx(by_rank.numpy(), abs=1e-4)
    expected = by_both(labelled, labelled.version_spans[0][1], models, reference, None)
    assert labelled.label_logprobs == pytest.approx(expected[:, LABELS].numpy(), abs=1e-4)
    kept = by_both(supported, supported.version_spans[0][1], models, reference, None).topk(6).indices
    assert supported.support_lengths.tolist() == [6] * 120
    same = supported.support_ids.reshape(120, 6) == kept.numpy()
    assert np.mean(same.all(1)) >= 0.98, "two ids of which rounding decides are rare"
