"""The samples of one group as requests to the engine: all in one where that does, each of its own where it must be.

What every sample has so far can be read at any moment, so that it outlives this worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from ..engine import Engine
from ..errors import DataError, EngineDiedError
from ..requests import Completion, GenerateRequest, Partial
from .handed_over import hand_over
from .make_answers import Sampled, sampled_by
from .stitching import continues, ends_within, first_of, joined, rest_of


@dataclass(frozen=True, slots=True, kw_only=True)
class SoFar:
    """What one sample has."""

    sample: int
    """Its number among the prompt's samples."""
    completion: Completion
    """Its tokens, of all deliveries; reasons count only once it has ended."""
    ended: bool
    resumed_at: int = 0
    """How many of the tokens earlier deliveries sampled."""


@dataclass(slots=True, kw_only=True)
class _Sample:
    number: int
    so_far: Completion | None = None
    """What ended requests gave; a running one has more."""
    ended: bool = False
    resumed_at: int = 0
    seen: int = 0
    """The most tokens that it was ever seen to have."""

    def add(self, piece: Completion) -> None:
        if len(piece.token_ids) or piece.finish_reason != "abort":
            self.so_far = joined(self.so_far, piece)
            self.seen = max(self.seen, len(self.so_far.token_ids))
        self.ended = piece.finish_reason != "abort"

    def cut_length(self, longest_kept: int) -> int:
        """Its length as one that is left out: at least so many tokens it would have had.

        While it ran, the longest one that is kept ended: it had as many steps, though an engine may not have told of
        all its tokens. One without a token never began, as far as is known.
        """
        return self.seen if self.ended or not self.seen else max(self.seen, longest_kept)


