"""Give each request of a step the columns of log-probs that it asked for. Runs where vLLM samples; imports no vLLM.

In vLLM's V1 runner one request with `logprob_token_ids` takes the likeliest tokens away from all others of its step:
they would get id 0 with minus infinity. Its V2 runner gives each its own.
"""

from __future__ import annotations

from typing import Any

_MINUS_INFINITY = float("-inf")


def give(sampler: Any) -> None:
    """Change vLLM's class `Sampler`. Safe to call twice, and on a vLLM without `logprob_token_ids`."""
    gather = getattr(sampler, "gather_specific_token_logprobs", None)
    if gather is None or hasattr(gather, "gives_each_its_own"):
        return
    forward = sampler.forward

    def sample(self: Any, logits: Any, sampling_metadata: Any, *args: Any, **kwargs: Any) -> Any:
        self.rollstream_likeliest = sampling_metadata.max_num_logprobs
        return forward(self, logits, sampling_metadata, *args, **kwargs)

    def gather_each(self: Any, logprobs: Any, logprob_token_ids: Any, sampled: Any) -> Any:
        named = gather(self, logprobs, logprob_token_ids, sampled)
        if named is None or self.rollstream_likeliest in (None, -1):
            return named
        likeliest = self.gather_logprobs(logprobs, self.rollstream_likeliest, token_ids=sampled)
        return _merged(named, likeliest, list(logprob_token_ids))

    gather_each.gives_each_its_own = True  # type: ignore[attr-defined] # a mark for the second call
    sampler.forward, sampler.gather_specific_token_logprobs = sample, gather_each


def _merged(named: Any, likeliest: Any, rows: list[int]) -> Any:
    """Both are vLLM's `LogprobsTensors`: `named` in `rows`, `likeliest` in all others, in as many columns as either."""
    width = max(named.logprobs.shape[1], likeliest.logprobs.shape[1])
    ids = _widened(likeliest.logprob_token_ids, width, 0)
    logprobs = _widened(likeliest.logprobs, width, _MINUS_INFINITY)
    ids[rows] = _widened(named.logprob_token_ids, width, 0)[rows].to(ids.dtype)
    logprobs[rows] = _widened(named.logprobs, width, _MINUS_INFINITY)[rows]
    return likeliest._replace(logprob_token_ids=ids, logprobs=logprobs)


def _widened(tensor: Any, width: int, filler: float) -> Any:
    wide = tensor.new_full((tensor.shape[0], width), filler)
    wide[:, : tensor.shape[1]] = tensor
    return wide
