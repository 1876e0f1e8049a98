"""Beam search over `Engine.next_tokens`, with the results of transformers' `generate(num_beams=...)`.

vLLM's own beam search needs a tokenizer, knows one EOS id and no LoRA, never stops early, and (before 0.33) counts the
prompt in the length penalty. `advance` is one step, pure; `beam_search` asks the engine between steps.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rollstream.schemas.wire.fields import FinishReason, VersionSpan

from ..engine import Engine
from ..requests import Completion, GenerateRequest, NextTokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Beam:
    """A continuation so far; `total` is the sum of `logprobs`, `spans` tell which version sampled each token."""

    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    total: float = 0.0
    spans: tuple[VersionSpan, ...] = ()
    spans_exact: bool = True

    def extended(self, token: int, logprob: float, answer: NextTokens) -> Beam:
        """The beam with one more token, a candidate of `answer`."""
        version, length = self.spans[-1] if self.spans else (answer.version, 0)
        same = version == answer.version
        return Beam(
            tokens=(*self.tokens, token),
            logprobs=(*self.logprobs, logprob),
            total=self.total + logprob,
            spans=(*self.spans[:-1], (version, length + 1)) if same else (*self.spans, (answer.version, 1)),
            spans_exact=self.spans_exact and answer.version_exact,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A search so far: `live` beams, best first, and the best `num_beams` `finished` ones with their scores."""

    request: GenerateRequest
    live: tuple[Beam, ...] = (Beam(),)
    finished: tuple[tuple[float, Beam], ...] = ()

    @property
    def candidates_per_beam(self) -> int:
        """Enough for `num_beams` live beams, even if one parent gives them all and all stop ids rank before them."""
        return self.request.config.num_beams + len(self.request.stop_token_ids) + len(self.request.late_stop_ids)

    @property
    def length(self) -> int:
        """Tokens of each live beam."""
        return len(self.live[0].tokens) if self.live else self.request.config.max_new_tokens

    @property
    def done(self) -> bool:
        """Whether no live beam can go on, or none would matter (transformers' `_check_early_stop_heuristic`)."""
        config = self.request.config
        if not self.live or self.length >= config.max_new_tokens:
            return True
        if len(self.finished) < config.num_beams:
            return False
        return config.early_stopping is True or self._best_possible() <= self.finished[-1][0]

    def _best_possible(self) -> float:
        """The best score that live beams may reach: for `early_stopping` False a guess (the best one ends now), for
        "never" a bound."""
        config = self.request.config
        longest = config.early_stopping == "never" and config.length_penalty > 0
        return _score(self.live[0].total, config.max_new_tokens if longest else self.length, config.length_penalty)


def advance(search: Search, answers: Sequence[NextTokens]) -> Search:
    """One step: the candidates of `answers[i]` follow `search.live[i]`.

    A continuation that ends counts as finished only if it is among the `num_beams` best of all, so that a poor end
    never displaces a live beam. Ties go to the better parent, then to the lower id.
    """
    request, config = search.request, search.request.config
    ranked = _ranked(search, answers)
    ends = [len(beam.tokens) >= config.max_new_tokens or _stopped(request, beam) for beam in ranked]
    best = list(zip(ranked, ends, strict=True))[: config.num_beams]
    ended = [(_score(b.total, len(b.tokens), config.length_penalty), b) for b, end in best if end]
    finished = sorted([*search.finished, *ended], key=lambda scored: -scored[0])
    live = [beam for beam, end in zip(ranked, ends, strict=True) if not end]
    return Search(request=request, live=tuple(live[: config.num_beams]), finished=tuple(finished[: config.num_beams]))


async def beam_search(engine: Engine, request: GenerateRequest) -> list[Completion]:
    """The best `num_return_sequences` of `num_beams`, best first, with scores and per-token raw log-probs.

    The score is the sum of log-probs / length ** length_penalty; the length includes a final EOS. Raises `DataError`,
    `EngineDiedError`; cancelling it aborts its engine requests.
    """
    search = Search(request=request)
    for step in itertools.count():
        search = advance(search, await _ask(engine, search, step))
        if search.done:
            break
    chosen = search.finished[: request.config.num_return_sequences]
    return [_completion(request, score, beam) for score, beam in chosen]


async def _ask(engine: Engine, search: Search, step: int) -> list[NextTokens]:
    request = search.request
    try:
        async with asyncio.TaskGroup() as group:
            asked = [
                group.create_task(
                    engine.next_tokens(
                        f"{request.request_id}/{step}.{number}",
                        [*request.prompt, *beam.tokens],
                        search.candidates_per_beam,
                        request.adapter,
                        request.images,
                    )
                )
                for number, beam in enumerate(search.live)
            ]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in asked]


def _ranked(search: Search, answers: Sequence[NextTokens]) -> list[Beam]:
    """All continuations, best first; before `min_new_tokens` without those that would end."""
    too_early = search.length < search.request.config.min_new_tokens
    banned = search.request.stop_token_ids if too_early else ()
    found = [
        (beam.extended(token, logprob, answers[parent]), parent)
        for parent, beam in enumerate(search.live)
        for token, logprob in answers[parent].candidates
        if token not in banned
    ]
    found.sort(key=lambda item: (-item[0].total, item[1], item[0].tokens[-1]))
    return [beam for beam, _ in found]


def _score(total: float, length: int, length_penalty: float) -> float:
    # As exp(-p log n), because n ** p can leave a float's range with the penalties that a config may have.
    return total * math.exp(min(-length_penalty * math.log(length), 700.0))


def _stopped(request: GenerateRequest, beam: Beam) -> bool:
    last, enough = beam.tokens[-1], len(beam.tokens) > request.config.min_new_tokens
    return last in request.stop_token_ids or (enough and last in request.late_stop_ids)


def _completion(request: GenerateRequest, score: float, beam: Beam) -> Completion:
    last = beam.tokens[-1]
    stopped = _stopped(request, beam)
    reason: FinishReason = "stop" if stopped else "length"
    return Completion(
        token_ids=np.asarray(beam.tokens, np.int32),
        logprobs=None if request.config.logprobs is None else np.asarray(beam.logprobs, np.float32),
        finish_reason=reason,
        stop_reason=last if stopped else None,
        version_spans=beam.spans,
        score=score,
        spans_exact=beam.spans_exact,
    )
