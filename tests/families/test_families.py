"""A few families in `make test`; `make families` asks every cell of all, and docs/families.md has its table."""

from __future__ import annotations

import pytest

from tests.families.trial import run_family
from tests.support.engine.engine_requests import ON_GPU

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio]

SHORT = {
    "Phi-3": ("sampled", "LoRA"),
    "gpt-oss": ("scores", "EOS, chat"),
    "Gemma 3": ("scores", "swap"),
    "DeepSeek-V2": ("sampled", "scores"),
}
"""One with fused layers and an output layer that may have an adapter, one with experts and attention sinks, one with
windows and norms of its own, one with latent attention."""
QUICK = 1
"""How many of them run without `--large`: each starts an engine, which takes nine seconds."""


@pytest.mark.parametrize(
    "family", [*list(SHORT)[:QUICK], *(pytest.param(family, marks=pytest.mark.large) for family in list(SHORT)[QUICK:])]
)
async def test_a_family_gives_what_transformers_gives(family: str) -> None:
    told: list[str] = []

    row = await run_family(family, SHORT[family], told.append)

    assert {feature: (cell.ended, cell.said) for feature, cell in row.items()} == dict.fromkeys(
        SHORT[family], ("right", "")
    )


@pytest.mark.large
@pytest.mark.skipif(ON_GPU, reason="it is the CPU build that refuses these")
@pytest.mark.parametrize(
    ("family", "feature", "says"),
    [
        ("DeepSeek-V2", "swap", "(MLAAttention) keeps what it computed from its weights"),
        ("gpt-oss", "swap", "is a mixture of experts with biases"),
        ("Mixtral", "LoRA", "runs no mixture of experts with LoRA"),
    ],
)
async def test_what_would_be_wrong_is_refused_by_name(family: str, feature: str, says: str) -> None:
    told: list[str] = []

    row = await run_family(family, (feature,), told.append)

    assert row[feature].ended == "refused"
    assert says in row[feature].said
