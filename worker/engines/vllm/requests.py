"""Requests to vLLM, each run to its end, through aborting swaps and lost adapters.

Only `worker.engines.vllm.engine` imports this, after it has prepared the environment that vLLM reads at import.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from vllm.inputs import tokens_input
from vllm.lora.request import LoRARequest

from ...engine import Adapter
from . import translation
from .calls import Calls
from .gate import REFUSALS, refusal
from .loaded_adapters import LoadedAdapters
from .version_spans import Start, Versions


class Requests:
    """Runs requests in one `AsyncLLM`."""

    def __init__(self, *, llm: Any, calls: Calls, adapters: LoadedAdapters, versions: Versions) -> None:
        self._llm = llm
        self._calls = calls
        self._adapters = adapters
        self._versions = versions

    async def run(self, request_id: str, prompt: list[int], params: Any, adapter: Adapter | None) -> tuple[Any, Start]:
        """The final `RequestOutput` and the request's start. Raises `DataError`, `EngineDiedError`.

        A request that a swap aborted is started again as a whole: only the short samples would have ended under the old
        weights, and keeping these would favour short completions.
        """
        return await self._calls.answer(self._run(request_id, prompt, params, adapter))

    async def _run(self, request_id: str, prompt: list[int], params: Any, adapter: Adapter | None) -> tuple[Any, Start]:
        while True:
            if adapter is not None:
                await self._adapters.load(adapter)  # a swap may have lost it
            start = self._versions.start(time.monotonic())
            with self._adapters.in_use(request_id, adapter):
                output = await self._request(request_id, prompt, params, adapter)
                self._adapters.refuse_lost(request_id)
            if not (translation.aborted(output) and self._versions.aborted(start)):
                return output, start

    async def _request(self, request_id: str, prompt: list[int], params: Any, adapter: Adapter | None) -> Any:
        output = None
        try:
            lora = None if adapter is None else lora_request(adapter)
            async for latest in self._llm.generate(tokens_input(prompt), params, request_id, lora_request=lora):
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
