"""Requests to vLLM, each run to its end, through aborting swaps and lost adapters.

Only `worker.engines.vllm.engine` imports this, after it has prepared the environment that vLLM reads at import.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from vllm.inputs import tokens_input
from vllm.lora.request import LoRARequest

from ...errors import adapter_refused
from ...requests import Adapter, Expanded, ScoreRequest, Scores
from . import translation
from .calls import Calls
from .gate import REFUSALS, passed_gate, refusal
from .loaded_adapters import LoadedAdapters
from .scores import score_fields, scores
from .version_spans import Start, Versions


class Requests:
    """Runs requests in one `AsyncLLM`."""

    def __init__(self, *, llm: Any, calls: Calls, adapters: LoadedAdapters, versions: Versions) -> None:
        self._llm = llm
        self._calls = calls
        self._adapters = adapters
        self._versions = versions
        self.starts: dict[str, Start] = {}
        """When each request that runs was handed to vLLM, the last time."""

    async def run(
        self,
        request_id: str,
        prompt: list[int],
        params: Any,
        adapter: Adapter | None,
        *,
        goes_on: bool = False,
        images: Expanded | None = None,
    ) -> tuple[Any, Start]:
        """The final `RequestOutput` and the request's start. Raises `DataError`, `EngineDiedError`.

        A request that a swap aborted is started again as a whole, unless its caller goes on with all of its samples:
        only the short ones would have ended under the old weights, and keeping these would favour short completions.
        """
        try:
            fed = tokens_input(prompt) if images is None else images.fed.with_ids(prompt)
            return await self._calls.answer(self._run(request_id, fed, params, adapter, goes_on=goes_on))
        finally:
            self.starts.pop(request_id, None)

    async def score(self, request: ScoreRequest) -> Scores:
        """See `Engine.score`. Raises `DataError`, `EngineDiedError`."""
        row, params = request.token_ids, passed_gate(request.token_ids, score_fields(request))
        while True:
            output, start = await self.run(request.request_id, row, params, request.adapter, images=request.images)
            if not self._versions.crossed(start):
                return scores(output, request, self._versions.first(start))

    async def score_alone(self, request: ScoreRequest, version: int) -> Scores:
        """Score a row under the weights of `version` that prove themselves; no swap can come in between."""
        if request.adapter is not None:
            raise adapter_refused(request.adapter.name, "a probe is scored by the model alone")
        row, params = request.token_ids, passed_gate(request.token_ids, score_fields(request))
        output, _ = await self.run(request.request_id, row, params, None)
        return scores(output, request, version)

    async def _run(
        self, request_id: str, prompt: Any, params: Any, adapter: Adapter | None, *, goes_on: bool
    ) -> tuple[Any, Start]:
        while True:
            if adapter is not None:
                await self._adapters.load(adapter)  # a swap may have lost it
            self.starts[request_id] = start = self._versions.start(time.monotonic(), request_id)
            with self._adapters.in_use(request_id, adapter):
                output = await self._request(request_id, prompt, params, adapter)
                self._adapters.refuse_lost(request_id)
            if translation.aborted(output) and not self._versions.aborted(start):
                translation.check_sampled(output)
            elif goes_on or not translation.aborted(output):
                return output, start

    async def _request(self, request_id: str, prompt: Any, params: Any, adapter: Adapter | None) -> Any:
        output = None
        try:
            lora = None if adapter is None else lora_request(adapter)
            async for latest in self._llm.generate(prompt, params, request_id, lora_request=lora):
                output = latest
        except asyncio.CancelledError:
            if self._calls.death is None:
                # vLLM issue 57061: a request that is cancelled while it is being added goes on running.
                await self._llm.abort(request_id)
            raise
        except REFUSALS as error:
            if self._llm.errored:
                raise self._calls.died("it failed while a request was added") from error
            raise refusal(error.__cause__ or error) from error
        return output


def lora_request(adapter: Adapter) -> LoRARequest:
    """vLLM's request for an adapter.

    vLLM tells adapters and cached KV blocks apart by name, so new content under an old name needs another one here.
    """
    name = f"{adapter.name}#{adapter.int_id}"
    return LoRARequest(lora_name=name, lora_int_id=adapter.int_id, lora_path=str(adapter.path))