class Samples:
    """The samples of one group, from the first request to the last.

    `run` alone changes it, and the tasks that it starts; `so_far` may be asked at any time.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        request: GenerateRequest,
        numbers: range | None = None,
        first_k: int | None = None,
        kept: Mapping[int, SoFar] | None = None,
        version: int | None = None,
    ) -> None:
        """`request`: that of the whole group, with all its n samples and the seed of sample 0.

        `numbers`: which of them are sampled here; None: all n. `first_k`: how many must have ended; None: all of them.
        `kept`: what earlier deliveries had. `version`: that of a policy that is an adapter.
        """
        self._engine = engine
        self._request = request
        self._first_k = first_k
        self._version = version
        self._samples = {
            number: _Sample(number=number) for number in numbers or range(request.config.num_return_sequences)
        }
        self._running: dict[str, Sequence[int]] = {}
        """The samples of each request that runs."""
        self._order: list[int] = []
        """Samples that have ended, the first one first."""
        self.on_abort: Callable[[], None] = _nothing
        """Called when a swap has ended a request, and its samples go on under new weights."""
        for number, found in (kept or {}).items():
            self._take(number, found)

    @property
    def sampled_here(self) -> int:
        """Tokens that were sampled here and not by an earlier delivery, as far as they were seen."""
        return sum(max(0, sample.seen - sample.resumed_at) for sample in self._samples.values())

    @property
    def resumed(self) -> int:
        """Tokens that earlier deliveries sampled."""
        return sum(sample.resumed_at for sample in self._samples.values())

    def so_far(self) -> list[SoFar]:
        """What each sample has that has a token, or has ended, by what the engine has handed over until now."""
        found = {one.number: (one.so_far, one.ended) for one in self._samples.values()}
        for request_id, numbers in self._running.items():
            for partial in self._partials(request_id):
                number = numbers[partial.sample]
                piece, before = self._labelled(partial.completion), found[number][0]
                found[number] = joined(before, piece), partial.ended and piece.finish_reason != "abort"
        told = list[SoFar]()
        for number, (completion, ended) in found.items():
            if completion is None:
                continue
            sample = self._samples[number]
            sample.seen = max(sample.seen, len(completion.token_ids))
            beginning = completion if ended else self._continuable(completion)
            told.append(SoFar(sample=number, completion=beginning, ended=ended, resumed_at=sample.resumed_at))
        return [one for one in told if one.ended or len(one.completion.token_ids)]

    def _partials(self, request_id: str) -> Sequence[Partial]:
        try:
            return self._engine.partials(request_id)
        except DataError:  # what is refused is not kept; the request itself will raise it
            return ()

    async def run(self) -> Sampled:
        """Sample until all, or `first_k` of them, have ended. Raises what `Engine.generate` raises."""
        if self._first_k is None and not any(sample.so_far for sample in self._samples.values()):
            await self._together()
        if self._left > 0:  # an earlier delivery may have ended more than are needed
            await self._each()
        return self._result()

    async def _together(self) -> None:
        """All samples in one request, as is quickest. A swap may end it before all of them have ended."""
        numbers, whole = list(self._samples), self._request
        if len(numbers) < whole.config.num_return_sequences:
            config = whole.config.model_copy(update={"num_return_sequences": len(numbers)})
            seed = None if whole.seed is None else whole.seed + numbers[0]
            whole = replace(whole, config=config, seed=seed, first_sample=numbers[0])
        with self._runs(whole.request_id, numbers):
            completions = await self._engine.generate(whole)
        for number, completion in zip(numbers, completions, strict=True):
            self._add(self._samples[number], completion)
        if self._left:
            self.on_abort()

    async def _each(self) -> None:
        """A request for each sample that has not ended, until enough of them have."""
        over = asyncio.get_running_loop().create_future()

        def ended(task: asyncio.Task[None]) -> None:
            if over.done() or task.cancelled():
                return
            if (error := task.exception()) is not None:
                over.set_exception(error)
            elif self._left <= 0:
                over.set_result(None)

        tasks = [asyncio.create_task(self._to_its_end(one)) for one in self._samples.values() if not one.ended]
        for task in tasks:
            task.add_done_callback(ended)
        try:
            await over
            if self._running:  # these are cut: how long are they?
                await hand_over(self._engine)
                self.so_far()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _to_its_end(self, sample: _Sample) -> None:
        while not sample.ended:
            request_id = f"{self._request.request_id}/{sample.number}"
            request = rest_of(self._request, request_id, sample.number, sample.so_far)
            with self._runs(request_id, [sample.number]):
                (completion,) = await self._engine.generate(request)
            self._add(sample, completion)
            if not sample.ended:
                self.on_abort()

    @property
    def _left(self) -> int:
        """How many more must end."""
        return (self._first_k or len(self._samples)) - len(self._order)

    @contextmanager
    def _runs(self, request_id: str, numbers: Sequence[int]) -> Iterator[None]:
        self._running[request_id] = numbers
        try:
            yield
        except (EngineDiedError, asyncio.CancelledError):
            self._salvage(request_id, numbers)
            raise
        finally:
            del self._running[request_id]

    def _salvage(self, request_id: str, numbers: Sequence[int]) -> None:
        """Keep what had arrived of a request whose engine is gone; an engine that lives knows it no more."""
        for partial in self._partials(request_id):
            sample, piece = self._samples[numbers[partial.sample]], partial.completion
            sample.add(self._labelled(piece if partial.ended else replace(piece, finish_reason="abort")))

    def _take(self, number: int, kept: SoFar) -> None:
        """Go on from what was kept, but for a token at the limit or after an end: such a sample begins again."""
        completion, limit = kept.completion, self._request.config.max_new_tokens
        if number not in self._samples or len(completion.token_ids) > limit:
            return
        if not kept.ended:
            if not continues(self._request.config):
                return
            completion = self._continuable(completion)
            if not len(completion.token_ids) or ends_within(self._request, completion.token_ids):
                return
        length = len(completion.token_ids)
        self._samples[number] = _Sample(
            number=number, so_far=completion, ended=kept.ended, resumed_at=length, seen=length
        )
        if kept.ended:
            self._order.append(number)

    def _add(self, sample: _Sample, piece: Completion) -> None:
        sample.add(self._labelled(piece))
        if sample.ended:
            self._order.append(sample.number)
        elif sample.so_far is not None:
            sample.so_far = self._continuable(sample.so_far)

    def _continuable(self, completion: Completion) -> Completion:
        """Without a token at the limit, after which nothing may come: a request has at least one token left."""
        return first_of(completion, self._request.config.max_new_tokens - 1)

    def _labelled(self, piece: Completion) -> Completion:
        return piece if self._version is None else sampled_by(self._version, piece)

    def _result(self) -> Sampled:
        chosen = sorted(self._order[: self._first_k])
        resumed_at = tuple(self._samples[number].resumed_at for number in chosen)
        longest = max(self._samples[number].seen for number in chosen)
        return Sampled(
            completions=[completion for number in chosen if (completion := self._samples[number].so_far) is not None],
            samples=tuple(chosen) if len(chosen) < self._request.config.num_return_sequences else (),
            resumed_at=resumed_at if any(resumed_at) else (),
            cut_lengths=None
            if self._first_k is None
            else tuple(one.cut_length(longest) for one in self._samples.values() if one.number not in chosen),
        )


def _nothing() -> None:
    """Default of `on_abort`."""
