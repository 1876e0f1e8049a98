"""A forward pass of transformers in which each token goes to the experts that somebody else's routers chose.

So one expert that was chosen otherwise, because two were about as good, changes nothing of what later layers see: each
choice is compared under the same ones before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

_ROUTER = "TopKRouter"
"""How the classes of transformers' routers end, from 5.0 on."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How choices of (rows, layers with experts, k) compare with transformers' own."""

    rows: int
    """Pairs of a row and a layer."""
    differ: int
    """So many of them have another set of experts."""
    worst: float
    """How much better, by the router's logits, a left-out expert was than a chosen one, at most."""
    same: NDArray[np.bool_]
    """(rows, layers with experts)"""

    def __str__(self) -> str:
        return f"{self.differ} of {self.rows} choices differ, by at most {self.worst:.4f} of a logit"


class ReplayedRouting:
    """A mixture of a few layers in float32, on the CPU."""

    def __init__(self, folder: Path) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self._routers = [one for one in self.model.modules() if type(one).__name__.endswith(_ROUTER)]
        assert self._routers, f"transformers has no module {_ROUTER} in {type(self.model).__name__}"

    def agreement(self, token_ids: list[int], chosen: NDArray[Any], first: int = 0) -> Agreement:
        """`chosen`: (rows, layers with experts, k) for the tokens from number `first` on.

        Tokens before that go where the model's own routers send them.
        """
        logits: list[torch.Tensor] = []
        with torch.inference_mode(), self._replaying(torch.from_numpy(chosen.astype(np.int64)), first, logits):
            self.model(torch.tensor([token_ids]))
        gaps = np.stack([_gaps(each[first:], chosen[:, layer]) for layer, each in enumerate(logits)], axis=1)
        different = gaps > -np.inf
        worst = float(gaps[different].max(initial=0.0))
        return Agreement(rows=gaps.size, differ=int(different.sum()), worst=worst, same=~different)

    def chosen(self, token_ids: list[int]) -> NDArray[np.int64]:
        """(rows, layers with experts, k): where the model's own routers send all tokens."""
        found: list[torch.Tensor] = []
        hooks = [one.register_forward_hook(lambda _, __, output: found.append(output[2])) for one in self._routers]
        with torch.inference_mode():
            self.model(torch.tensor([token_ids]))
        for one in hooks:
            one.remove()
        chosen: NDArray[np.int64] = torch.stack(found, 1).numpy()
        return chosen

    @contextmanager
    def _replaying(self, chosen: torch.Tensor, first: int, logits: list[torch.Tensor]) -> Iterator[None]:
        def replay(layer: int) -> Any:
            def hook(router: Any, given: Any, output: Any) -> Any:
                hidden = given[0].reshape(-1, given[0].shape[-1])
                scores = torch.nn.functional.linear(hidden, router.weight)
                logits.append(scores)
                ids = output[2].clone()
                ids[first : first + len(chosen)] = chosen[:, layer]
                weights = scores.float().softmax(-1).gather(-1, ids)
                if getattr(router, "norm_topk_prob", True):
                    weights = weights / weights.sum(-1, keepdim=True)
                return output[0], weights.to(output[1].dtype), ids

            return hook

        hooks = [router.register_forward_hook(replay(layer)) for layer, router in enumerate(self._routers)]
        try:
            yield
        finally:
            for one in hooks:
                one.remove()


def _gaps(logits: torch.Tensor, chosen: NDArray[Any]) -> NDArray[np.float32]:
    """(rows,): by how much the best that was left out is better than the worst that was chosen; -inf if it is not."""
    scores: NDArray[np.float32] = logits[: len(chosen)].numpy()
    of_chosen = np.take_along_axis(scores, chosen.astype(np.int64), axis=1)
    left = scores.copy()
    np.put_along_axis(left, chosen.astype(np.int64), -np.inf, axis=1)
    gaps: NDArray[np.float32] = left.max(1) - of_chosen.min(1)
    gaps[gaps <= 0] = -np.inf
    return gaps
