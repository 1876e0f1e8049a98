"""What the stub samples if no swap comes: tokens that follow from prompt, seed, sample, adapter and version. Pure."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..requests import Adapter, Expanded, GenerateRequest
from .stub_images import seen
from .stub_likelihoods import generator
from .stub_tail import end_early, runs_long


class Plans:
    """The completions of a stub with this vocabulary; `long_tail` says of what a tenth runs long, see `stub_tail`."""

    def __init__(self, *, vocab_size: int, long_tail: Literal["none", "prompts", "samples"]) -> None:
        self._vocab_size = vocab_size
        self._long_tail = long_tail

    def rest(self, request: GenerateRequest, sample: int, version: int, done: int) -> NDArray[np.int32]:
        """The tokens that `version` samples after the first `done` ones."""
        config = request.config
        seed = request.first_sample if request.seed is None else request.seed
        draws = generator(request.prompt, named(request.adapter, request.images), seed + sample, version)
        tokens = draws.integers(0, self._vocab_size, config.max_new_tokens).astype(np.int32)
        if self._long_tail != "none":
            of_sample = seed + sample if self._long_tail == "samples" else None
            if not runs_long(request.prompt, of_sample):
                tokens = end_early(tokens, request.stop_token_ids, config.min_new_tokens)
        if not request.stop_token_ids:
            return tokens[done:]
        early = tokens[: config.min_new_tokens]
        early[np.isin(early, request.stop_token_ids)] = self._goes_on(request.stop_token_ids)
        stops = np.flatnonzero(np.isin(tokens, request.stop_token_ids))
        stops = stops[stops >= max(config.min_new_tokens, done)]
        return tokens[done : int(stops[0]) + 1] if len(stops) else tokens[done:]

    def _goes_on(self, stop_ids: tuple[int, ...]) -> int:
        """The token that replaces a stop id before `min_new_tokens`; vLLM bans stop ids there."""
        return next((token for token in range(self._vocab_size) if token not in stop_ids), 0)


def named(adapter: Adapter | None, images: Expanded | None) -> str:
    """What, beside a prompt, makes its completions other ones."""
    return (adapter.name if adapter else "") + seen(images)
