"""vLLM's kernel turns parts of heads as it turns whole rows, and touches nothing between them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import rollstream.worker.engines.vllm.engine  # noqa: F401 - it prepares the environment that vLLM reads at its import
from rollstream.worker.engines.vllm.inside.rotary import give_rows

# After our engine.
from vllm import _custom_ops  # isort: skip
from vllm.platforms import current_platform  # isort: skip

pytestmark = pytest.mark.skipif(not current_platform.is_cpu(), reason="it is the kernel for CPUs")

SIZE, LATENT, TOKENS = 64, 128, 7
POSITIONS = torch.arange(TOKENS) + 3


def test_parts_of_heads_are_turned_and_the_rest_stays() -> None:
    current_platform.import_kernels()
    angles = torch.arange(16)[:, None] / 10000 ** (torch.arange(0, SIZE, 2) / SIZE)
    queries, keys = torch.randn(TOKENS, 2, LATENT + SIZE), torch.randn(TOKENS, 1, LATENT + SIZE)
    before = [part.clone() for part in (queries, keys)]
    ops = SimpleNamespace(rotary_embedding=_custom_ops.rotary_embedding)
    give_rows(ops)

    cache = torch.cat([angles.cos(), angles.sin()], -1)
    ops.rotary_embedding(POSITIONS, queries[..., LATENT:], keys[..., LATENT:], SIZE, cache, False)

    for part, old in zip((queries, keys), before, strict=True):
        assert torch.equal(part[..., :LATENT], old[..., :LATENT])
        torch.testing.assert_close(part[..., LATENT:], turned(old[..., LATENT:], angles))


def turned(heads: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    cos, sin = (part[POSITIONS][:, None] for part in (angles.cos(), angles.sin()))
    even, odd = heads[..., ::2], heads[..., 1::2]
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-2)
