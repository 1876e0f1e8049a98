"""What an engine over vLLM says of requests while they run: their tokens so far, and its memory. Imports no vLLM."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ...engine import EngineInfo
from ...errors import DataError
from ...requests import Completion, GenerateRequest, KvUse, Partial
from . import translation
from .calls import Calls
from .guided.text_rules import with_forced
from .translation import Words
from .version_spans import Versions

_LOOK_S = 0.001
_TURNS = 8
"""How often the event loop goes round at most until an end that has come reaches the caller of `generate`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _SoFar:
    """A running completion, with the attributes of vLLM's `CompletionOutput`."""

    index: int
    token_ids: list[int]
    logprobs: Any
    weight_versions: Any
    text: str = ""
    finish_reason: str | None = None
    stop_reason: None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Completions of one request, as vLLM's `RequestOutput` has them."""

    outputs: list[Any]


class Partials:
    """The part of an engine over vLLM that looks at running requests. Its owner sets the attributes."""

    _llm: Any
    _calls: Calls
    _info: EngineInfo | None
    _versions: Versions
    _requests: Any
    _guides: Any
    _running: dict[str, tuple[GenerateRequest, Words]]
    """The requests of `generate` that run, by id, with what their completions are read by."""
    _last: Mapping[str, list[Partial]] = MappingProxyType({})
    """What each of them had when the engine died: vLLM's frontend lives on, and forgets a request once it ends."""

    @contextmanager
    def _readable(self, request: GenerateRequest, words: Words) -> Iterator[None]:
        """Inside this context `partials` knows the request."""
        self._calls.on_death = self._look_last
        self._running[request.request_id] = request, words
        try:
            yield
        finally:
            self._running.pop(request.request_id, None)

    def partials(self, request_id: str, /) -> list[Partial]:
        """See `Engine.partials`. The same rules as for final answers apply: a guide's end alone is not looked for."""
        if self._calls.death is not None and request_id in self._last:
            return self._last[request_id]
        start = None if self._requests is None else self._requests.starts.get(request_id)
        if start is None or self._info is None or request_id not in self._running:
            return []
        request, words = self._running[request_id]
        found = so_far(self._llm.output_processor, request_id)
        self._guides.check_ended(request.config.guided, found)
        now = time.monotonic()
        spans = [self._versions.spans(one, start, now) for one in found.outputs]
        read = translation.each(found, request, spans, words, self._info, by_us=True)
        ended = {one.index for one in found.outputs if one.finish_reason not in (None, "abort")}
        return [
            Partial(sample=sample, completion=self._forced(completion, request), ended=sample in ended)
            for sample, completion in read
        ]

    def _look_last(self) -> None:
        """Called when the engine is dead: all that has arrived of its requests was sampled by whole steps."""
        last = dict[str, list[Partial]]()
        for request_id in self._running:
            with suppress(DataError):
                last[request_id] = self.partials(request_id)
        self._last = last

    async def release(self) -> None:
        """See `Engine.release`. A request that stands still for a load was handed over when it was paused."""
        if self._calls.loading:
            return
        sampled = await self._calls.utility(self._llm.engine_core.call_utility_async("rollstream_hand_over"))
        await self._calls.utility(self._arrived(sampled))

    async def memory_use(self) -> KvUse | None:
        """See `Engine.memory_use`; None while weights are loaded, too."""
        if self._calls.loading:
            return None
        told = await self._calls.utility(self._llm.engine_core.call_utility_async("rollstream_memory_use"))
        if not told:
            return None
        used, *counts = told
        running, waiting, preemptions = map(int, counts)
        return KvUse(used=used, running=running, waiting=waiting, preemptions=preemptions)

    async def _arrived(self, sampled: Mapping[str, int]) -> None:
        """Wait until vLLM's frontend has read so many tokens of each request: its answer overtakes them."""
        states = self._llm.output_processor.request_states

        def lacks(name: str) -> bool:
            state = states.get(name)
            return state is not None and state.detokenizer.num_output_tokens() < sampled[name]

        while any(map(lacks, sampled)):  # noqa: ASYNC110 - vLLM has no event for it
            await asyncio.sleep(_LOOK_S)
        for _ in range(_TURNS):
            await asyncio.sleep(0)

    def _forced(self, completion: Completion, request: GenerateRequest) -> Completion:
        marks = None if self._info is None else self._info.thinking_marks
        return with_forced([completion], request, marks)[0]


def so_far(processor: Any, request_id: str) -> Found:
    """What vLLM's `OutputProcessor` has of a request: running ones as they are, and those that have ended."""
    states = [processor.request_states.get(name) for name in processor.external_req_ids.get(request_id, ())]
    running = [state for state in states if state is not None]
    parent = running[0].parent_req if running else None
    ended = [] if parent is None else [one for one in parent.output_aggregator if one is not None]
    goes_on = [_running(state) for state in running if not _detokenizes(state)]
    return Found(outputs=[one for one in (*ended, *goes_on) if len(one.token_ids) or one.finish_reason == "error"])


def arrived(processor: Any) -> dict[tuple[str, int], int]:
    """How many tokens of each running completion vLLM's `OutputProcessor` has, by its request and its number there."""
    states = processor.request_states
    return {
        (request_id, state.request_index): state.detokenizer.num_output_tokens()
        for request_id, names in processor.external_req_ids.items()
        for name in names
        if (state := states.get(name)) is not None and state.detokenizer is not None
    }


def _detokenizes(state: Any) -> bool:
    """Whether it looks for stop strings; only such a request has a text."""
    return hasattr(state.detokenizer, "output_text")


def _running(state: Any) -> _SoFar:
    """Its lists grow with each piece: copies are made where they are read."""
    spans = getattr(state, "_weight_version_spans", None)
    return _SoFar(
        index=state.request_index,
        token_ids=state.detokenizer.output_token_ids,
        logprobs=state.logprobs_processor.logprobs,
        weight_versions=None if spans is None else spans(),
    )
